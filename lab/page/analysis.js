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
function listKinds(model) {
  return ["encoder", "decoder", "cross"].filter(kind => kind in model.means);
}

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
   answerLength + 1 tokens. Also returns the logits, one row per token of the last input sequence. For each
   kind and layer, it returns the queries, keys, values and weights[head], (T, S). */
function ask(model, content, answerLength, parts, mode) {
  const {architecture, vocab_size} = model.config, pass = {model, cuts: makeCuts(model, parts, mode), trace: {}};
  let answer = Array(answerLength).fill(MASK);
  if (architecture !== "encoder") answer = generate(pass, [START, ...content, END], answerLength + 1);
  const read = answer.at(-1) === END ? answer.slice(0, -1) : answer.slice(0, answerLength);
  const {inputs} = makeInputsAndTargets(architecture, content, read);   // the last token is never an input
  const logits = splitRows(forward(pass, inputs.map(tokens => [tokens])), vocab_size);
  if (architecture === "encoder") {
    answer = logits.slice(1, answerLength + 2).map(argmax);
    answer = answer.slice(0, answer.indexOf(END) + 1 || undefined);
  }
  return {answer, inputs, logits, trace: pass.trace};
}

/** Measure which sequences are still correct after cuts, a few at a time, so that the page stays responsive.

    sequences are {inputs, targets}; report(id, correct) is called for each job with a list of booleans. The
    newest urgent job comes first, and an older, unfinished one is dropped. */
class Scorer {
  constructor(model, sequences, report) {
    Object.assign(this, {model, report, count: sequences.length, batches: [], jobs: [], urgent: null});
    this.channel = new MessageChannel();                    // a message is quicker than a timeout
    const tokens = ({inputs}) => inputs.flat().length, rows = [...sequences.keys()];
    rows.sort((one, other) => tokens(sequences[one]) - tokens(sequences[other]));
    for (let i = 0; i < rows.length; i += 8) {
      const some = rows.slice(i, i + 8), chosen = some.map(row => sequences[row]);
      const inputs = chosen[0].inputs.map((_, side) => chosen.map(sequence => sequence.inputs[side]));
      const targets = chosen.map(sequence => sequence.targets);
      this.batches.push({rows: some, inputs, targets, kept: new Map()});
    }
  }

  add(id, parts, mode, urgent) {
    const cuts = makeCuts(this.model, parts, mode), correct = Array(this.count).fill(false);
    const job = {id, cuts, correct, next: 0};
    if (urgent) this.urgent = job;
    else this.jobs.push(job);
    if (!this.working) this.work();
  }

  async work() {
    this.working = true;
    while (this.urgent ?? this.jobs[0]) {
      const job = this.urgent ?? this.jobs[0];
      const batch = this.batches[job.next++];
      if (batch) this.judge(batch, job);                    // there may be fewer than workers
      if (job.next >= this.batches.length) {
        if (job === this.urgent) this.urgent = null;
        else this.jobs.shift();
        this.report(job.id, job.correct);
      }
      await new Promise(resolve => {
        this.channel.port1.onmessage = resolve;
        this.channel.port2.postMessage(null);
      });
    }
    this.working = false;
  }

  judge({rows, inputs, targets, kept}, {cuts, correct}) {
    const {model} = this;
    if (!kept.size) forward({model, cuts: new Map(), kept}, inputs);
    const predictions = splitRows(forward({model, cuts, kept}, inputs), model.config.vocab_size).map(argmax);
    let first = 0;                                          // row of a sequence
    targets.forEach((tokens, n) => {
      correct[rows[n]] = tokens.every((token, i) => [PAD, START, predictions[first + i]].includes(token));
      first += tokens.length;
    });
  }
}

/** A worker's loop: build the model and a Scorer, then take jobs and post back the results. */
function serve(scope) {
  let scorer = null;
  scope.onmessage = ({data: {spec, numbers, sequences, job}}) => {
    if (job) scorer.add(...job);
    else scorer = new Scorer(buildModel(spec, numbers), sequences, (...report) => scope.postMessage(report));
  };
}
