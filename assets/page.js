/* The page: what stands in `state` is shown by render(), and whatever the reader does changes `state`. */
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const numbers = decodeNumbers(document.getElementById("weights").textContent, data.format);
const model = buildModel(data, numbers), {architecture, num_heads: numHeads, d_model: width} = data.config;
const generates = architecture !== "encoder", KINDS = Object.keys(model.means).filter(kind => kind !== "name");
const KIND_NAMES = {
  encoder: "the encoder's self-attention", decoder: "the decoder's self-attention", cross: "cross-attention",
};
const answering = KINDS.includes("cross") ? "cross" : KINDS[0];

const state = {
  content: data.examples[0].content, cut: [], mode: "zero", earlier: [],      // cut: heads, as "kind.layer.head"
  chosen: [answering, 0, 0], pointed: null,                 // the head that is shown, and the one pointed at
  cell: null, step: null,                                   // [query, key]; null: the whole answer is shown
};
let asked = null;                                           // what the model said and computed in this state
const right = {};                                           // of each set of cuts: which unseen sequences

const byId = id => document.getElementById(id);
const nameOf = token => data.names[token] ?? String(token);
const keyOf = head => head.join("."), headOf = key => key.split(".").map((word, i) => i ? Number(word) : word);
const percent = share => `${Math.floor(100 * share + 1e-9)}%`;

/** An element with these properties and children; a property that has a dash is an attribute. */
function element(tag, properties = {}, ...children) {
  const svg = ["svg", "line", "text", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (svg || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** An element with one property of its style. */
function styled(tag, properties, name, value, ...children) {
  const made = element(tag, properties, ...children);
  made.style.setProperty(name, value);
  return made;
}

// ------------------------------------------------------------------------------------------ questions

/** The right answer to a question: the task's, if it answers all unseen sequences like data.py, or a known one. */
const known = new Map([...data.unseen, ...data.examples.map(({content, answer}) => [content, answer])]
  .map(([content, answer]) => [content.join(), answer]));
const rule = ANSWERS[data.task], ruleHolds = rule && data.unseen.every(
  ([content, answer]) => (IS_VALID[data.task]?.(content) ?? true) && rule(content).join() === answer.join());
function rightAnswer(content) {
  return ruleHolds ? rule(content) : known.get(content.join());
}

/** Throws, in one plain line, if this cannot be asked. */
function check(content) {
  const written = content.map(nameOf).join(" "), stranger = content.find(token => !data.symbols.includes(token));
  if (stranger !== undefined) throw new Error(`${nameOf(stranger)} is not a symbol of ${data.task}`);
  if (ruleHolds && content.length && !(IS_VALID[data.task]?.(content) ?? true)) {
    throw new Error(`${written} is not a valid question for ${data.task}; write ${data.form}`);
  }
  if (!(content.length in data.answer_lengths)) {
    const lengths = Object.keys(data.answer_lengths).map(Number), most = lengths.at(-1);
    if (content.length > most) {
      throw new Error(`${content.length} symbols are too many: this model has positions for ${most}`);
    }
    throw new Error(content.length ? `${data.task} has no question of length ${content.length}`
      : `type a question: ${data.form === "other symbols" ? `symbols such as ${nameOf(data.symbols.at(-1))}`
        : data.form}`);
  }
}

/** What was typed as token ids. Spaces may be left out where all names are single characters. */
function parse(text) {
  const names = data.symbols.map(nameOf), short = names.every(name => name.length === 1);
  const words = text.trim().split(short ? /\s*/ : /[\s,]+/).filter(word => word);
  return words.map(word => {
    const place = names.indexOf(word);
    if (place >= 0) return data.symbols[place];
    const range = /^\d+$/.test(names.at(-1)) ? `${names[0]} … ${names.at(-1)}` : names.join(" ");
    throw new Error(`${word} is not a symbol of ${data.task}; choose from ${range}`);
  });
}

/** Contract of the page: content are token ids, without are parts [], [kind], [kind, layer], [kind, layer, head].
    attention is [layer][head][query][key] for each kind. */
window.explorer = {
  ask(content, without = []) {
    check(content);
    const {answer, given, logits, trace} = ask(model, content, data.answer_lengths[content.length], without);
    const attention = Object.fromEntries(Object.entries(trace).map(([kind, layers]) => [kind, layers.map(
      ({weights}) => weights.map(flat => rowsOf(flat, keysOf(kind, given).length).map(row => [...row])))]));
    return {answer, logits: logits.map(row => [...row]), attention};
  },
};

const keysOf = (kind, given) => kind === "decoder" ? given.at(-1) : given[0];
const queriesOf = (kind, given) => kind === "encoder" ? given[0] : given.at(-1);

/** The row of the logits, and so the query, that says the first symbol of the answer. */
const firstRow = () => ({encoder: 1, decoder: state.content.length + 1, "encoder-decoder": 0})[architecture];

// ------------------------------------------------------------------------------------------ changes

/** Changes the state, asks the model again where it must be asked, and shows what is now the case. */
function change(changes) {
  Object.assign(state, changes);
  if (!asked || "content" in changes || "cut" in changes || "mode" in changes) {
    const length = data.answer_lengths[state.content.length];
    asked = ask(model, state.content, length, state.cut.map(headOf), state.mode);
    if ("content" in changes) Object.assign(state, {step: null, cell: null});
    else state.step &&= Math.min(state.step, asked.answer.length);
    score();
    renderAnswer();
    renderScore();
    renderHeads();
  }
  renderHead();
}

/** What the reader typed or clicked together: asked if it can be, told in one line if not. */
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

/** Cuts all heads of a part, or restores them where all are cut already. */
function toggle(part) {
  const heads = headsOf(model, part).map(keyOf), all = heads.every(head => state.cut.includes(head));
  const others = state.cut.filter(head => !heads.includes(head));
  cutHeads(all ? others : [...others, ...heads]);
}

function cutHeads(cut) {
  change({cut, earlier: [...state.earlier, state.cut]});
}

/** Whole kinds, layers and single heads that are cut, in words. */
function cutInWords() {
  const isCut = part => headsOf(model, part).every(head => state.cut.includes(keyOf(head)));
  if (isCut([])) return ["all attention"];
  const words = [], parts = data.table.map(([part]) => part).filter(isCut);
  const covers = (one, other) => one.length < other.length && one.every((word, i) => word === other[i]);
  for (const part of parts) if (!parts.some(other => covers(other, part))) words.push(placeOf(part));
  return words;
}

/** What a person calls a part; layers and heads count from 1. */
function placeOf([kind, layer, head]) {
  if (layer === undefined) return KINDS.length > 1 ? KIND_NAMES[kind] : "all attention";
  const side = KINDS.length === 1 ? "" : kind === "cross" ? "cross-attention " : `${kind} `;
  const place = `${side}layer ${layer + 1}${head === undefined ? "" : `, head ${head + 1}`}`;
  return data.purposes[place] ? `${place} (${data.purposes[place]})` : place;
}

// ------------------------------------------------------------------------------------------ the answer

function softmax(logits) {
  const largest = Math.max(...logits), parts = Array.from(logits, logit => Math.exp(logit - largest));
  const sum = parts.reduce((a, b) => a + b);
  return parts.map(part => part / sum);
}

function renderAnswer() {
  const due = rightAnswer(state.content), {answer, logits} = asked, first = firstRow();
  const whole = due && [...due, END], text = tokens => tokens.filter(token => token !== END).map(nameOf).join(" ");
  byId("verdict").textContent = `${text(state.content)} → ${text(answer)} ` + (
    !whole ? "(the right answer is not known here)" : whole.join() === answer.join() ? "✓" : `✗ not ${text(whole)}`);
  byId("answer").replaceChildren(...answer.map((token, i) => {
    const chances = softmax(logits[first + i]);
    const three = chances.map((_, other) => other).sort((a, b) => chances[b] - chances[a] || a - b).slice(0, 3);
    const isWrong = whole && whole[i] !== token;
    return element("li", {className: isWrong ? "wrong" : ""}, element("b", {}, nameOf(token)),
      element("span", {className: "due"}, !whole ? "" : isWrong ? `✗ not ${nameOf(whole[i] ?? PAD)}` : "✓"),
      ...three.map(other => styled("span", {className: "chance"}, "--p", chances[other],
        element("span", {}, nameOf(other)), element("span", {}, percent(chances[other])))));
  }));
}

// ------------------------------------------------------------------------------------------ the score

const different = [...new Map(data.unseen.map(pair => [pair[0].join(), pair])).values()];
const placeOfContent = new Map(different.map(([content], i) => [content.join(), i]));
const sequences = different.map(([content, answer]) => arrange(architecture, content, answer));
const workers = [0, 1].map(half => ({half, sequences: sequences.filter((_, i) => i % 2 === half)}));
const halves = {};                                          // what has come back of each job
let measuring = null;                                       // the job that was asked for last

/** Starts two workers, or where there are none does their work here, between what the reader does. */
function startWorkers() {
  const text = `${byId("engine").textContent}\nserve(self);`;
  for (const worker of workers) {
    try {
      worker.scope = new Worker(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
      worker.scope.onmessage = ({data: [id, flags]}) => arrived(worker.half, id, flags);
    } catch {
      const scope = {postMessage: ([id, flags]) => arrived(worker.half, id, flags)};
      serve(scope);
      worker.scope = {postMessage: message => scope.onmessage({data: message})};
    }
    const {config, tensors} = data;
    worker.scope.postMessage({spec: {config, tensors}, numbers, sequences: worker.sequences});
  }
}

function arrived(half, id, flags) {
  const both = halves[id] ??= [];
  both[half] = flags;
  if (!both[0] || !both[1]) return;
  delete halves[id];
  const all = data.unseen.map(([content]) => placeOfContent.get(content.join())).map(i => both[i % 2][i >> 1]);
  if (Number.isInteger(id)) compareCut(id, all.filter(Boolean).length);
  else if (id === jobOf()) {
    right[id] = all;
    renderScore();
  }
}

const jobOf = () => `${state.mode}: ${[...state.cut].sort().join(" ")}`;
function score() {
  const job = jobOf();
  if (right[job] || job === measuring || !workers[0].scope) return;
  measuring = job;
  for (const {scope} of workers) scope.postMessage({job: [job, state.cut.map(headOf), state.mode, true]});
}

function renderScore() {
  const flags = right[jobOf()], words = cutInWords(), share = flags => flags.filter(Boolean).length / flags.length;
  const what = words.length ? `Without ${words.join("; ")}` : "Nothing is cut";
  const left = flags ? `${percent(share(flags))} of ${flags.length} unseen sequences are right` : "counting …";
  byId("exact").textContent = `${what}: ${left}`;
  byId("lengths").classList.toggle("stale", !flags);
  if (!flags) return;
  const lengths = [...new Set(data.unseen.map(([content]) => content.length))].sort((a, b) => a - b);
  byId("lengths").replaceChildren(...lengths.map(length => {
    const good = share(flags.filter((_, i) => data.unseen[i][0].length === length));
    return element("li", {title: `length ${length}: ${percent(good)} right`}, percent(good),
      styled("span", {className: "bar"}, "--p", good), String(length));
  }));
}

// ------------------------------------------------------------------------------------------ all heads

const cost = Object.fromEntries(data.table.map(([part, left]) => [keyOf(part), data.right - left]));
const costOf = part => cost[keyOf(part)] ?? 0, points = part => Math.round(100 * costOf(part) / data.unseen.length);
const thumbnails = {}, cutButtons = {};

function cutButton(part, text) {
  const lost = points(part), label = `${text} ${lost > 0 ? `−${lost}` : lost < 0 ? `+${-lost}` : "0"}`;
  return cutButtons[keyOf(part)] = styled("button", {type: "button", className: "cut", onclick: () => toggle(part),
    "aria-label": `cut ${placeOf(part)}, which alone costs ${lost} points`}, "--loss", Math.max(0, lost) / 100, label);
}

/** The tables of all heads are built once; renderHeads draws into them. */
function buildHeads() {
  for (const kind of KINDS) {
    const caption = element("caption", {}, KIND_NAMES[kind], cutButton([kind], "✂ all"));
    const rows = model.means[kind].map((heads, layer) => element("tr", {},
      element("th", {scope: "row"}, `layer ${layer + 1}`, cutButton([kind, layer], "✂")),
      ...heads.map((_, head) => {
        const place = [kind, layer, head], canvas = element("canvas");
        const show = element("button", {type: "button", className: "head", "aria-label": `show ${placeOf(place)}`,
          title: placeOf(place), onclick: () => change({chosen: place, pointed: null, cell: null}),
          onpointerenter: ({pointerType}) => pointerType === "mouse" && change({pointed: place}),
          onpointerleave: () => change({pointed: null}),
        }, canvas);
        thumbnails[keyOf(place)] = {show, canvas};
        return element("td", {}, show, cutButton(place, "✂"));
      })));
    byId("heads").append(element("table", {}, caption, ...rows));
  }
}

function renderHeads() {
  const [red, green, blue] = accentColour();
  for (const [key, {show, canvas}] of Object.entries(thumbnails)) {
    const [kind, layer, head] = headOf(key), {weights} = asked.trace[kind][layer];
    const keys = keysOf(kind, asked.given).length, flat = weights[head];
    canvas.width = keys;
    canvas.height = flat.length / keys;
    const image = new ImageData(canvas.width, canvas.height);
    flat.forEach((weight, i) => image.data.set([red, green, blue, 255 * weight], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
    show.classList.toggle("gone", state.cut.includes(key));
  }
  for (const [key, button] of Object.entries(cutButtons)) {
    const heads = headsOf(model, key ? headOf(key) : []);
    button.setAttribute("aria-pressed", heads.every(head => state.cut.includes(keyOf(head))));
  }
  byId("undo").disabled = !state.earlier.length;
  byId("restore").disabled = !state.cut.length;
}

function accentColour() {
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  return [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
}

// ------------------------------------------------------------------------------------------ one head

/** Where the right answer comes from, [query][key] of the answering kind; nothing where that is not known. */
function origins() {
  if (!ruleHolds) return [];
  const cells = [], firstKey = 1;
  answerCells(data.task, state.content, data.symbols).forEach((row, i) => {
    cells[firstRow() + i] = [...Array(firstKey).fill(false), ...row];
  });
  return cells;
}

/** The head that reads most where the answer comes from, or else comes closest to reading one key each time. */
function brightest() {
  const cells = origins(), size = keysOf(answering, asked.given).length;
  const shareOf = ([kind, layer, head]) => rowsOf(asked.trace[kind][layer].weights[head], size).reduce((sum, row, q) =>
    sum + (cells.length ? row.reduce((on, weight, k) => on + weight * (cells[q]?.[k] ?? 0), 0) : Math.max(...row)), 0);
  return headsOf(model, [answering]).reduce((best, head) => shareOf(head) > shareOf(best) ? head : best);
}

const isMasked = (kind, query, key) => kind === "decoder" && key > query;

/** The head that is shown, with its names, weights and the cell that is looked into. */
function view() {
  const [kind, layer, head] = state.pointed ?? state.chosen, {given, trace} = asked, first = firstRow();
  const keys = keysOf(kind, given), queries = queriesOf(kind, given);
  const rows = rowsOf(trace[kind][layer].weights[head], keys.length).map(row => [...row]);
  const answers = kind === answering || kind === "decoder"; // whether its queries say the answer
  const shown = answers && state.step ? Math.min(first + state.step, queries.length) : queries.length;
  let [query, key] = state.cell ?? [answers ? (state.step ? shown - 1 : first) : 1, null];
  query = Math.min(query, queries.length - 1);
  if (key === null || key >= keys.length || isMasked(kind, query, key)) key = likeliest(rows[query]);
  const cells = kind === answering ? origins() : [];
  return {kind, layer, head, keys, queries, rows, shown, query, key, answers, first, cells};
}

function lookInto(query, key) {
  const now = view();
  if (query !== now.query || key !== now.key) change({cell: [query, key]});
}

/** A mouse that rests while the page changes below it has chosen nothing; a finger chooses by a click. */
const moved = event => event.pointerType === "mouse" && (event.movementX || event.movementY);

/** Everything that shows the head; the same cell is marked among the lines, in the grid and in the numbers. */
function renderHead() {
  const shown = view(), {kind, layer, head, keys, queries, rows, query, key} = shown, place = keyOf([kind, layer, head]);
  for (const [key, {show}] of Object.entries(thumbnails)) show.classList.toggle("chosen", key === place);
  byId("head-title").textContent = `Look at ${placeOf([kind, layer, head])}`
    + (state.cut.includes(place) ? ", which is cut: what it reads is lost" : "");
  const count = asked.answer.length, step = state.step ?? count;
  byId("stepping").hidden = !generates;
  Object.assign(byId("step"), {max: count, value: step});
  byId("step-text").textContent = `token ${step} of ${count}: ${nameOf(asked.answer[step - 1])}`;
  [...byId("answer").children].forEach((item, i) => { item.style.opacity = i < step ? 1 : .15; });
  byId("cell").textContent = `Query ${nameOf(queries[query])} reads key ${nameOf(keys[key])}: `
    + `weight ${rows[query][key].toFixed(3)}`;
  renderLines(shown);
  renderGrid(shown);
  renderNumbers(shown);
}

function renderLines({kind, keys, queries, rows, shown, query, key, answers, first}) {
  const gap = 38, across = Math.max(keys.length, queries.length) * gap + 40, height = answers ? 300 : 280;
  const svg = byId("lines"), x = i => gap * (i + .5) + 20, lines = [], targets = [];
  Object.entries({width: across, height, viewBox: `0 0 ${across} ${height}`}).forEach(pair => svg.setAttribute(...pair));
  svg.style.minWidth = `${.7 * across}px`;                  // smaller, and nobody could read it
  rows.forEach((row, q) => row.forEach((weight, k) => {
    if (weight < .02 || q >= shown) return;
    const at = q === query && k === key, ends = {x1: x(k), y1: 24, x2: x(q), y2: 256};
    lines.push(element("line", {...ends, "stroke-width": 1 + 4 * weight, "stroke-opacity": at ? 1 : .75 * weight}));
    targets.push(element("line", {...ends, class: "hit"}));
    targets.at(-1).onpointermove = event => moved(event) && lookInto(q, k);
    targets.at(-1).onclick = () => lookInto(q, k);
  }));
  const word = (text, i, y, name, q = 0) => element("text", {x: x(i), y, class: name, opacity: q < shown ? 1 : .15}, text);
  svg.replaceChildren(...lines, ...keys.map((token, k) => word(nameOf(token), k, 17, k === key ? "at" : "")),
    ...queries.map((token, q) => word(nameOf(token), q, 274, q === query ? "at" : "", q)),
    ...(answers ? asked.answer.map((token, i) => word(`→${nameOf(token)}`, first + i, 293, "says", first + i)) : []),
    ...targets);
  byId("lines-caption").textContent = "Above the keys, below the queries that read them"
    + (answers ? ", and what the model says there (→)." : ".");
}

function renderGrid({kind, keys, queries, rows, shown, query, key, cells}) {
  const heading = keys.map((token, k) => element("th", {scope: "col", className: k === key ? "at" : ""}, nameOf(token)));
  const lines = rows.map((row, q) => element("tr", {className: q < shown ? "" : "later"},
    element("th", {scope: "row", className: q === query ? "at" : ""}, nameOf(queries[q])),
    ...row.map((weight, k) => {
      if (isMasked(kind, q, k)) return element("td", {className: "masked", title: "comes later: masked"});
      const at = q === query && k === key;
      return styled("td", {className: `${at ? "at" : ""} ${cells[q]?.[k] ? "origin" : ""}`, tabIndex: at ? 0 : -1,
        onclick: () => lookInto(q, k), onpointermove: event => moved(event) && lookInto(q, k),
        title: `${nameOf(queries[q])} reads ${nameOf(keys[k])}: ${weight.toFixed(3)}`}, "--w", weight);
    })));
  const focused = byId("grid").contains(document.activeElement);
  byId("grid").replaceChildren(element("tr", {}, element("td", {className: "masked"}), ...heading), ...lines);
  if (focused) byId("grid").querySelector("td.at").focus({preventScroll: true});
  byId("grid-caption").textContent = "The same weights: a row for each query, a column for each key."
    + (cells.length ? " Outlined: where the right answer comes from." : "");
}

/** Arrow keys move through the grid. */
function moveCell(event) {
  const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}, move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const {kind, keys, queries, query, key} = view(), cell = [query + move[0], key + move[1]];
  const inside = cell[0] in queries && cell[1] in keys;
  if (inside && !isMasked(kind, ...cell)) change({cell});
  document.activeElement.scrollIntoView({block: "nearest", inline: "nearest"});
}

/** Inside one cell: q·k, divided by √Dh, softmax over the row, times the value. */
function renderNumbers({kind, layer, head, keys, queries, rows, query, key}) {
  const size = width / numHeads, traced = asked.trace[kind][layer], most = 16;
  const vector = (all, row) => Array.from(all.subarray(row * width + head * size, row * width + (head + 1) * size));
  const q = vector(traced.query, query), k = vector(traced.key, key), v = vector(traced.value, key);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const isRead = keys.map((_, other) => !isMasked(kind, query, other));
  const scores = keys.map((_, other) => isRead[other] ? dot(q, vector(traced.key, other)) : null);
  const mixture = q.map((_, d) => keys.reduce((sum, _, other) => sum + rows[query][other] * vector(traced.value, other)[d], 0));
  const text = value => value === null ? "masked" : value.toFixed(2), weight = rows[query][key];
  const table = (lines, at) => element("table", {}, ...lines.map(([name, values, format = text]) => element("tr", {},
    element("th", {scope: "row"}, name), ...values.slice(0, most + (at === undefined ? 0 : keys.length)).map(
      (value, i) => element("td", {className: i === at ? "at" : ""}, format(value))),
    ...(at === undefined && size > most ? [`… ${size - most} more`] : []))));
  const say = text => element("p", {}, text);
  byId("numbers").replaceChildren(
    say(`q·k = ${text(scores[key])}, the sum of ${size} products:`),
    table([["q: what the query looks for", q], ["k: what the key offers", k], ["products", q.map((value, i) => value * k[i])]]),
    say(`The same for each key of the row, divided by √${size} = ${text(Math.sqrt(size))}; softmax makes weights of it that sum to one:`),
    table([["key", keys, nameOf], ["q·k", scores], [`÷ √${size}`, scores.map(x => x === null ? x : x / Math.sqrt(size))],
      ["weight", rows[query], value => value.toFixed(3)]], key),
    say("The weight times the key's value is what this key adds to the head's output, the sum over all keys:"),
    table([["v: what the key hands over", v], [`${weight.toFixed(3)} · v`, v.map(value => weight * value)], ["output of the head", mixture]]),
  );
}

// ------------------------------------------------------------------------------------------ the page checks itself

const agreement = {logits: 0, cuts: 0, differing: []};

/** The largest difference between the page's logits and PyTorch's, of the passes that travel with the page. */
async function compareLogits() {
  for (const {given, without, mode, logits} of data.checks) {
    await new Promise(resolve => setTimeout(resolve));      // one at a time: nobody should have to wait
    const theirs = decodeNumbers(logits, "float32"), cuts = cutsOf(model, without, mode);
    const ours = forward({model, cuts}, given.map(tokens => [tokens]));
    theirs.forEach((logit, i) => { agreement.logits = Math.max(agreement.logits, Math.abs(logit - ours[i])); });
  }
  certify();
}

/** A cut that was measured again: is it what PyTorch measured? */
function compareCut(number, count) {
  agreement.cuts += 1;
  if (count !== data.table[number][1]) agreement.differing.push(placeOf(data.table[number][0]));
  certify();
}

function certify() {
  const {logits, cuts, differing} = agreement, total = data.table.length;
  const bad = !(logits < 1e-3) || differing.length;
  byId("certificate").classList.toggle("wrong", bad);
  byId("certificate").textContent = `${bad ? "This page does not compute what PyTorch does. " : ""}`
    + `${data.checks.length} passes, intact and with cuts: logits differ from PyTorch's by at most ${logits.toExponential(1)}. `
    + (cuts < total ? `Measuring every single cut again: ${cuts} of ${total} …`
      : `Every single cut measured again: ${total - differing.length} of ${total} as in PyTorch. ${differing.join("; ")}`);
}

// ------------------------------------------------------------------------------------------ start

function start() {
  buildHeads();
  cutButtons[""] = byId("cut-all");
  const button = (text, onclick) => element("button", {type: "button", onclick}, text), typed = byId("question");
  typed.oninput = () => askText(typed.value);
  byId("delete").onclick = () => write(typed.value.trim().split(/\s+/).slice(0, -1).join(" "));
  byId("symbols").append(...data.symbols.map(nameOf).map(
    name => button(name, () => write(`${typed.value.trim()} ${name}`.trim()))));
  byId("examples").append("examples:", ...data.examples.map(({content, note}) => {
    const text = content.map(nameOf).join(" ");
    return button(note ? `${text} (${note})` : text, () => write(text));
  }));
  for (const radio of document.querySelectorAll("[name=mode]")) radio.onchange = () => change({mode: radio.value});
  byId("cut-all").onclick = () => toggle([]);
  byId("cut-all").hidden = KINDS.length === 1;              // then the kind is all of it
  byId("undo").onclick = () => change({cut: state.earlier.at(-1), earlier: state.earlier.slice(0, -1)});
  byId("restore").onclick = () => cutHeads([]);
  const stepTo = step => change({step: Math.max(1, Math.min(step, asked.answer.length)), cell: null});
  byId("step").oninput = ({target}) => stepTo(Number(target.value));
  byId("back").onclick = () => stepTo((state.step ?? asked.answer.length) - 1);
  byId("forward").onclick = () => stepTo((state.step ?? 0) + 1);
  byId("grid").onkeydown = moveCell;
  matchMedia("(prefers-color-scheme: dark)").onchange = renderHeads;
  typed.value = state.content.map(nameOf).join(" ");
  change({content: state.content});
  change({chosen: brightest()});
  requestAnimationFrame(() => setTimeout(startMeasuring));  // when the answer can be seen
}

function startMeasuring() {
  startWorkers();
  score();
  compareLogits();
  data.table.forEach(([part], number) => {
    for (const {scope} of workers) scope.postMessage({job: [number, [part], "zero", false]});
  });
}

start();
