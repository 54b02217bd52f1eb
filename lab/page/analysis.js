/* Run the model, cut its heads and measure the remaining accuracy, like train.py and lab/. */
"use strict";

/** Decode base64 numbers: float32, or float16 with finite values only. */
function decodeNumbers(base64, format) {
  const text = atob(base64.trim()), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  if (format === "float32") return new Float64Array(new Float32Array(bytes.buffer));
  const halves = new Uint16Array(bytes.buffer), bits = new Uint32Array(halves.length);
  for (let i = 0; i < bits.length; i++) bits[i] = (halves[i] & 0x8000) << 16 | (halves[i] & 0x7fff) << 13;
  const numbers = new Float64Array(new Float32Array(bits.buffer));
  for (let i = 0; i < numbers.length; i++) numbers[i] *= 2 ** 112;        // the exponent bias differs
  return numbers;
}

/** The model from {config, tensors: [[name, size], …]} and all values, one tensor after another. */
function buildModel({config, tensors}, numbers) {
  const model = {config};
  let at = 0;
  for (const [name, size] of tensors) {
    const path = name.split(".");
    let part = model;
    path.slice(0, -1).forEach((word, i) => {
      part = part[word] ??= /^\d/.test(path[i + 1]) ? [] : {name: path.slice(0, i + 1).join(".")};
    });
    part[path.at(-1)] = numbers.subarray(at, at += size);
  }
  return model;
}

/** The model's kinds of attention, in the order "encoder", "decoder", "cross". */
const listKinds = model => ["encoder", "decoder", "cross"].filter(kind => kind in model.means);

/** All heads [kind, layer, head] of a part, which may be all attention [], a kind, a layer or a head. */
function listHeads(model, part = []) {
  const heads = listKinds(model).flatMap(kind => model.means[kind].flatMap(
    (means, layer) => means.map((_, head) => [kind, layer, head])));
  const chosen = heads.filter(head => part.every((word, i) => word === head[i]));
  if (!chosen.length || part.length > 3) throw new Error(`the model has no part [${part.join(", ")}]`);
  return chosen;
}

/** The cuts of a pass: the replacements for the outputs of all heads in these parts. */
function makeCuts(model, parts, mode = "zero") {
  return new Map(parts.flatMap(part => listHeads(model, part)).map(([kind, layer, head]) => {
    const mean = model.means[kind][layer][head];
    return [keyOf([kind, layer, head]), mode === "mean" ? mean : new Float64Array(mean.length)];
  }));
}

/** Run the model on one question. Returns its inputs, and its answer up to and including END, with at most
   answerLength + 1 tokens. Also returns the logits, one row per token of the last input sequence, and which
   row is the answer's first. For each kind and layer, it returns the queries, keys, values and weights[head],
   (T, S).

   A generating model writes all tokens at once and reads what it has written, until nothing changes. Each
   pass makes at least one more token that of greedy decoding (Jacobi decoding, Santilli et al. 2023). */
function ask(model, content, answerLength, parts, mode) {
  const {architecture, vocab_size} = model.config, cuts = makeCuts(model, parts, mode);
  const sources = [makeSource(model.config, content)];
  const first = {encoder: 1, decoder: sources[0].length - 1, "encoder-decoder": 0}[architecture];
  const blank = Array(answerLength).fill(MASK), generates = architecture !== "encoder";
  const pass = {model, cuts, trace: {}};
  const memory = architecture === "encoder-decoder" && encode(pass, sources);
  for (let read = blank, next; ; read = next) {
    const {inputs} = makeInputsAndTargets(model.config, content, read), batch = [inputs.at(-1)];
    const flat = memory ? decode(pass, batch, memory, sources) : miniTransformer(pass, batch);
    const logits = splitRows(flat, vocab_size);
    const answer = logits.slice(first, first + answerLength + 1).map(argmax);
    const end = answer.findIndex(token => token === END || generates && token === PAD);
    next = end < 0 ? [...answer, ...blank].slice(0, answerLength) : answer.slice(0, end);
    if (generates && next.join() !== read.join()) continue;
    const length = end < 0 ? answer.length : answer[end] === END ? end + 1 : end;
    return {answer: answer.slice(0, length), inputs, logits, first, trace: pass.trace};
  }
}

/** Group sequences {inputs, targets} of similar lengths by eight, so that a worker is never busy for long. */
function makeBatches(sequences) {
  const tokens = row => sequences[row].inputs.flat().length;
  const rows = [...sequences.keys()].sort((one, other) => tokens(one) - tokens(other)), batches = [];
  for (let i = 0; i < rows.length; i += 8) {
    const some = rows.slice(i, i + 8), chosen = some.map(row => sequences[row]);
    const inputs = chosen[0].inputs.map((_, side) => chosen.map(sequence => sequence.inputs[side]));
    batches.push({rows: some, inputs, targets: chosen.map(({targets}) => targets), kept: new Map()});
  }
  return batches;
}

/** Note in `correct` which sequences of a batch the model gets right after cuts. */
function judge(model, {rows, inputs, targets, kept}, {cuts, correct}) {
  if (!kept.size) forward({model, cuts: new Map(), kept}, inputs);
  const predictions = splitRows(forward({model, cuts, kept}, inputs), model.config.vocab_size).map(argmax);
  let first = 0;                                            // row of a sequence
  targets.forEach((tokens, n) => {
    correct[rows[n]] = tokens.every((token, i) => [PAD, START, predictions[first + i]].includes(token));
    first += tokens.length;
  });
}

/** A worker: it receives a model and sequences, then jobs [id, parts, mode, isUrgent], and posts [id,
    correct]. The newest urgent job comes first, and an older, unfinished one is dropped. */
function serve(scope) {
  const {port1, port2} = new MessageChannel();              // a message is quicker than a timeout
  let model, batches, jobs = [];
  port1.onmessage = () => {
    const [job] = jobs, batch = batches[job.next++];
    if (batch) judge(model, batch, job);                    // there may be fewer than workers
    if (job.next >= batches.length) {
      jobs = jobs.filter(other => other !== job);
      scope.postMessage([job.id, job.correct]);
    }
    if (jobs.length) port2.postMessage(null);
  };
  scope.onmessage = ({data: {spec, numbers, sequences, job}}) => {
    if (spec) [model, batches] = [buildModel(spec, numbers), makeBatches(sequences)];
    if (!job) return;
    const [id, parts, mode, isUrgent] = job, isIdle = !jobs.length;
    const added = {id, isUrgent, cuts: makeCuts(model, parts, mode), correct: [], next: 0};
    jobs = isUrgent ? [added, ...jobs.filter(other => !other.isUrgent)] : [...jobs, added];
    if (isIdle) port2.postMessage(null);
  };
}
