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

const correctWithout = new Map(data.ablations.map(([part, , count]) => [keyOf(part), count])); // PyTorch's
const thumbnails = {}, cutButtons = {"": byId("cut-all")};

/** Like support/view.py: percentage points lost, rounded to the nearest; 0 means none. */
function costInPoints(count) {
  const lost = 100 * (data.num_correct - count) / data.unseen.length;
  return Math.sign(lost) * (lost && Math.max(1, Math.floor(Math.abs(lost) + .5 + 1e-9)));
}

/** The number of sequences that are correct without a part; undefined if not measured yet. */
function countWithout(part) {
  if (state.mode === "zero") return correctWithout.get(keyOf(part));
  return correctByJob[jobOf("mean", [part])]?.filter(Boolean).length;
}

const cutButton = part => cutButtons[keyOf(part)] = element(
  "button", {type: "button", className: "cut", onclick: () => toggle(part)});

/** Write the cost of each cut onto its button once all predictions have been made. */
function renderCosts() {
  const waiting = progress.filter(({guess}) => guess === null).length;
  for (const [key, button] of Object.entries(cutButtons)) {
    const part = partOf(key), count = countWithout(part), lost = costInPoints(count);
    const cost = count === undefined ? "…" : lost ? `${lost > 0 ? "−" : "+"}${Math.abs(lost)}` : "0";
    button.textContent = `✂${key ? "" : " all"}${waiting ? "" : ` ${cost}`}`;
    button.setAttribute("aria-label", `${button.textContent}: cut ${partName(part)}`);
    button.style.setProperty("--loss", waiting ? 0 : Math.max(0, lost || 0) / 100);
  }
  byId("costs").textContent = waiting
    ? "Costs appear after your predictions." : "Numbers: points of accuracy lost.";
}

/** A thumbnail of a head's attention: pointing previews it, a click keeps it. */
function thumbnail(part) {
  const canvas = element("canvas"), button = element("button", {
    type: "button", className: "head", title: partName(part), "aria-label": `look at ${partName(part)}`,
    onclick: () => lookAt(part),
    onpointerenter: event => event.pointerType === "mouse" && change({pointed: part}),
    onpointerleave: () => change({pointed: null}),
  }, canvas);
  thumbnails[keyOf(part)] = {button, canvas};
  return button;
}

function lookAt(part) {
  change({chosen: part, pointed: null, cell: null});
  reveal("looking");
}

/** Build the head table once; renderHeads draws into it. */
function makeHeads() {
  const table = element("table", {role: "grid", "aria-label": "all heads"});
  const rows = [], hasKind = kinds.length > 1;
  for (const kind of kinds) {
    const cutKind = cutButton([kind]), layers = model.means[kind];
    const kindCell = element("th", {scope: "rowgroup", rowSpan: layers.length},
      {encoder: "encoder", decoder: "decoder", cross: "cross-attention"}[kind], cutKind);
    layers.forEach((means, layer) => {
      const cutLayer = cutButton([kind, layer]), heads = means.map((_, head) => [kind, layer, head]);
      const pictures = heads.map(thumbnail), cuts = heads.map(part => cutButton(part));
      rows.push(...[pictures, cuts].map(buttons => [...(hasKind ? [cutKind] : []), cutLayer, ...buttons]));
      table.append(element("tr", {}, ...(hasKind && !layer ? [kindCell] : []),
        element("th", {scope: "row"}, `layer ${layer + 1}`, cutLayer),
        ...heads.map((_, head) => element("td", {}, pictures[head], cuts[head]))));
    });
  }
  table.style.setProperty("--rows", rows.length / 2);
  byId("heads").append(table);
  makeOneTabStop(table, rows);
}

let accent = null;                                          // #rrggbb; reading it takes long

function renderHeads() {
  accent ??= getComputedStyle(document.body).getPropertyValue("--accent").trim();
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
    button.setAttribute("aria-pressed", isCut(partOf(key)));
  }
  document.querySelector(`[name="mode"][value="${state.mode}"]`).checked = true;
  byId("restore").disabled = !state.cut.length;
}
