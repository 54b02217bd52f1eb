/* The page. `state` holds the current state; change() updates it, reruns the model if necessary, and renders
   the result: answer.js the answer, heads.js all heads, look.js a single one. */
"use strict";

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent), {architecture} = data.config;
const numbers = decodeNumbers(byId("weights").textContent, "float16");
const model = buildModel(data, numbers), kinds = listKinds(model);
const sourceKind = kinds.at(-1);                            // its queries predict the answer, and can find it
const partNames = new Map(data.ablations.map(([part, name]) => [keyOf(part), name]));
const partName = part => partNames.get(keyOf(part));        // layers and heads are numbered from 1

const state = {
  content: data.examples[0][0], mode: "zero",
  cut: [],                                                  // heads as "kind.layer.head"
  before: null,                                             // {mode, cut} before the last cut
  chosen: null, pointed: null,                              // the head on view, and the one pointed at
  cell: null, step: null,                                   // [query, key], and the number of answer tokens
};
let asked = null;                                           // the model's output and internals in this state

const nameOf = token => data.token_names[token] ?? String(token);
const textOf = tokens => tokens.map(nameOf).join(" ");
const partOf = key => key ? key.split(".").map((word, i) => i ? Number(word) : word) : [];
const sentence = words => words[0].toUpperCase() + words.slice(1);
const shorten = word => word.length > 20 ? `${word.slice(0, 20)}…` : word;

/** Like support/figure.py: rounded to the nearest, but 100% means all and 0% means none. */
function percent(fraction) {
  const rounded = Math.floor(100 * fraction + .5 + 1e-9);
  if (!rounded && fraction) return "<1%";
  return `${rounded === 100 && fraction < 1 ? 99 : rounded}%`;
}

/** The style that gives a token its colour: one hue for each symbol, grey for START and END. */
function tokenStyle(token) {
  const at = data.symbols.indexOf(token);
  return {"--hue": 20 + 310 * at / data.symbols.length, "--chroma": at < 0 ? 0 : 1};
}

/** Make an element: properties with a dash are attributes, those with two dashes style variables. */
function element(tag, properties = {}, ...children) {
  const svg = tag.startsWith("svg:"), space = `http://www.w3.org/${svg ? "2000/svg" : "1999/xhtml"}`;
  const made = document.createElementNS(space, tag.replace("svg:", ""));
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name.startsWith("on") || !svg && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- questions

/** The rule for correct answers: the task's own, if it answers the unseen questions like data.py. */
const isValid = validityRule(data.task);
const rule = data.unseen.every(
  ([content, answer]) => isValid(content) && ANSWERS[data.task]?.(content).join() === answer.join(),
) ? ANSWERS[data.task] : null;
const known = new Map([...data.unseen, ...data.examples].map(
  ([content, answer]) => [content.join(), answer]));
const correctAnswer = content => rule ? rule(content) : known.get(content.join());

/** Throw a one-line error if this is not a valid question. */
function check(content) {
  const {task, format_hint: hint, symbols, symbol_range: range, answer_lengths: lengths} = data;
  const most = Number(Object.keys(lengths).at(-1));
  const problems = [
    [!content.length,
      `type a question: ${hint === "other symbols" ? `any of the symbols ${range}` : hint}`],
    [!content.every(token => symbols.includes(token)), `not all tokens are symbols of ${task}: ${range}`],
    [content.length > most,
      `${content.length} symbols are too many: this model has positions for at most ${most}`],
    [rule && !isValid(content), `${textOf(content)} is not a valid question for ${task}; write ${hint}`],
    [!(content.length in lengths), `${task} has no questions of length ${content.length}`],
  ];
  for (const [is, problem] of problems) if (is) throw new Error(problem);
}

/** Parse typed text into token ids. Spaces are optional if all names are single characters. */
function parse(text) {
  const names = data.symbols.map(nameOf), short = names.every(name => name.length === 1);
  const words = text.trim().split(short ? /\s*/ : /[\s,]+/).filter(word => word);
  const stranger = words.find(word => !names.includes(word));
  const {task, symbol_range: range} = data;
  if (stranger) throw new Error(`${shorten(stranger)} is not a symbol of ${task}; choose from ${range}`);
  return words.map(word => data.symbols[names.indexOf(word)]);
}

const keysOf = (kind, inputs) => kind === "decoder" ? inputs.at(-1) : inputs[0];
const queriesOf = (kind, inputs) => kind === "encoder" ? inputs[0] : inputs.at(-1);

/** For use from other programs. content is a list of token ids. without is a list of parts: [] for all
   attention, [kind], [kind, layer] or [kind, layer, head]. Returns the answer up to its END, the logits at
   all input tokens, and the weights of each kind, [layer][head][query][key]. */
window.explorer = {
  ask(content, without = []) {
    check(content);
    const {answer, inputs, logits, trace} = ask(model, content, data.answer_lengths[content.length], without);
    const attention = {};
    for (const [kind, layers] of Object.entries(trace)) {
      const keys = keysOf(kind, inputs).length, rows = flat => splitRows(flat, keys).map(row => [...row]);
      attention[kind] = layers.map(({weights}) => weights.map(rows));
    }
    return {answer, logits: logits.map(row => [...row]), attention};
  },
};

// ---------------------------------------------------------------- changes

function change(changes) {
  const isAsked = "content" in changes, isCutting = "cut" in changes || "mode" in changes;
  if (isAsked) Object.assign(state, {step: null, cell: null});
  if (isCutting) state.before = {mode: state.mode, cut: state.cut};
  Object.assign(state, changes);
  if (!asked || isAsked || isCutting) {
    const {content, cut, mode} = state, length = data.answer_lengths[content.length];
    const earlier = asked && !isAsked ? asked.answer : null;
    asked = ask(model, content, length, cut.map(partOf), mode);
    asked.earlier = earlier;
    asked.answerSources = rule ? answerSources(data.task, content, data.symbols) : [];
    state.step &&= Math.min(state.step, asked.answer.length);
    state.chosen ??= data.guide.top_head ?? listHeads(model, [sourceKind])[0];
    measure();
    renderAnswer();
    renderScore();
    renderHeads();
    renderCosts();
  }
  renderHead();
  linkLater();
}

/** Show in one line why a question is invalid, or "" if it is fine. */
function problem(text) {
  byId("problem").textContent = text;
  byId("asking").classList.toggle("stale", text);
}

/** Run the model on what the reader typed or, if it is invalid, say why in one line. */
function askText(text) {
  try {
    const content = parse(text);
    check(content);
    if (content.join() !== state.content.join()) change({content});
    problem("");
  } catch (error) {
    problem(error.message);
  }
}

/** The same for text entered by a button. */
function write(text) {
  byId("question").value = text;
  askText(text);
}

const isCut = part => listHeads(model, part).every(head => state.cut.includes(keyOf(head)));

/** Cut all heads of a part, or restore them if all are cut. */
function toggle(part) {
  const heads = listHeads(model, part).map(keyOf), others = state.cut.filter(head => !heads.includes(head));
  change({cut: isCut(part) ? others : [...others, ...heads]});
}

const reveal = id => byId(id).scrollIntoView({block: "nearest"});       // scrolls just as far as needed

/** Describe the cut kinds, layers and single heads. */
function describeCuts() {
  const parts = data.ablations.map(([part]) => part).filter(isCut), isIn = (part, other) =>
    other.length < part.length && other.every((word, i) => word === part[i]);
  return parts.filter(part => !parts.some(other => isIn(part, other))).map(partName).join("; ");
}
