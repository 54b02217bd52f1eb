/* Measurements on the unseen sequences, made by workers, and the page's self-check against PyTorch. */
"use strict";

const contents = [...new Set(data.unseen.map(([content]) => content.join()))];      // each distinct one once
const sequences = contents.map(
  content => makeInputsAndTargets(architecture, content.split(",").map(Number), known.get(content)));
const indices = data.unseen.map(([content]) => contents.indexOf(content.join()));    // index among those
const workerCount = Math.max(2, Math.min(4, navigator.hardwareConcurrency));        // each takes a part
const workers = [], partial = {}, correctByJob = {};        // by job: workers' results; which are correct
let measuring = null;                                       // the state being measured

/** Start the workers or, if there are none, do their work here while the page is idle. */
function startWorkers() {
  const code = new Blob([byId("engine").textContent, "\nserve(self);"], {type: "text/javascript"});
  for (let number = 0; number < workerCount; number++) {
    const take = message => takeResult(number, ...message);
    let worker;
    try {
      worker = new Worker(URL.createObjectURL(code));
      worker.onmessage = event => take(event.data);
    } catch {
      const scope = {postMessage: take};
      serve(scope);
      worker = {postMessage: message => scope.onmessage({data: message})};
    }
    const {config, tensors} = data;
    const some = sequences.filter((_, i) => i % workerCount === number);
    worker.postMessage({spec: {config, tensors}, numbers, sequences: some});
    workers.push(worker);
  }
}

function takeResult(number, job, flags) {
  const all = partial[job] ??= {};
  all[number] = flags;
  if (Object.keys(all).length < workerCount) return;
  delete partial[job];
  correctByJob[job] = indices.map(index => all[index % workerCount][Math.floor(index / workerCount)]);
  compareCuts(job);
  if (job === jobOf(state.mode, state.cut)) renderScore();
}

const jobOf = (mode, heads) => `${mode}: ${[...heads].sort().join(" ")}`;
const fractionOf = flags => flags.filter(Boolean).length / flags.length;

/** Have the current cuts measured ahead of the workers' other jobs. */
function measure() {
  const job = jobOf(state.mode, state.cut);
  if (correctByJob[job] || job === measuring || !workers.length) return;
  measuring = job;
  for (const worker of workers) worker.postMessage({job: [job, state.cut.map(partOf), state.mode, true]});
}

function renderScore() {
  const flags = correctByJob[jobOf(state.mode, state.cut)];
  const what = state.cut.length ? `Without ${describeCuts()}` : "Nothing is cut";
  byId("exact").textContent =
    `${what}: ${flags ? percent(fractionOf(flags)) : "…"} of ${indices.length} unseen sequences are correct`;
  byId("lengths").classList.toggle("stale", !flags);
  byId("ask-wrong").disabled = !flags?.includes(false);
  if (!flags) return;
  const lengths = data.unseen.map(([content]) => content.length), distinct = [...new Set(lengths)];
  byId("lengths").replaceChildren(...distinct.sort((one, other) => one - other).map(length => {
    const fraction = fractionOf(flags.filter((_, i) => lengths[i] === length));
    return element("li", {title: `length ${length}: ${percent(fraction)} correct`},
      percent(fraction), element("span", {className: "bar", "--p": fraction}), String(length));
  }));
}

/** Show the next unseen sequence that the model gets wrong after the current cuts. */
function askWrong() {
  const flags = correctByJob[jobOf(state.mode, state.cut)], wrong = data.unseen.filter((_, i) => !flags[i]);
  const at = wrong.findIndex(([content]) => content.join() === state.content.join());
  write(textOf(wrong[(at + 1) % wrong.length][0]));
}

// ---------------------------------------------------------------- the page checks itself

const DIFFERS = "This page's results differ from PyTorch's. If you changed transformer.py, make the same "
  + "change in lab/page/transformer.js and run python visualize.py again.";
const agreement = {logits: 0, cuts: new Map()};             // the largest difference; whether each row agrees
const rowsByJob = new Map();                                // parts with the same heads are measured once
data.ablations.forEach(([part], row) => {
  const job = jobOf("zero", listHeads(model, part).map(keyOf));
  rowsByJob.set(job, [...rowsByJob.get(job) ?? [], row]);
});

/** Find the largest difference between the page's logits and PyTorch's, which are embedded in it. */
async function compareLogits() {
  for (const {inputs, without, mode, logits} of data.checks) {
    await new Promise(resolve => setTimeout(resolve));      // one at a time: the page stays responsive
    const theirs = decodeNumbers(logits, "float32"), cuts = makeCuts(model, without, mode);
    const ours = forward({model, cuts}, inputs.map(tokens => [tokens]));
    agreement.logits = theirs.reduce(
      (largest, logit, i) => Math.max(largest, Math.abs(logit - ours[i])), agreement.logits);
  }
  certify();
}

/** Check that as many sequences are correct after these cuts as PyTorch measured. */
function compareCuts(job) {
  const count = correctByJob[job].filter(Boolean).length;
  for (const row of rowsByJob.get(job) ?? []) agreement.cuts.set(row, count === data.ablations[row][1]);
  certify();
}

/** Show problems with the page at the top, where they cannot be missed. */
function warn(text) {
  const certificate = byId("certificate");
  certificate.classList.add("wrong");
  certificate.textContent = `${DIFFERS} ${text}`;
  document.querySelector("header").append(certificate);
}

function certify() {
  const {logits, cuts} = agreement, all = data.ablations.length;
  const isDifferent = (_, row) => cuts.get(row) === false;
  const differing = data.ablations.filter(isDifferent).map(([part]) => partName(part));
  const text = [
    `In ${data.checks.length} forward passes, with and without cuts, logits differ from PyTorch's by at most`,
    `${logits.toExponential(1)}.`,
    cuts.size < all ? `Re-measuring each single cut: ${cuts.size} of ${all} …`
      : `Each single cut was re-measured: ${all - differing.length} of ${all} agree with PyTorch.`,
    differing.length ? `These differ: ${differing.join("; ")}.` : "",
  ].join(" ").trim();
  if (logits < 1e-3 && !differing.length) byId("certificate").textContent = text;
  else warn(text);
}
