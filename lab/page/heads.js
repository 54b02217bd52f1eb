/* All heads side by side: what each attends to, the cost of removing it, and the buttons that cut. */
"use strict";

/** How a key moves in a grid, [down, right]; Home and End move this far. Undefined for other keys. */
function moveForKey(key, home, end) {
  const arrows = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
  return {...arrows, Home: [0, home], End: [0, end]}[key];
}

/** Turn many buttons into one tab stop: arrow keys, Home and End move between them. rows are [row][column]; a
   button may appear in several cells. */
function makeOneTabStop(container, rows) {
  const all = [...new Set(rows.flat())];
  const stopAt = chosen => all.forEach(button => { button.tabIndex = button === chosen ? 0 : -1; });
  stopAt(all[0]);
  container.addEventListener("focusin", ({target}) => all.includes(target) && stopAt(target));
  container.addEventListener("keydown", event => {
    let row = rows.findIndex(row => row.includes(event.target));
    const column = rows[row]?.indexOf(event.target), move = moveForKey(event.key, -column, rows[row]?.length);
    if (row < 0 || !move) return;
    event.preventDefault();
    const [down, right] = move;
    row += down;
    while (down && rows[row]?.[column] === event.target) row += down;
    const there = rows[row] ?? [], next = Math.max(0, Math.min(column + right, there.length - 1));
    there[next]?.focus();
  });
}

const correctWithout = new Map(data.ablations.map(([part, count]) => [keyOf(part), count])); // PyTorch's
const costInPoints = count => Math.round(100 * (data.num_correct - count) / data.unseen.length);
const thumbnails = {}, cutButtons = {"": byId("cut-all")};

/** The button that cuts a part, with the cost of that cut alone in percentage points. */
function cutButton(part, text) {
  const lost = costInPoints(correctWithout.get(keyOf(part)));
  const cost = lost > 0 ? `−${lost}` : lost < 0 ? `+${-lost}` : "0";
  const button = element("button", {
    type: "button", className: "cut", onclick: () => toggle(part), "--loss": Math.max(0, lost) / 100,
    "aria-label": `${text} ${cost}: cut ${partName(part)}`,
  }, `${text} ${cost}`);
  cutButtons[keyOf(part)] = button;
  return button;
}

/** A thumbnail of a head's attention: pointing previews it below, a click keeps it there. */
function thumbnail(part) {
  const canvas = element("canvas"), button = element("button", {
    type: "button", className: "head", title: partName(part), "aria-label": `look at ${partName(part)}`,
    onclick: () => change({chosen: part, pointed: null, cell: null}),
    onpointerenter: event => event.pointerType === "mouse" && change({pointed: part}),
    onpointerleave: () => change({pointed: null}),
  }, canvas);
  thumbnails[keyOf(part)] = {button, canvas};
  return button;
}

/** Build the head tables once; renderHeads draws into them. */
function makeHeads() {
  for (const kind of kinds) {
    const rows = [], label = `the heads of ${KIND_NAMES[kind]}`;
    const table = element("table", {role: "grid", "aria-label": label});
    model.means[kind].forEach((means, layer) => {
      const cutLayer = cutButton([kind, layer], "✂"), heads = means.map((_, head) => [kind, layer, head]);
      const pictures = heads.map(thumbnail), cuts = heads.map(part => cutButton(part, "✂"));
      rows.push([cutLayer, ...pictures], [cutLayer, ...cuts]);
      table.append(element("tr", {}, element("th", {scope: "row"}, `layer ${layer + 1}`, cutLayer),
        ...heads.map((_, head) => element("td", {}, pictures[head], cuts[head]))));
    });
    byId("heads").append(element("p", {}, KIND_NAMES[kind], cutButton([kind], "✂ all")), table);
    makeOneTabStop(table, rows);
  }
}

function renderHeads() {
  const accent = getComputedStyle(document.body).getPropertyValue("--accent").trim();         // #rrggbb
  const colour = [1, 3, 5].map(at => parseInt(accent.slice(at, at + 2), 16));
  for (const [key, {button, canvas}] of Object.entries(thumbnails)) {
    const [kind, layer, head] = partOf(key), flat = asked.trace[kind][layer].weights[head];
    canvas.width = keysOf(kind, asked.inputs).length;
    canvas.height = flat.length / canvas.width;
    const image = new ImageData(canvas.width, canvas.height);
    flat.forEach((weight, i) => image.data.set([...colour, 255 * weight], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
    button.classList.toggle("gone", state.cut.includes(key));
  }
  for (const [key, button] of Object.entries(cutButtons)) {
    button.setAttribute("aria-pressed", isCut(key ? partOf(key) : []));
  }
  document.querySelector(`[name="mode"][value="${state.mode}"]`).checked = true;
  byId("undo").disabled = !state.earlier.length;
  byId("restore").disabled = !state.cut.length;
}
