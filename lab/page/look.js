/* One head: which cell is marked, how its answer is stepped through, and the numbers inside the cell. */
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
  renderMaps(seen);
  renderNumbers(seen);
}

function stepTo(step) {
  change({step: Math.max(1, Math.min(step, asked.answer.length)), cell: null});
}

let playing = null;                                         // the timer that steps on

/** Step through the answer, from its start if it is complete; a second press stops. */
function play() {
  const stop = () => {
    clearInterval(playing);
    playing = null;
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
