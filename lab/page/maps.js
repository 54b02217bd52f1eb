/* A head's weights as lines between tokens and as a grid. Both are rebuilt only if their size changes;
   otherwise their parts are updated, so that lines and colours change gradually. */
"use strict";

let maps = {};                                              // the size, and the parts of lines and grid

const restyle = (node, styles) =>
  Object.entries(styles).forEach(([name, value]) => node.style.setProperty(name, value));

/** Keys at the top of the lines, queries at the bottom, and the model's output below them. */
function makeMaps(keys, queries) {
  const count = Math.max(keys.length, queries.length), gap = Math.max(40, 400 / count);     // between tokens
  const left = 5.8 * Math.max(10, count), width = left + gap * count, height = Math.round(.62 * width);
  const x = i => left + gap * (i + .5);
  const each = make => queries.map((_, q) => keys.map((_, k) => make(q, k)));
  const makeLine = (q, k, properties) =>
    element("svg:line", {x1: x(k), y1: 26, x2: x(q), y2: height - 56, ...properties});
  const lines = each((q, k) => makeLine(q, k, {class: "line"}));
  const targets = each((q, k) => makeLine(q, k, {class: "target", ...cellHandlers(q, k)}));
  const cells = each((q, k) => element("td", {role: "gridcell", ...cellHandlers(q, k)}));
  const makeChips = (tokens, y) => tokens.map((_, i) => element("svg:g", {}, element(
    "svg:rect", {x: x(i) - 17, y, width: 34, height: 22, rx: 5}), element("svg:text", {x: x(i), y: y + 15})));
  const chips = [makeChips(keys, 2), makeChips(queries, height - 54), makeChips(queries, height - 24)];
  const columns = keys.map(() => element("th", {scope: "col"}));
  const rows = queries.map(() => element("th", {scope: "row"}));
  byId("lines").setAttribute("viewBox", `0 0 ${width} ${height}`);
  byId("lines").replaceChildren(...lines.flat(), ...chips.flat(), ...targets.flat());
  byId("grid").replaceChildren(element("tr", {}, element("td"), ...columns),
    ...cells.map((row, q) => element("tr", {}, rows[q], ...row)));
  restyle(byId("maps"), {"--height": height, "--keys": keys.length, "--queries": queries.length});
  maps = {size: `${keys.length} ${queries.length}`, lines, targets, cells, chips, columns, rows};
}

function renderMaps({part, kind, keys, queries, rows, says, shown, query, key}) {
  if (maps.size !== `${keys.length} ${queries.length}`) makeMaps(keys, queries);
  const {answer, first} = asked, outputs = queries.map((_, q) => says ? answer[q - first] : undefined);
  const showChip = (group, token, isAt, isShown) => {
    const text = token === undefined ? "" : nameOf(token);
    group.setAttribute("class", `chip ${isAt ? "at" : ""} ${text.length > 2 ? "long" : ""}`);
    group.setAttribute("visibility", text && isShown ? "visible" : "hidden");
    restyle(group, tokenStyle(token));
    group.lastChild.textContent = text;
  };
  [keys, queries, outputs].forEach((tokens, row) => tokens.forEach(
    (token, i) => showChip(maps.chips[row][i], token, [key, query][row] === i, !row || i < shown)));
  const showHeading = (heading, token, isAt, text) => {
    heading.replaceChildren(chip(token, {text}));
    heading.classList.toggle("at", isAt);
  };
  const short = {[START]: "S", [END]: "E"};                 // columns are narrow
  keys.forEach((token, k) => showHeading(maps.columns[k], token, k === key, short[token]));
  queries.forEach((token, q) => showHeading(maps.rows[q], token, q === query));
  rows.forEach((row, q) => row.forEach((weight, k) => {
    const isAt = q === query && k === key, isShown = q < shown && weight >= .02, line = maps.lines[q][k];
    restyle(line, {...tokenStyle(keys[k]), "stroke-width": 1 + 5 * weight,
      "stroke-opacity": !isShown ? 0 : isAt ? 1 : .15 + .7 * weight});
    maps.targets[q][k].setAttribute("pointer-events", isShown ? "stroke" : "none");
    const cell = maps.cells[q][k], masked = isMasked(kind, q, k);
    const [from, to] = [queries[q], keys[k]].map(nameOf);
    const isOutlined = kind === sourceKind && isAnswerSource(q, k);
    cell.title = masked ? `${from} cannot attend to ${to}, which comes later (masked)`
      : `${from} attends to ${to}: ${weight.toFixed(3)}${isOutlined ? ", where the answer comes from" : ""}`;
    cell.setAttribute("aria-label", cell.title);
    cell.className = `${masked ? "masked" : ""} ${isAt ? "at" : ""} ${isOutlined ? "origin" : ""}`;
    cell.tabIndex = isAt ? 0 : -1;
    restyle(cell, {"--w": weight});
    cell.parentElement.classList.toggle("later", q >= shown);
  }));
  byId("output-name").classList.toggle("later", !says);
  byId("grid").setAttribute("aria-label", `attention weights of ${partName(part)}: a row for each query`);
}
