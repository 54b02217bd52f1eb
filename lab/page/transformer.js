/* The Transformer from transformer.py in plain JavaScript, in the same order and with the same names.

   Read transformer.py first; comments here cover only the differences. There is no PAD: sequences of any
   length are concatenated. `starts` gives the first row of each, followed by the total number of rows.
   Weights keep PyTorch's names and shapes: model.blocks[0].attention.query_projection.weight is (D, D).

   A pass is {model, cuts}, plus anything a caller adds. cuts maps "kind.layer.head" to the replacement for
   that head's output. kept caches results. trace collects queries, keys, values and weights. */
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

/** softmax(QKᵀ/√Dh)·V in each sequence and head. Returns the mixture, and weights[sequence][head], (T, S).

    If causal, each of the T queries sees the keys up to its own position. */
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
        const seen = causal ? t + 1 : S, q = (first + t) * width + head * size;
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
  const {kept, trace, model: {config}} = pass, causal = kind === "decoder";
  const key = once(kept, `${name} key`, [memory], () => linear(key_projection, memory));
  const value = once(kept, `${name} value`, [memory], () => linear(value_projection, memory));
  const mixture = once(kept, `${name} mixture`, [x, key, value], () => {
    const query = linear(query_projection, x);
    const read = scaledDotProductAttention(query, key, value, starts, memoryStarts, config.num_heads, causal);
    if (trace) (trace[kind] ??= [])[layer] = {query, key, value, weights: read.weights[0]};
    return read.mixture;
  });
  const outputs = replaceOutputs(pass, mixture, kind, layer);
  return once(kept, `${name} output`, [outputs], () => linear(output_projection, outputs));
}

/** Token vectors plus positions. */
function embed({model}, sequences) {
  const {d_model} = model.config, {weight} = model.embedding, {encoding} = model.positional_encoding;
  const x = new Float64Array(sequences.reduce((sum, tokens) => sum + tokens.length, 0) * d_model);
  let at = 0;
  for (const tokens of sequences) {
    tokens.forEach((token, position) => {
      for (let d = 0; d < d_model; d++) {
        x[at++] = weight[token * d_model + d] + encoding[position * d_model + d];
      }
    });
  }
  return x;
}

/** Process each row separately. */
function feedForward({model, kept}, {expand, contract, name}, x) {
  const activation = ACTIVATIONS[model.config.activation];
  return once(kept, name, [x], () => linear(contract, activation(linear(expand, x))));
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
function miniTransformer(pass, sequences) {
  const {model, kept} = pass;
  let x = once(kept, "embedding", [sequences], () => embed(pass, sequences));
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

/** Encoder–decoder: targets → logits. */
function decode(pass, targets, memory, sources) {
  const {model, kept} = pass;
  let x = once(kept, "target", [targets], () => embed(pass, targets));
  x = runBlocks(pass, model.decoder_blocks, "decoder", x, rowOffsets(targets), memory, rowOffsets(sources));
  return linear(model.output_projection, layerNorm(model.decoder_norm, x));
}

/** inputs is [sequences], or [sources, targets] for an encoder–decoder → logits of the last. */
function forward(pass, inputs) {
  return inputs.length === 1 ? miniTransformer(pass, inputs[0])
    : decode(pass, inputs[1], encode(pass, inputs[0]), inputs[0]);
}
