/* The page. What is the case stands in `state`; change() changes it, asks the model again where it must be
   asked, and shows what came out. look.js shows a single head. */
"use strict";

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent), {architecture} = data.config;
const numbers = decodeNumbers(byId("weights").textContent, data.format);
const model = buildModel(data, numbers), kinds = kindsOf(model);
const answeringKind = kinds.at(-1);                         // whose queries say the answer, and can find it
const KIND_NAMES = {
  encoder: "the encoder's self-attention", decoder: "the decoder's self-attention", cross: "cross-attention",
};

const state = {
  content: data.examples[0][0], mode: "zero",
  cut: [], earlier: [],                                     // heads as "kind.layer.head"; what was cut before
  chosen: null, pointed: null,                              // the head to look at, and the one pointed at
  cell: null, step: null,                                   // [query, key], and how many tokens of the answer
};
let asked = null;                                           // what the model said and computed in this state

const nameOf = token => data.names[token] ?? String(token), textOf = tokens => tokens.map(nameOf).join(" ");
const partOf = key => key.split(".").map((word, i) => i ? Number(word) : word);
const percent = share => `${Math.floor(100 * share + 1e-9)}%`;

/** An element: properties with a dash are attributes, with two dashes variables of its style. */
function element(tag, properties = {}, ...children) {
  const svg = ["line", "text"].includes(tag), space = `http://www.w3.org/${svg ? "2000/svg" : "1999/xhtml"}`;
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name.startsWith("on") || !svg && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- questions

/** The rule by which this page knows right answers: the task's own, if it answers the unseen like data.py. */
const isValid = validityOf(data.task);
const rule = data.unseen.every(
  ([content, answer]) => isValid(content) && ANSWERS[data.task]?.(content).join() === answer.join(),
) ? ANSWERS[data.task] : null;
const known = new Map([...data.unseen, ...data.examples].map(
  ([content, answer]) => [content.join(), answer]));
const rightAnswer = content => rule ? rule(content) : known.get(content.join());

/** All symbols in words. */
function range() {
  const names = data.symbols.map(nameOf);
  return /^\d+$/.test(names.at(-1)) ? `${names[0]} … ${names.at(-1)}` : names.join(" ");
}

/** Throws, in one plain line, if this cannot be asked. */
function check(content) {
  const {task, form, symbols, answer_lengths: lengths} = data, most = Number(Object.keys(lengths).at(-1));
  const problems = [
    [!content.length, `type a question: ${form === "other symbols" ? `symbols of ${range()}` : form}`],
    [!content.every(token => symbols.includes(token)), `not all tokens are symbols of ${task}: ${range()}`],
    [content.length > most, `${content.length} symbols are too many: this model has positions for ${most}`],
    [rule && !isValid(content), `${textOf(content)} is not a valid question for ${task}; write ${form}`],
    [!(content.length in lengths), `${task}: no question of length ${content.length} is known here`],
  ];
  for (const [is, problem] of problems) if (is) throw new Error(problem);
}

/** What was typed, as token ids. Spaces may be left out where all names are single characters. */
function parse(text) {
  const names = data.symbols.map(nameOf), short = names.every(name => name.length === 1);
  const words = text.trim().split(short ? /\s*/ : /[\s,]+/).filter(word => word);
  const stranger = words.find(word => !names.includes(word));
  if (stranger) throw new Error(`${stranger} is not a symbol of ${data.task}; choose from ${range()}`);
  return words.map(word => data.symbols[names.indexOf(word)]);
}

const keysOf = (kind, given) => kind === "decoder" ? given.at(-1) : given[0];
const queriesOf = (kind, given) => kind === "encoder" ? given[0] : given.at(-1);

/** For other programs: content is a list of token ids; without is a list of parts, [] for all attention,
    [kind], [kind, layer] or [kind, layer, head]. Returns the answer up to its END, the logits of all tokens
    given, and the weights of each kind, [layer][head][query][key]. */
window.explorer = {
  ask(content, without = []) {
    check(content);
    const {answer, given, logits, trace} = ask(model, content, data.answer_lengths[content.length], without);
    const attention = {};
    for (const [kind, layers] of Object.entries(trace)) {
      const keys = keysOf(kind, given).length, rows = flat => rowsOf(flat, keys).map(row => [...row]);
      attention[kind] = layers.map(({weights}) => weights.map(rows));
    }
    return {answer, logits: logits.map(row => [...row]), attention};
  },
};

// ---------------------------------------------------------------- changes

function change(changes) {
  Object.assign(state, changes);
  if (!asked || "content" in changes || "cut" in changes || "mode" in changes) {
    const {content, cut, mode} = state, length = data.answer_lengths[content.length];
    asked = ask(model, content, length, cut.map(partOf), mode);
    asked.first = {encoder: 1, decoder: content.length + 1, "encoder-decoder": 0}[architecture];    // answers
    asked.cells = rule ? answerCells(data.task, content, data.symbols) : [];
    if ("content" in changes) Object.assign(state, {step: null, cell: null});
    state.step &&= Math.min(state.step, asked.answer.length);
    state.chosen ??= brightest();
    measure();
    renderAnswer();
    renderScore();
    renderHeads();
  }
  renderHead();
}

/** What the reader typed: asked if it can be, told in one line if not. */
function askText(text) {
  let problem = "";
  try {
    const content = parse(text);
    check(content);
    if (content.join() !== state.content.join()) change({content});
  } catch (error) {
    problem = error.message;
  }
  byId("problem").textContent = problem;
  for (const id of ["verdict", "answer"]) byId(id).classList.toggle("stale", problem);
}

/** The same, of text that a button makes. */
function write(text) {
  byId("question").value = text;
  askText(text);
}

const isCut = part => headsOf(model, part).every(head => state.cut.includes(keyOf(head)));

/** Cuts all heads of a part, or brings them back where all are cut. */
function toggle(part) {
  const heads = headsOf(model, part).map(keyOf), others = state.cut.filter(head => !heads.includes(head));
  cutHeads(isCut(part) ? others : [...others, ...heads]);
}

function cutHeads(cut) {
  change({cut, earlier: [...state.earlier, state.cut]});
}

/** The whole kinds, layers and single heads that are cut, in words. */
function cutInWords() {
  const parts = data.table.map(([part]) => part).filter(isCut), isIn = (part, other) =>
    other.length < part.length && other.every((word, i) => word === part[i]);
  return parts.filter(part => !parts.some(other => isIn(part, other))).map(placeOf).join("; ");
}

/** What a person calls a part; layers and heads count from 1. */
function placeOf([kind, layer, head]) {
  if (layer === undefined) return kind && kinds.length > 1 ? KIND_NAMES[kind] : "all attention";
  const side = {encoder: "encoder ", decoder: "decoder ", cross: "cross-attention "}[kind];
  const words = `${kinds.length > 1 ? side : ""}layer ${layer + 1}`;
  const place = head === undefined ? words : `${words}, head ${head + 1}`;
  return data.purposes[place] ? `${place} (${data.purposes[place]})` : place;
}

// ---------------------------------------------------------------- the answer

function softmax(logits) {
  const largest = Math.max(...logits), powers = [...logits].map(logit => Math.exp(logit - largest));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map(power => power / sum);
}

function renderAnswer() {
  const {answer, logits, first} = asked, right = rightAnswer(state.content), whole = right && [...right, END];
  const said = textOf(answer.at(-1) === END ? answer.slice(0, -1) : answer);
  const good = whole?.join() === answer.join();
  const verdict = !right ? "(the right answer is not known here)" : good ? "✓" : `✗ not ${textOf(right)}`;
  byId("verdict").textContent = `${textOf(state.content)} → ${said} ${verdict}`;
  byId("answer").replaceChildren(...answer.map((token, i) => {
    const chances = softmax(logits[first + i]), wrong = whole && whole[i] !== token;
    const likely = chances.map((_, other) => other).sort((one, other) => chances[other] - chances[one]);
    const mark = !whole ? "" : wrong ? `✗ not ${nameOf(whole[i] ?? PAD)}` : "✓";
    return element("li", {className: wrong ? "wrong" : ""},
      element("b", {}, nameOf(token)), element("span", {className: "due"}, mark),
      ...likely.slice(0, 3).map(other => element("span", {className: "chance", "--p": chances[other]},
        element("span", {}, nameOf(other)), element("span", {}, percent(chances[other])))));
  }));
}

// ---------------------------------------------------------------- the unseen sequences

const contents = [...new Set(data.unseen.map(([content]) => content.join()))];      // each different one once
const sequences = contents.map(
  content => arrange(architecture, content.split(",").map(Number), known.get(content)));
const places = data.unseen.map(([content]) => contents.indexOf(content.join()));    // of all among those
const workerCount = Math.max(2, Math.min(4, navigator.hardwareConcurrency));        // each takes its share
const workers = [], found = {}, right = {};                 // of each job: what workers found, what is right
let measuring = null;                                       // the state that is being measured

/** Starts the workers, or where there are none does their work here, between what the reader does. */
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

/** Has the present cuts measured, before anything else that the workers have to do. */
function measure() {
  const job = jobOf(state.mode, state.cut);
  if (right[job] || job === measuring || !workers.length) return;
  measuring = job;
  for (const worker of workers) worker.postMessage({job: [job, state.cut.map(partOf), state.mode, true]});
}

function renderScore() {
  const flags = right[jobOf(state.mode, state.cut)];
  const what = state.cut.length ? `Without ${cutInWords()}` : "Nothing is cut";
  byId("exact").textContent = `${what}: `
    + (flags ? `${percent(share(flags))} of ${flags.length} unseen sequences are right` : "counting …");
  byId("lengths").classList.toggle("stale", !flags);
  if (!flags) return;
  const lengths = data.unseen.map(([content]) => content.length), different = [...new Set(lengths)];
  byId("lengths").replaceChildren(...different.sort((one, other) => one - other).map(length => {
    const good = share(flags.filter((_, i) => lengths[i] === length));
    return element("li", {title: `length ${length}: ${percent(good)} right`},
      percent(good), element("span", {className: "bar", "--p": good}), String(length));
  }));
}

// ---------------------------------------------------------------- all heads

const left = new Map(data.table.map(([part, count]) => [keyOf(part), count]));      // of each cut, in PyTorch
const thumbnails = {}, cutButtons = {"": byId("cut-all")};

/** The button that cuts a part, with what that alone costs in percentage points. */
function cutButton(part, text) {
  const lost = Math.round(100 * (data.right - left.get(keyOf(part))) / data.unseen.length);
  const cost = lost > 0 ? `−${lost}` : lost < 0 ? `+${-lost}` : "0";
  const button = element("button", {
    type: "button", className: "cut", onclick: () => toggle(part), "--loss": Math.max(0, lost) / 100,
    "aria-label": `cut ${placeOf(part)}, which alone costs ${lost} ${lost === 1 ? "point" : "points"}`,
  }, `${text} ${cost}`);
  cutButtons[keyOf(part)] = button;
  return button;
}

/** A picture of what a head reads: pointing previews it below, a click keeps it there. */
function thumbnail(part) {
  const canvas = element("canvas"), button = element("button", {
    type: "button", className: "head", title: placeOf(part), "aria-label": `look at ${placeOf(part)}`,
    onclick: () => change({chosen: part, pointed: null, cell: null}),
    onpointerenter: event => event.pointerType === "mouse" && change({pointed: part}),
    onpointerleave: () => change({pointed: null}),
  }, canvas);
  thumbnails[keyOf(part)] = {button, canvas};
  return button;
}

/** The tables of all heads are made once; renderHeads draws into them. */
function makeHeads() {
  byId("heads").append(...kinds.map(kind => element("table", {},
    element("caption", {}, KIND_NAMES[kind], cutButton([kind], "✂ all")),
    ...model.means[kind].map((heads, layer) => element("tr", {},
      element("th", {scope: "row"}, `layer ${layer + 1}`, cutButton([kind, layer], "✂")),
      ...heads.map((_, head) => {
        const part = [kind, layer, head];
        return element("td", {}, thumbnail(part), cutButton(part, "✂"));
      }))))));
}

function renderHeads() {
  const accent = getComputedStyle(document.body).getPropertyValue("--accent").trim();         // #rrggbb
  const colour = [1, 3, 5].map(at => parseInt(accent.slice(at, at + 2), 16));
  for (const [key, {button, canvas}] of Object.entries(thumbnails)) {
    const [kind, layer, head] = partOf(key), flat = asked.trace[kind][layer].weights[head];
    canvas.width = keysOf(kind, asked.given).length;
    canvas.height = flat.length / canvas.width;
    const image = new ImageData(canvas.width, canvas.height);
    flat.forEach((weight, i) => image.data.set([...colour, 255 * weight], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
    button.classList.toggle("gone", state.cut.includes(key));
  }
  for (const [key, button] of Object.entries(cutButtons)) {
    button.setAttribute("aria-pressed", isCut(key ? partOf(key) : []));
  }
  byId("undo").disabled = !state.earlier.length;
  byId("restore").disabled = !state.cut.length;
}

// ---------------------------------------------------------------- the page checks itself

const DIFFERS = "This page does not compute what PyTorch does: if transformer.py was changed, change "
  + "assets/transformer.js, too";
const agreement = {logits: 0, cuts: new Map()};             // the largest difference; is each row the same?
const rowsOfJob = new Map();                                // parts of the same heads are measured once
data.table.forEach(([part], row) => {
  const job = jobOf("zero", headsOf(model, part).map(keyOf));
  rowsOfJob.set(job, [...rowsOfJob.get(job) ?? [], row]);
});

/** The largest difference between the page's logits and PyTorch's, which travel with it. */
async function compareLogits() {
  for (const {given, without, mode, logits} of data.checks) {
    await new Promise(resolve => setTimeout(resolve));      // one at a time: nobody should have to wait
    const theirs = decodeNumbers(logits, "float32"), cuts = cutsOf(model, without, mode);
    const ours = forward({model, cuts}, given.map(tokens => [tokens]));
    agreement.logits = theirs.reduce(
      (most, logit, i) => Math.max(most, Math.abs(logit - ours[i])), agreement.logits);
  }
  certify();
}

/** Is as much right after these cuts as PyTorch measured? */
function compareCuts(job) {
  const count = right[job].filter(Boolean).length;
  for (const row of rowsOfJob.get(job) ?? []) agreement.cuts.set(row, count === data.table[row][1]);
  certify();
}

function certify() {
  const {logits, cuts} = agreement, all = data.table.length;
  const differing = data.table.filter((_, row) => cuts.get(row) === false).map(([part]) => placeOf(part));
  const wrong = !(logits < 1e-3) || differing.length;
  byId("certificate").classList.toggle("wrong", wrong);
  byId("certificate").textContent = [
    wrong ? `${DIFFERS}.` : "",
    `The logits of ${data.checks.length} passes, intact and with cuts, differ from PyTorch's by at most`,
    `${logits.toExponential(1)}.`,
    cuts.size < all ? `Every single cut is measured again: ${cuts.size} of ${all} …`
      : `Every single cut was measured again: ${all - differing.length} of ${all} as in PyTorch.`,
    differing.length ? `Not so: ${differing.join("; ")}.` : "",
  ].join(" ").trim();
}

// ---------------------------------------------------------------- start

function start() {
  const button = (text, onclick) => element("button", {type: "button", onclick}, text);
  const question = byId("question");
  makeHeads();
  question.value = textOf(state.content);
  question.oninput = () => askText(question.value);
  byId("delete").onclick = () => write(question.value.trim().split(/\s+/).slice(0, -1).join(" "));
  byId("symbols").append(...data.symbols.map(nameOf).map(
    name => button(name, () => write(`${question.value.trim()} ${name}`.trim()))));
  byId("examples").append("examples:", ...data.examples.map(([content, , note]) => {
    const text = textOf(content);
    return button(note ? `${text} (${note})` : text, () => write(text));
  }));
  byId("modes").onchange = event => change({mode: event.target.value});
  byId("cut-all").onclick = () => toggle([]);
  byId("cut-all").hidden = kinds.length === 1;              // then the kind is all of it
  byId("undo").onclick = () => change({cut: state.earlier.at(-1), earlier: state.earlier.slice(0, -1)});
  byId("restore").onclick = () => cutHeads([]);
  byId("stepping").hidden = architecture === "encoder";
  byId("step").oninput = event => stepTo(Number(event.target.value));
  byId("back").onclick = () => stepTo((state.step ?? asked.answer.length) - 1);
  byId("forward").onclick = () => stepTo((state.step ?? 0) + 1);
  byId("grid").onkeydown = moveCell;
  matchMedia("(prefers-color-scheme: dark)").onchange = renderHeads;
  change({});
  requestAnimationFrame(() => setTimeout(startMeasuring));  // once the answer can be seen
}

function startMeasuring() {
  startWorkers();
  measure();
  compareLogits();
  for (const [job, [row]] of rowsOfJob) {
    for (const worker of workers) worker.postMessage({job: [job, [data.table[row][0]], "zero", false]});
  }
}

try {
  start();
} catch (error) {                                           // a model with other parts than ours
  byId("certificate").classList.add("wrong");
  byId("certificate").textContent = `${DIFFERS}. ${error.message}`;
}
