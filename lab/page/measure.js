/* Measurements on the unseen sequences, made by workers, and the page's self-check against PyTorch. */
"use strict";

const contents = [...new Set(data.unseen.map(([content]) => content.join()))];      // each distinct one once
const sequences = contents.map(
  content => makeInputsAndTargets(architecture, content.split(",").map(Number), known.get(content)));
const places = data.unseen.map(([content]) => contents.indexOf(content.join()));    // index among those
const workerCount = Math.max(2, Math.min(4, navigator.hardwareConcurrency));        // each takes a part
const workers = [], found = {}, right = {};                 // per job: workers' results; which are correct
let measuring = null;                                       // the state being measured

/** Start the workers or, if there are none, do their work here while the page is idle. */
function startWorkers() {
  const code = new Blob([byId("engine").textContent, "\nserve(self);"], {type: "text/javascript"});
  for (let number = 0; number < workerCount; number++) {
    const take = message => arrived(number, ...message);
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

function arrived(number, job, flags) {
  const all = found[job] ??= {};
  all[number] = flags;
  if (Object.keys(all).length < workerCount) return;
  delete found[job];
  right[job] = places.map(place => all[place % workerCount][Math.floor(place / workerCount)]);
  compareCuts(job);
  if (job === jobOf(state.mode, state.cut)) renderScore();
}

const jobOf = (mode, heads) => `${mode}: ${[...heads].sort().join(" ")}`;
const share = flags => flags.filter(Boolean).length / flags.length;

/** Have the current cuts measured ahead of the workers' other jobs. */
function measure() {
  const job = jobOf(state.mode, state.cut);
  if (right[job] || job === measuring || !workers.length) return;
  measuring = job;
  for (const worker of workers) worker.postMessage({job: [job, state.cut.map(partOf), state.mode, true]});
}

function renderScore() {
  const flags = right[jobOf(state.mode, state.cut)];
  const what = state.cut.length ? `Without ${cutInWords()}` : "Nothing is cut";
  byId("exact").textContent =
    `${what}: ${flags ? percent(share(flags)) : "…"} of ${places.length} unseen sequences are correct`;
  byId("lengths").classList.toggle("stale", !flags);
  byId("ask-wrong").disabled = !flags?.includes(false);
  if (!flags) return;
  const lengths = data.unseen.map(([content]) => content.length), different = [...new Set(lengths)];
  byId("lengths").replaceChildren(...different.sort((one, other) => one - other).map(length => {
    const good = share(flags.filter((_, i) => lengths[i] === length));
    return element("li", {title: `length ${length}: ${percent(good)} correct`},
      percent(good), element("span", {className: "bar", "--p": good}), String(length));
  }));
}

/** Show the next unseen sequence that the model gets wrong after the current cuts. */
function askWrong() {
  const flags = right[jobOf(state.mode, state.cut)], wrong = data.unseen.filter((_, i) => !flags[i]);
  const at = wrong.findIndex(([content]) => content.join() === state.content.join());
  write(textOf(wrong[(at + 1) % wrong.length][0]));
}

// ---------------------------------------------------------------- the page checks itself

const DIFFERS = "This page's results differ from PyTorch's. If you changed transformer.py, make the same "
  + "change in lab/page/transformer.js and run python visualize.py again.";
const agreement = {logits: 0, cuts: new Map()};             // the largest difference; whether each row agrees
const rowsOfJob = new Map();                                // parts with the same heads are measured once
data.ablations.forEach(([part], row) => {
  const job = jobOf("zero", headsOf(model, part).map(keyOf));
  rowsOfJob.set(job, [...rowsOfJob.get(job) ?? [], row]);
});

/** Find the largest difference between the page's logits and PyTorch's, which are embedded in it. */
async function compareLogits() {
  for (const {inputs, without, mode, logits} of data.checks) {
    await new Promise(resolve => setTimeout(resolve));      // one at a time: the page stays responsive
    const theirs = decodeNumbers(logits, "float32"), cuts = cutsOf(model, without, mode);
    const ours = forward({model, cuts}, inputs.map(tokens => [tokens]));
    agreement.logits = theirs.reduce(
      (most, logit, i) => Math.max(most, Math.abs(logit - ours[i])), agreement.logits);
  }
  certify();
}

/** Check that as many sequences are correct after these cuts as PyTorch measured. */
function compareCuts(job) {
  const count = right[job].filter(Boolean).length;
  for (const row of rowsOfJob.get(job) ?? []) agreement.cuts.set(row, count === data.ablations[row][1]);
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
  const differing = data.ablations.filter((_, row) => cuts.get(row) === false).map(([part]) => placeOf(part));
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
