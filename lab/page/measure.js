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
  renderScore();
  if (job.startsWith("mean")) renderCosts();
}

const jobOf = (mode, heads) => `${mode}: ${[...heads].sort().join(" ")}`;
const fractionOf = flags => flags.filter(Boolean).length / flags.length;

/** Have each single cut measured in a mode. */
function measureEach(mode) {
  for (const [row] of rowsByJob.values()) {
    const [part] = data.ablations[row], job = jobOf(mode, listHeads(model, part).map(keyOf));
    for (const worker of workers) worker.postMessage({job: [job, [part], mode, false]});
  }
}

/** Have the current cuts measured ahead of the workers' other jobs. */
function measure() {
  const job = jobOf(state.mode, state.cut);
  if (correctByJob[job] || job === measuring || !workers.length) return;
  measuring = job;
  for (const worker of workers) worker.postMessage({job: [job, state.cut.map(partOf), state.mode, true]});
}

const lengthsAsked = data.unseen.map(([content]) => content.length);
const byLength = flags => [...new Set(lengthsAsked)].sort((one, other) => one - other).map(length =>
  [length, fractionOf(flags.filter((_, i) => lengthsAsked[i] === length))]);

function renderScore() {
  const job = jobOf(state.mode, state.cut), {before} = state, asks = experiments.findIndex(isAskingAbout);
  const flags = asks < 0 ? correctByJob[job] : null;
  const what = state.cut.length ? ` without ${describeCuts()}` : "; nothing is cut";
  byId("exact").replaceChildren(...asks >= 0
    ? [`Experiment ${asks + 1} asks about this cut. Predict first, then its effect appears here.`]
    : [element("b", {}, flags ? percent(fractionOf(flags)) : "…"), ` of ${indices.length} `,
      explain(element("dfn", {"data-means": "None was seen during training."}, "unseen")), ` questions correct${what}`]);
  byId("lengths").classList.toggle("waiting", !flags);
  byId("ask-wrong").disabled = !flags?.includes(false);
  if (!flags) return;
  const earlier = before && correctByJob[jobOf(before.mode, before.cut)], bars = byLength(flags);
  const ghosts = byLength(earlier ?? []);
  byId("lengths").replaceChildren(...bars.map(([length, fraction], i) => element("li", {
    title: `length ${length}: ${percent(fraction)} correct`, "--p": fraction, "--before": earlier ? ghosts[i][1] : 0,
  }, percent(fraction), element("span", {className: "bar"}), String(length))));
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

/** Check that as many sequences are correct after these cuts as PyTorch measured, or almost: rounding the
    weights to 16 bits can change an answer that is nearly undecided. */
function compareCuts(job) {
  const count = correctByJob[job].filter(Boolean).length;
  for (const row of rowsByJob.get(job) ?? []) {
    agreement.cuts.set(row, Math.abs(count - data.ablations[row][2]));
  }
  certify();
}

/** Show problems with the page at the top, where they cannot be missed. */
function warn(text) {
  const certificate = byId("certificate");
  certificate.classList.add("wrong");
  certificate.textContent = `${DIFFERS} ${text}`;
  document.body.classList.add("differing");
  document.querySelector("header").append(certificate);
}

function certify() {
  const {logits, cuts} = agreement, all = data.ablations.length;
  const isDifferent = (_, row) => cuts.get(row) > data.unseen.length / 100;
  const differing = data.ablations.filter(isDifferent).map(([, name]) => name);
  const nearly = [...cuts.values()].filter(difference => difference).length - differing.length;
  const text = [
    `In ${data.checks.length} forward passes, with and without cuts, logits differ from PyTorch's by at most`,
    `${logits.toExponential(1)}.`,
    cuts.size < all ? `Re-measuring each single cut: ${cuts.size} of ${all} …`
      : `Each single cut was re-measured: ${all - differing.length} of ${all} agree with PyTorch.`,
    nearly > 0 ? `(${nearly} of them differ by at most 1% of the questions.)` : "",
    differing.length ? `These differ: ${differing.join("; ")}.` : "",
  ].join(" ").trim();
  if (logits < 1e-3 && !differing.length) byId("certificate").textContent = text;
  else warn(text);
}
