/* One head: its weights as lines between tokens and as a grid, and the numbers inside one cell. All three
   show the same view, so that a mark in one appears in the others. */
"use strict";

/** Whether the prediction at this query of the answering kind comes from this key; keys start with START. */
const isAnswerSource = (query, key) => asked.answerSources[query - asked.first]?.[key - 1] ?? false;
const isMasked = (kind, query, key) => kind === "decoder" && key > query;

/** The head on view: its rows and their tokens, the number of queries shown, and the marked cell. */
function view() {
  const [kind, layer, head] = state.pointed ?? state.chosen, {inputs, trace, first} = asked;
  const keys = keysOf(kind, inputs), queries = queriesOf(kind, inputs), traced = trace[kind][layer];
  const rows = splitRows(traced.weights[head], keys.length).map(row => [...row]);
  const says = kind === sourceKind || kind === "decoder";     // whether its queries predict the answer
  const shown = says && state.step ? Math.min(first + state.step, queries.length) : queries.length;
  const usual = says && state.step ? shown - 1 : says ? first : 1;      // the newest query, or the first
  const query = Math.min(state.cell?.[0] ?? usual, queries.length - 1);
  let key = state.cell?.[1] ?? keys.length;
  if (key >= keys.length || isMasked(kind, query, key)) key = argmax(rows[query]);
  return {part: [kind, layer, head], kind, head, keys, queries, traced, rows, says, shown, query, key};
}

function renderHead() {
  const seen = view(), {part, kind, keys, queries, rows, says, query, key} = seen, {answer} = asked;
  const step = state.step ?? answer.length, shownKey = keyOf(part);
  for (const [key, {button}] of Object.entries(thumbnails)) {
    button.classList.toggle("chosen", key === shownKey);
  }
  byId("head-title").textContent = sentence(partName(part))
    + (state.cut.includes(shownKey) ? " (cut: its output is discarded)" : "");
  byId("stepping").hidden = architecture === "encoder" || !says;
  byId("step-text").textContent = `token ${step} of ${answer.length}`;
  for (const id of ["answered", "likely"]) {
    [...byId(id).children].forEach((item, i) => item.classList.toggle("later", i > step));
  }
  byId("cell").replaceChildren(
    chip(queries[query]), " attends to ", chip(keys[key]), ` with weight ${rows[query][key].toFixed(3)}`);
  const hasSources = kind === sourceKind && asked.answerSources.length;
  byId("caption").textContent = hasSources ? "Outlined: where the answer comes from."
    : kind === "decoder" ? "Hatched: later tokens, which are masked." : "";
  renderLines(seen);
  renderGrid(seen);
  renderNumbers(seen);
}

function stepTo(step) {
  change({step: Math.max(1, Math.min(step, asked.answer.length)), cell: null});
}

let playing = null;                                         // the timer that steps on

/** Step through the answer, from its start if it is complete; a second press stops. */
function play() {
  const stop = () => {
    playing = clearInterval(playing);
    byId("play").textContent = "▶";
    byId("play").setAttribute("aria-label", "play");
  };
  if (playing) return stop();
  const goOn = () => {
    if (state.step >= asked.answer.length || byId("stepping").hidden) return stop();
    stepTo((state.step ?? 0) + 1);
  };
  if (state.step >= asked.answer.length) change({step: null});
  playing = setInterval(goOn, 900);
  byId("play").textContent = "❙❙";
  byId("play").setAttribute("aria-label", "pause");
  goOn();
}

/** Handlers that select a cell. A mouse at rest selects nothing when the page scrolls under it. */
function cellHandlers(query, key) {
  const look = () => {
    const now = view(), isHidden = query >= now.shown || isMasked(now.kind, query, key);
    if (!isHidden && (query !== now.query || key !== now.key)) change({cell: [query, key]});
  };
  const isMoved = event => event.pointerType === "mouse" && (event.movementX || event.movementY);
  return {onclick: look, onpointermove: event => isMoved(event) && look()};
}

/** Arrow keys, Home and End move through the grid. */
function moveCell(event) {
  const {kind, keys, queries, shown, query, key} = view();
  const last = kind === "decoder" ? query : keys.length - 1;            // later keys are masked
  const move = moveForKey(event.key, -key, last - key);
  if (!move) return;
  event.preventDefault();
  const cell = [query + move[0], key + move[1]], isInside = cell[0] in queries && cell[1] in keys;
  if (isInside && cell[0] < shown && !isMasked(kind, ...cell)) change({cell});
  byId("grid").querySelector("td.at").focus();
}

// ---------------------------------------------------------------- lines and grid

/* Both are rebuilt only if their size changes; otherwise their parts are updated, so that a change of weights
   moves lines and colours gradually. */
let lines = {}, grid = {};

const isSameSize = (drawn, keys, queries) => drawn.keys === keys.length && drawn.queries === queries.length;
const GAP = 40, LEFT = 58, HEIGHT = 284;                                  // between tokens, and for the names of the rows

/** Keys at the top, queries at the bottom, and the model's output below them. */
function makeLines(keys, queries) {
  const x = i => LEFT + GAP * (i + .5), svg = byId("lines");
  const chips = (tokens, y) => tokens.map((_, i) => element("svg:g", {},
    element("svg:rect", {x: x(i) - 17, y, width: 34, height: 22, rx: 5}),
    element("svg:text", {x: x(i), y: y + 15})));
  const cells = queries.map((_, q) => keys.map((_, k) => {
    const ends = {x1: x(k), y1: 26, x2: x(q), y2: 228};
    return [element("svg:line", {class: "line", ...ends}),
      element("svg:line", {class: "target", ...ends, ...cellHandlers(q, k)})];          // wide, invisible
  }));
  const rows = [chips(keys, 2), chips(queries, 230), chips(queries, 260)];
  const width = LEFT + GAP * Math.max(keys.length, queries.length);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  byId("lines-box").style.setProperty("--ratio", width / HEIGHT);
  svg.replaceChildren(...cells.flat().map(([line]) => line), ...rows.flat(),
    ...cells.flat().map(([, target]) => target));
  lines = {keys: keys.length, queries: queries.length, cells, rows};
}

function renderLines({keys, queries, rows, says, shown, query, key}) {
  if (!isSameSize(lines, keys, queries)) makeLines(keys, queries);
  const {answer, first} = asked, outputs = queries.map((_, q) => says ? answer[q - first] : undefined);
  const show = (group, token, isAt, isShown) => {
    group.setAttribute("class", `chip ${isAt ? "at" : ""} ${nameOf(token ?? 0).length > 2 ? "long" : ""}`);
    group.setAttribute("visibility", token === undefined || !isShown ? "hidden" : "visible");
    group.style = "";
    Object.entries(tokenStyle(token)).forEach(([name, value]) => group.style.setProperty(name, value));
    group.lastChild.textContent = token === undefined ? "" : nameOf(token);
  };
  byId("output-name").classList.toggle("later", !says);
  [keys, queries, outputs].forEach((tokens, row) => tokens.forEach(
    (token, i) => show(lines.rows[row][i], token, [key, query][row] === i, !row || i < shown)));
  lines.cells.forEach((cells, q) => cells.forEach(([line, target], k) => {
    const weight = q < shown ? rows[q][k] : 0, isDrawn = weight >= .02, isAt = q === query && k === key;
    line.style.strokeWidth = 1 + 5 * weight;
    line.style.strokeOpacity = isDrawn ? isAt ? 1 : .15 + .7 * weight : 0;
    line.style.setProperty("--hue", tokenStyle(keys[k])["--hue"] ?? 0);
    line.style.setProperty("--chroma", tokenStyle(keys[k])["--chroma"] ?? 0);
    target.setAttribute("pointer-events", isDrawn ? "stroke" : "none");
  }));
}

function makeGrid(keys, queries) {
  const heading = scope => element("th", {scope}, element("b", {className: "chip"}));
  const columns = keys.map(() => heading("col")), rows = queries.map(() => heading("row"));
  const cells = queries.map((_, q) => keys.map(
    (_, k) => element("td", {role: "gridcell", ...cellHandlers(q, k)})));
  byId("grid").replaceChildren(element("tr", {}, element("td"), ...columns),
    ...cells.map((row, q) => element("tr", {}, rows[q], ...row)));
  byId("grid").style.setProperty("--keys", keys.length);
  byId("grid").style.setProperty("--queries", queries.length);
  grid = {keys: keys.length, queries: queries.length, columns, rows, cells};
}

function renderGrid({part, kind, keys, queries, rows, shown, query, key}) {
  if (!isSameSize(grid, keys, queries)) makeGrid(keys, queries);
  const name = (heading, token, isAt, text) => {
    const made = chip(token);
    made.textContent = text;
    heading.replaceChildren(made);
    heading.classList.toggle("at", isAt);
  };
  const short = {[START]: "S", [END]: "E"};                 // columns are narrow
  keys.forEach((token, k) => name(grid.columns[k], token, k === key, short[token] ?? nameOf(token)));
  queries.forEach((token, q) => name(grid.rows[q], token, q === query, nameOf(token)));
  grid.cells.forEach((cells, q) => cells.forEach((cell, k) => {
    const isAt = q === query && k === key, masked = isMasked(kind, q, k);
    const isOutlined = kind === sourceKind && isAnswerSource(q, k);
    cell.title = masked
      ? `${nameOf(queries[q])} cannot attend to ${nameOf(keys[k])}, which comes later (masked)`
      : `${nameOf(queries[q])} attends to ${nameOf(keys[k])}: ${rows[q][k].toFixed(3)}`
        + (isOutlined ? ", where the correct answer comes from" : "");
    cell.setAttribute("aria-label", cell.title);
    cell.className = `${masked ? "masked" : ""} ${isAt ? "at" : ""} ${isOutlined ? "origin" : ""}`;
    cell.style.setProperty("--w", rows[q][k]);
    cell.tabIndex = isAt ? 0 : -1;
    cell.parentElement.classList.toggle("later", q >= shown);
  }));
  byId("grid").setAttribute("aria-label", `attention weights of ${partName(part)}: a row for each query`);
}

/** Show the arithmetic of the marked cell in place of the heads, or these again. */
function toggleNumbers() {
  byId("numbers").hidden = !byId("numbers").hidden;
  document.body.classList.toggle("calculating", !byId("numbers").hidden);
  byId("show-numbers").setAttribute("aria-expanded", !byId("numbers").hidden);
  byId("show-numbers").textContent = `${byId("numbers").hidden ? "show" : "hide"} the numbers`;
  change({});
  reveal(byId("numbers").hidden ? "looking" : "numbers");
}

/** Inside one cell: q·k, divided by √Dh, softmax over the row, times the value. */
function renderNumbers({kind, head, keys, traced, rows, query, key}) {
  if (byId("numbers").hidden) return;
  const {d_model: width, num_heads: heads} = data.config, size = width / heads, maxShown = 7;
  const part = (all, row) => [...all.subarray(row * width + head * size, row * width + (head + 1) * size)];
  const dot = (one, other) => one.reduce((sum, value, i) => sum + value * other[i], 0);
  const q = part(traced.query, query), k = part(traced.key, key), v = part(traced.value, key);
  const values = keys.map((_, i) => part(traced.value, i)), weight = rows[query][key];
  const scores = keys.map((_, i) => isMasked(kind, query, i) ? null : dot(q, part(traced.key, i)));
  const output = q.map((_, d) => dot(rows[query], values.map(value => value[d])));

  const text = (value, digits = 2) => value === null ? "masked" : value.toFixed(digits);
  const line = (name, texts, marked) => element("tr", {}, element("th", {scope: "row"}, name),
    ...texts.map((text, i) => element("td", {className: i === marked ? "at" : ""}, text)));
  const vector = (name, numbers) => line(name, [
    ...numbers.slice(0, maxShown).map(number => text(number)),
    ...(size > maxShown ? [`… ${size - maxShown} more`] : []),
  ]);
  const say = words => element("p", {}, words);
  byId("numbers").replaceChildren(
    say(`q·k = ${text(scores[key])}, the sum of ${size} products:`),
    element("table", {}, vector("q: what the query is looking for", q),
      vector("k: what the key can be found by", k),
      vector("products", q.map((value, i) => value * k[i]))),
    say(`The same for every key in the row, divided by √${size} = ${text(Math.sqrt(size))}; `
      + "softmax turns the results into weights that sum to one:"),
    element("table", {}, line("key", keys.map(nameOf), key),
      line("q·k", scores.map(score => text(score)), key),
      line(`÷ √${size}`, scores.map(score => text(score && score / Math.sqrt(size))), key),
      line("weight", rows[query].map(value => text(value, 3)), key)),
    say("Weight times value is this key's contribution to the head's output, which sums over all keys:"),
    element("table", {}, vector("v: what the key hands over", v),
      vector(`${text(weight, 3)} · v`, v.map(value => weight * value)), vector("output of the head", output)),
  );
}
