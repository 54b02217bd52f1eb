/* The Transformer from transformer.py in plain JavaScript, in the same order and with the same names.

   Read transformer.py first; comments here cover only the differences. Matrices are flat, row-major
   Float64Arrays, because JavaScript is fastest in double precision. There is no PAD: sequences of any length
   are concatenated. `starts` gives the first row of each, followed by the total number of rows. Weights keep
   PyTorch's names and shapes: model.blocks[0].attention.query_projection.weight is (D, D).

   A pass is {model, cuts}, plus anything a caller adds. cuts maps "kind.layer.head" to the replacement for
   that head's output. kept caches results. trace collects queries, keys, values and weights. past holds the
   keys and values of earlier tokens. */
"use strict";

const PAD = 0, START = 1, END = 2;
const keyOf = part => part.join(".");                       // [kind, layer, head] → "kind.layer.head"

/** Memoise compute() on these very arrays, so that anything unaffected by a cut is not recomputed. */
function once(kept, name, inputs, compute) {
  const earlier = kept?.get(name);
  if (earlier && inputs.every((input, i) => input === earlier.inputs[i])) return earlier.output;
  const output = compute();
  if (kept && !earlier) kept.set(name, {inputs, output});
  return output;
}

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

/** softmax(QKᵀ/√Dh)·V in each sequence and head. Returns the mixture, and weights[sequence][head], (T, S).

    If causal, the last of the T queries sees all S keys, the one before it one fewer, and so on. */
function scaledDotProductAttention(query, key, value, starts, memoryStarts, numHeads, causal) {
  const width = query.length / starts.at(-1), size = width / numHeads, scale = Math.sqrt(size);
  const mixture = new Float64Array(query.length), weights = [];
  for (let n = 0; n + 1 < starts.length; n++) {
    const first = starts[n], T = starts[n + 1] - first;
    const memoryFirst = memoryStarts[n], S = memoryStarts[n + 1] - memoryFirst;
    weights.push([]);
    for (let head = 0; head < numHeads; head++) {
      const rows = new Float64Array(T * S);
      for (let t = 0; t < T; t++) {
        const seen = causal ? S - T + t + 1 : S, q = (first + t) * width + head * size;
        let largest = -Infinity, sum = 0;
        for (let s = 0; s < seen; s++) {
          const k = (memoryFirst + s) * width + head * size;
          let score = 0;
          for (let d = 0; d < size; d++) score += query[q + d] * key[k + d];
          rows[t * S + s] = score / scale;
          largest = Math.max(largest, rows[t * S + s]);
        }
        for (let s = 0; s < seen; s++) sum += rows[t * S + s] = Math.exp(rows[t * S + s] - largest);
        for (let s = 0; s < seen; s++) {
          const weight = rows[t * S + s] /= sum, v = (memoryFirst + s) * width + head * size;
          for (let d = 0; d < size; d++) mixture[q + d] += weight * value[v + d];
        }
      }
      weights[n].push(rows);
    }
  }
  return {mixture, weights};
}

/** Append the keys or values of the new tokens to those of earlier tokens. */
function appendPast(past, name, x) {
  const before = past.get(name) ?? new Float64Array(0), all = new Float64Array(before.length + x.length);
  all.set(before);
  all.set(x, before.length);
  past.set(name, all);
  return all;
}

/** Replace the outputs of cut heads with zeros or the head's mean; return the same array if none is cut. */
function replaceOutputs({model, cuts}, mixture, kind, layer) {
  const {num_heads, d_model} = model.config, size = d_model / num_heads;
  let outputs = mixture;
  for (let head = 0; head < num_heads; head++) {
    const replacement = cuts.get(keyOf([kind, layer, head]));
    if (!replacement) continue;
    if (outputs === mixture) outputs = mixture.slice();
    for (let row = head * size; row < outputs.length; row += d_model) outputs.set(replacement, row);
  }
  return outputs;
}

/** Let each row of x attend to memory; in self-attention, memory is x itself. */
function multiHeadAttention(pass, attention, kind, layer, x, starts, memory = x, memoryStarts = starts) {
  const {query_projection, key_projection, value_projection, output_projection, name} = attention;
  const {kept, past, trace, model: {config}} = pass, causal = kind === "decoder";
  let key = once(kept, `${name} key`, [memory], () => linear(key_projection, memory));
  let value = once(kept, `${name} value`, [memory], () => linear(value_projection, memory));
  if (past && causal) {
    key = appendPast(past, `${name} key`, key);
    value = appendPast(past, `${name} value`, value);
    memoryStarts = [0, key.length / config.d_model];
  }
  const mixture = once(kept, `${name} mixture`, [x, key, value], () => {
    const query = linear(query_projection, x);
    const read = scaledDotProductAttention(query, key, value, starts, memoryStarts, config.num_heads, causal);
    if (trace) ((trace[kind] ??= [])[layer] ??= []).push({query, key, value, weights: read.weights[0]});
    return read.mixture;
  });
  const outputs = replaceOutputs(pass, mixture, kind, layer);
  return once(kept, `${name} output`, [outputs], () => linear(output_projection, outputs));
}

/** Token vectors plus positions. Generated tokens come one by one: `from` is the position of the first. */
function embed({model}, sequences, from = 0) {
  const {d_model} = model.config, {weight} = model.embedding, {encoding} = model.positional_encoding;
  const x = new Float64Array(sequences.reduce((sum, tokens) => sum + tokens.length, 0) * d_model);
  let at = 0;
  for (const tokens of sequences) {
    tokens.forEach((token, position) => {
      for (let d = 0; d < d_model; d++) {
        x[at++] = weight[token * d_model + d] + encoding[(from + position) * d_model + d];
      }
    });
  }
  return x;
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

/** Process each row separately. */
function feedForward({model, kept}, {expand, contract, name}, x) {
  const activation = ACTIVATIONS[model.config.activation];
  return once(kept, name, [x], () => linear(contract, activation(linear(expand, x))));
}

function addVectors(x, y) {
  const z = x.slice();
  for (let i = 0; i < z.length; i++) z[i] += y[i];
  return z;
}

/** x plus the sublayer's output, with the norm before the sublayer or, as in the paper, after the sum. */
function applySublayer({model, kept}, x, norm, sublayer) {
  const normed = x => once(kept, norm.name, [x], () => layerNorm(norm, x));
  const made = sublayer(model.config.norm_first ? normed(x) : x);
  const after = once(kept, `${norm.name} sum`, [x, made], () => addVectors(x, made));
  return model.config.norm_first ? after : normed(after);
}

/** Run a stack of blocks, one after another. */
function runBlocks(pass, blocks, kind, x, starts, memory, memoryStarts) {
  blocks.forEach((block, layer) => {
    const {attention, cross_attention, feed_forward} = block;
    x = applySublayer(pass, x, block.attention_norm,
      x => multiHeadAttention(pass, attention, kind, layer, x, starts));
    if (cross_attention) {
      x = applySublayer(pass, x, block.cross_attention_norm,
        x => multiHeadAttention(pass, cross_attention, "cross", layer, x, starts, memory, memoryStarts));
    }
    x = applySublayer(pass, x, block.feed_forward_norm, x => feedForward(pass, feed_forward, x));
  });
  return x;
}

/** Return the first row of each sequence, and the total number of rows. */
function rowOffsets(sequences) {
  return sequences.reduce((starts, tokens) => [...starts, starts.at(-1) + tokens.length], [0]);
}

/** Encoder and decoder: sequences of tokens → logits, one row of V per token. */
function miniTransformer(pass, sequences, from = 0) {
  const {model, kept} = pass;
  let x = once(kept, "embedding", [sequences], () => embed(pass, sequences, from));
  x = runBlocks(pass, model.blocks, model.config.architecture, x, rowOffsets(sequences));
  return linear(model.output_projection, layerNorm(model.final_norm, x));
}

/** Encoder–decoder: sources → the encoder's output, for the decoder to attend to. */
function encode(pass, sources) {
  const {model, kept} = pass;
  let x = once(kept, "source", [sources], () => embed(pass, sources));
  x = runBlocks(pass, model.encoder_blocks, "encoder", x, rowOffsets(sources));
  return once(kept, "memory", [x], () => layerNorm(model.encoder_norm, x));
}

/** Encoder–decoder: targets, with their first token at position `from` → logits. */
function decode(pass, targets, memory, sources, from = 0) {
  const {model, kept} = pass;
  let x = once(kept, "target", [targets], () => embed(pass, targets, from));
  x = runBlocks(pass, model.decoder_blocks, "decoder", x, rowOffsets(targets), memory, rowOffsets(sources));
  return linear(model.output_projection, layerNorm(model.decoder_norm, x));
}

/** inputs is [sequences], or [sources, targets] for an encoder–decoder → logits of the last. */
function forward(pass, inputs) {
  return inputs.length === 1 ? miniTransformer(pass, inputs[0])
    : decode(pass, inputs[1], encode(pass, inputs[0]), inputs[0]);
}

function splitRows(numbers, width) {
  return Array.from({length: numbers.length / width}, (_, i) => numbers.subarray(i * width, (i + 1) * width));
}

/** The token with the largest logit; ties go to the first. */
function argmax(logits) {
  return logits.reduce((best, logit, token) => logit > logits[best] ? token : best, 0);
}

/** Greedy decoding of one source, [START, …, END]: the answer of at most maxNewTokens tokens, including END,
   and the logits at each input token. */
function generate({model, cuts, trace}, source, maxNewTokens) {
  const pass = {model, cuts, trace, past: new Map(), kept: new Map()}, answer = [], logits = [];
  const isEncoderDecoder = model.config.architecture === "encoder-decoder";
  const memory = isEncoderDecoder ? encode({model, cuts, trace}, [source]) : null;
  let fresh = isEncoderDecoder ? [START] : source, from = 0;    // tokens not yet processed
  while (answer.length < maxNewTokens && answer.at(-1) !== END) {
    const newLogits = isEncoderDecoder
      ? decode(pass, [fresh], memory, [source], from) : miniTransformer(pass, [fresh], from);
    logits.push(...splitRows(newLogits, model.config.vocab_size));
    const token = argmax(logits.at(-1));
    if (token === PAD) break;
    answer.push(token);
    from += fresh.length;
    fresh = [token];
  }
  return {answer, logits};
}
