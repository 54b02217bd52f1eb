/* One head: its weights as lines between tokens and as a grid, and the numbers inside one cell. All three
   show the same view, so that a mark in one appears in the others. */
"use strict";

/** The head that attends most to the symbols the answer comes from, or else the most focused one. */
function findTopHead() {
  const {first, answerSources, trace, inputs} = asked, keys = keysOf(sourceKind, inputs).length;
  const masses = listHeads(model, [sourceKind]).map(head => {
    const rows = splitRows(trace[sourceKind][head[1]].weights[head[2]], keys);
    const massIn = (row, query) => answerSources.length ? row.reduce(
      (sum, weight, key) => sum + (isAnswerSource(query, key) ? weight : 0), 0) : Math.max(...row);
    return {head, mass: rows.map(massIn).reduce((one, other) => one + other)};
  });
  return masses.reduce((best, other) => other.mass > best.mass ? other : best).head;
}

/** Whether the prediction at this query of the answering kind comes from this key; keys start with START. */
const isAnswerSource = (query, key) => asked.answerSources[query - asked.first]?.[key - 1] ?? false;
const isMasked = (kind, query, key) => kind === "decoder" && key > query;

/** The head on view: its rows and their names, the number of queries shown, and the marked cell. */
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
  const seen = view(), {part, keys, queries, rows, query, key} = seen, {answer} = asked;
  const step = state.step ?? answer.length, shownKey = keyOf(part);
  for (const [key, {button}] of Object.entries(thumbnails)) {
    button.classList.toggle("chosen", key === shownKey);
  }
  byId("head-title").textContent = `Look at ${partName(part)}`
    + (state.cut.includes(shownKey) ? " (cut: its output is discarded)" : "");
  Object.assign(byId("step"), {max: answer.length, value: step});
  const stepText = step ? `token ${step} of ${answer.length}: ${nameOf(answer[step - 1])}` : "no token";
  byId("step").setAttribute("aria-valuetext", stepText);
  byId("step-text").textContent = stepText;
  [...byId("answer").children].forEach((item, i) => item.classList.toggle("later", i >= step));
  byId("cell").textContent =
    `Query ${nameOf(queries[query])} attends to key ${nameOf(keys[key])} `
    + `with weight ${rows[query][key].toFixed(3)}`;
  renderLines(seen);
  renderGrid(seen);
  renderNumbers(seen);
}

function stepTo(step) {
  change({step: Math.max(1, Math.min(step, asked.answer.length)), cell: null});
}

/** Handlers that select a cell. A mouse at rest selects nothing when the page scrolls under it. */
function cellHandlers(query, key) {
  const look = () => {
    const now = view();
    if (query !== now.query || key !== now.key) change({cell: [query, key]});
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
  document.activeElement.scrollIntoView({block: "nearest", inline: "nearest"});
}

/** Keys at the top, queries at the bottom, and the model's output below them. */
function renderLines({keys, queries, rows, says, shown, query, key}) {
  const gap = 38, width = Math.max(keys.length, queries.length) * gap + 40, height = says ? 300 : 280;
  const x = i => 20 + gap * (i + .5), lines = [], targets = [], {answer, first} = asked;
  rows.slice(0, shown).forEach((row, q) => row.forEach((weight, k) => {
    if (weight < .02) return;
    const ends = {x1: x(k), y1: 24, x2: x(q), y2: 256}, isAt = q === query && k === key;
    lines.push(element("svg:line", {
      ...ends, "stroke-width": 1 + 4 * weight, "stroke-opacity": isAt ? 1 : .75 * weight,
    }));
    targets.push(element("svg:line", {...ends, class: "target", ...cellHandlers(q, k)}));   // wide, invisible
  }));
  const words = (tokens, y, marked, from = 0, before = "") => tokens.map((token, i) => element("svg:text", {
    x: x(from + i), y, class: `${i === marked ? "at" : ""} ${before ? "says" : ""}`,
    visibility: y < 100 || from + i < shown ? "visible" : "hidden",
  }, before + nameOf(token)));
  const svg = byId("lines");
  for (const [name, value] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`})) {
    svg.setAttribute(name, value);
  }
  svg.style.minWidth = `${.7 * width}px`;                   // smaller text would be illegible
  svg.replaceChildren(
    ...lines, ...words(keys, 17, key), ...words(queries, 274, query),
    ...(says ? words(answer, 293, null, first, "→") : []), ...targets,
  );
  byId("lines-caption").textContent =
    `Top: keys. Bottom: queries${says ? ", with the model's output at each (→)" : ""}.`;
}

function renderGrid({part, kind, keys, queries, rows, shown, query, key}) {
  const outlined = kind === sourceKind && asked.answerSources.length, grid = byId("grid");
  const heading = (scope, token, isAt) => element("th", {scope, className: isAt ? "at" : ""}, nameOf(token));
  const cell = (weight, q, k) => {
    const isAt = q === query && k === key, reads = `${nameOf(queries[q])} attends to ${nameOf(keys[k])}`;
    const masked = isMasked(kind, q, k), isOutlined = outlined && isAnswerSource(q, k), text = masked
      ? `${nameOf(queries[q])} cannot attend to ${nameOf(keys[k])}, which comes later (masked)`
      : `${reads}: ${weight.toFixed(3)}${isOutlined ? ", where the correct answer comes from" : ""}`;
    const named = {role: "gridcell", title: text, "aria-label": text};
    if (masked) return element("td", {...named, className: "masked"});
    return element("td", {
      ...named, className: `${isAt ? "at" : ""} ${isOutlined ? "origin" : ""}`, tabIndex: isAt ? 0 : -1,
      "--w": weight, ...cellHandlers(q, k),
    });
  };
  const hasFocus = grid.contains(document.activeElement);
  grid.setAttribute("aria-label", `attention weights of ${partName(part)}: a row for each query`);
  grid.replaceChildren(
    element("tr", {}, element("td"),
      ...keys.map((token, k) => heading("col", token, k === key))),
    ...rows.map((row, q) => element("tr", {className: q < shown ? "" : "later"},
      heading("row", queries[q], q === query), ...row.map((weight, k) => cell(weight, q, k)))),
  );
  if (hasFocus) grid.querySelector("td.at").focus({preventScroll: true});
  byId("grid-caption").textContent = "The same weights, with one row per query and one column per key."
    + (outlined ? " Outlined: the symbols the correct answer comes from." : "")
    + (kind === "decoder" ? " Hatched: masked (future tokens)." : "");
}

/** Inside one cell: q·k, divided by √Dh, softmax over the row, times the value. */
function renderNumbers({kind, head, keys, traced, rows, query, key}) {
  const {d_model: width, num_heads: heads} = data.config, size = width / heads, maxShown = 16;
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
