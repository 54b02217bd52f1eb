/* Measurements on the unseen sequences, made by workers, and the page's self-check against PyTorch. */
"use strict";

const workerCount = Math.max(2, Math.min(4, navigator.hardwareConcurrency));        // each takes a part
const workers = [], partial = {}, correctByJob = {};        // by job: workers' results; which are correct
const measured = new Set();                                 // the modes in which each cut was measured
let measuring = null;                                       // the job of the current state

/** The name of a measurement; parts with the same heads share one. */
const jobOf = (mode, parts) =>
  `${mode}: ${parts.flatMap(part => listHeads(model, part)).map(keyOf).sort().join(" ")}`;
const flagsOf = ({mode, cut}) => correctByJob[jobOf(mode, cut.map(partOf))];
const fractionOf = flags => flags.filter(Boolean).length / flags.length;

function startWorkers() {
  const code = new Blob([byId("engine").textContent, "\nserve(self);"], {type: "text/javascript"});
  const sequences = data.unseen.map(pair => makeInputsAndTargets(data.config, ...pair));
  const {config, tensors} = data;
  for (let number = 0; number < workerCount; number++) {
    const worker = new Worker(URL.createObjectURL(code));
    worker.onmessage = ({data: [job, flags]}) => takeResult(number, job, flags);
    const some = sequences.filter((_, i) => i % workerCount === number);
    worker.postMessage({spec: {config, tensors}, numbers, sequences: some});
    workers.push(worker);
  }
}

function takeResult(number, job, flags) {
  const all = partial[job] ??= [];
  all[number] = flags;
  if (all.filter(flags => flags).length < workerCount) return;
  delete partial[job];
  correctByJob[job] = data.unseen.map((_, i) => all[i % workerCount][Math.floor(i / workerCount)]);
  certify();
  renderScore();
  if (job.startsWith("mean")) renderCosts();
}

/** Have each single cut measured in a mode, once. */
function measureEach(mode) {
  const jobs = measured.has(mode) ? [] : new Map(data.ablations.map(([part]) => [jobOf(mode, [part]), part]));
  measured.add(mode);
  for (const [job, part] of jobs) {
    for (const worker of workers) worker.postMessage({job: [job, [part], mode, false]});
  }
}

/** Have the current cuts measured ahead of the workers' other jobs. */
function measure() {
  const job = jobOf(state.mode, state.cut.map(partOf));
  if (!workers.length) return;
  measureEach(state.mode);
  if (correctByJob[job] || job === measuring) return;
  measuring = job;
  for (const worker of workers) worker.postMessage({job: [job, state.cut.map(partOf), state.mode, true]});
}

const lengthsAsked = data.unseen.map(([content]) => content.length);
const byLength = flags => [...new Set(lengthsAsked)].sort((one, other) => one - other).map(length =>
  [length, fractionOf(flags.filter((_, i) => lengthsAsked[i] === length))]);

function renderScore() {
  const asks = findAsking(state.cut), flags = asks < 0 ? flagsOf(state) : null, {before} = state;
  Object.assign(byId("measured"), {hidden: asks >= 0, className: flags ? "" : "later"});
  byId("asks").textContent = asks < 0 ? "" : `Experiment ${asks + 1} asks about this cut: predict first.`;
  byId("fraction").textContent = flags ? percent(fractionOf(flags)) : "";
  byId("cuts").textContent = state.cut.length ? ` without ${describeCuts()}` : "; nothing is cut";
  byId("lengths").classList.toggle("waiting", !flags);
  byId("ask-wrong").disabled = !flags?.includes(false);
  if (!flags) return;
  const earlier = before && findAsking(before.cut) < 0 ? flagsOf(before) : null;
  const ghosts = new Map(earlier ? byLength(earlier) : []);
  byId("lengths").replaceChildren(...byLength(flags).map(([length, fraction]) => element("li", {
    title: `length ${length}: ${percent(fraction)} correct`,
    "--p": fraction, "--before": ghosts.get(length) ?? 0,
  }, percent(fraction).slice(0, -1), element("span", {className: "bar"}), String(length))));
}

/** Show the next unseen sequence that the model gets wrong after the current cuts. */
function askWrong() {
  const flags = flagsOf(state), wrong = data.unseen.filter((_, i) => !flags[i]);
  const at = wrong.findIndex(([content]) => content.join() === state.content.join());
  write(textOf(wrong[(at + 1) % wrong.length][0]));
}

// ---------------------------------------------------------------- the page checks itself

const DIFFERS = "This page's results differ from PyTorch's. If you changed transformer.py, make the same "
  + "change in lab/page/transformer.js and run python visualize.py again.";
let largestDifference = 0;                                  // between the page's logits and PyTorch's

/** Compare the page's logits with PyTorch's, which are embedded in it. */
async function compareLogits() {
  for (const {inputs, without, mode, logits} of data.checks) {
    await new Promise(resolve => setTimeout(resolve));      // one at a time: the page stays responsive
    const theirs = decodeNumbers(logits, "float32"), cuts = makeCuts(model, without, mode);
    const ours = forward({model, cuts}, inputs.map(tokens => [tokens]));
    largestDifference = theirs.reduce(
      (largest, logit, i) => Math.max(largest, Math.abs(logit - ours[i])), largestDifference);
  }
  certify();
}

/** Show problems with the page at the top, where they cannot be missed, and no experiments. */
function warn(text) {
  const certificate = byId("certificate");
  certificate.classList.add("wrong");
  certificate.textContent = `${DIFFERS} ${text}`;
  document.querySelector("header").append(certificate);
  document.body.classList.add("differing");
}

/** Report how far the page agrees with PyTorch. Rounding the weights to 16 bits can change an answer that is
    nearly undecided, so up to 1% of the questions may differ. */
function certify() {
  const differences = data.ablations.flatMap(([part, name, count]) => {
    const flags = correctByJob[jobOf("zero", [part])];
    return flags ? [[name, Math.abs(flags.filter(Boolean).length - count)]] : [];
  });
  const all = data.ablations.length, measured = differences.length;
  const differing = differences.filter(([, difference]) => difference > data.unseen.length / 100);
  const text = [
    `In ${data.checks.length} forward passes, with and without cuts, logits differ from PyTorch's by at most`,
    `${largestDifference.toExponential(1)}.`,
    measured < all ? `Re-measuring each single cut: ${measured} of ${all} …`
      : `Each single cut was re-measured: ${all - differing.length} of ${all} agree with PyTorch.`,
    differing.length ? `These differ: ${differing.map(([name]) => name).join("; ")}.` : "",
  ].join(" ").trim();
  if (largestDifference < 1e-3 && !differing.length) byId("certificate").textContent = text;
  else warn(text);
}
