/* The functions on matrices that the Transformer is made of. Matrices are flat, row-major Float64Arrays,
   because JavaScript is fastest in double precision. */
"use strict";

function splitRows(numbers, width) {
  return Array.from({length: numbers.length / width}, (_, i) => numbers.subarray(i * width, (i + 1) * width));
}

/** The token with the largest logit; ties go to the first. */
function argmax(logits) {
  return logits.reduce((best, logit, token) => logit > logits[best] ? token : best, 0);
}

/** Turn logits into probabilities. */
function softmax(logits) {
  const largest = Math.max(...logits), powers = [...logits].map(logit => Math.exp(logit - largest));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map(power => power / sum);
}

function addVectors(x, y) {
  const z = x.slice();
  for (let i = 0; i < z.length; i++) z[i] += y[i];
  return z;
}

/** A post-norm model has no final norm, so x is returned unchanged. */
function layerNorm(norm, x) {
  if (!norm) return x;
  const {weight, bias} = norm, width = weight.length, y = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    let mean = 0, variance = 0;
    for (let d = 0; d < width; d++) mean += x[row + d];
    mean /= width;
    for (let d = 0; d < width; d++) variance += (x[row + d] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / width + 1e-5);
    for (let d = 0; d < width; d++) y[row + d] = (x[row + d] - mean) * scale * weight[d] + bias[d];
  }
  return y;
}

/** The error function used by GELU, accurate to 1.5e-7 (Abramowitz & Stegun 1964, formula 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = ((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736;
  return Math.sign(x) * (1 - (series * t + 0.254829592) * t * Math.exp(-x * x));
}

/** x is changed in place, because it is not needed elsewhere. */
const ACTIVATIONS = {
  relu(x) {
    for (let i = 0; i < x.length; i++) x[i] = Math.max(0, x[i]);
    return x;
  },
  gelu(x) {
    for (let i = 0; i < x.length; i++) x[i] *= (1 + erf(x[i] / Math.SQRT2)) / 2;
    return x;
  },
};

/** x·Wᵀ + b, in blocks of four rows by four outputs, so that every number fetched is used four times. */
function linear({weight, bias}, x) {
  const outs = bias.length, width = weight.length / outs, rows = x.length / width;
  const y = new Float64Array(rows * outs);
  for (let o0 = 0; o0 < outs; o0 += 4) {                    // at the edge, the last output is repeated
    const o1 = Math.min(o0 + 1, outs - 1), o2 = Math.min(o0 + 2, outs - 1), o3 = Math.min(o0 + 3, outs - 1);
    const w0 = o0 * width, w1 = o1 * width, w2 = o2 * width, w3 = o3 * width;
    const b0 = bias[o0], b1 = bias[o1], b2 = bias[o2], b3 = bias[o3];
    let row = 0;
    for (; row + 4 <= rows; row += 4) {
      const x0 = row * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
      let s00 = b0, s01 = b1, s02 = b2, s03 = b3, s10 = b0, s11 = b1, s12 = b2, s13 = b3;
      let s20 = b0, s21 = b1, s22 = b2, s23 = b3, s30 = b0, s31 = b1, s32 = b2, s33 = b3;
      for (let k = 0; k < width; k++) {
        const a = x[x0 + k], b = x[x1 + k], c = x[x2 + k], d = x[x3 + k];
        const p = weight[w0 + k], q = weight[w1 + k], r = weight[w2 + k], s = weight[w3 + k];
        s00 += a * p; s01 += a * q; s02 += a * r; s03 += a * s;
        s10 += b * p; s11 += b * q; s12 += b * r; s13 += b * s;
        s20 += c * p; s21 += c * q; s22 += c * r; s23 += c * s;
        s30 += d * p; s31 += d * q; s32 += d * r; s33 += d * s;
      }
      const y0 = row * outs, y1 = y0 + outs, y2 = y1 + outs, y3 = y2 + outs;
      y[y0 + o0] = s00; y[y0 + o1] = s01; y[y0 + o2] = s02; y[y0 + o3] = s03;
      y[y1 + o0] = s10; y[y1 + o1] = s11; y[y1 + o2] = s12; y[y1 + o3] = s13;
      y[y2 + o0] = s20; y[y2 + o1] = s21; y[y2 + o2] = s22; y[y2 + o3] = s23;
      y[y3 + o0] = s30; y[y3 + o1] = s31; y[y3 + o2] = s32; y[y3 + o3] = s33;
    }
    for (; row < rows; row++) {                             // the remaining rows, one by one
      const x0 = row * width, y0 = row * outs;
      let s0 = b0, s1 = b1, s2 = b2, s3 = b3;
      for (let k = 0; k < width; k++) {
        const a = x[x0 + k];
        s0 += a * weight[w0 + k]; s1 += a * weight[w1 + k];
        s2 += a * weight[w2 + k]; s3 += a * weight[w3 + k];
      }
      y[y0 + o0] = s0; y[y0 + o1] = s1; y[y0 + o2] = s2; y[y0 + o3] = s3;
    }
  }
  return y;
}
