/* Share the view, as a link that stores the page's state or as a picture. */
"use strict";

// ---------------------------------------------------------------- the link

/** Layers, heads, rows and columns are numbered from 1 in links, as in all visible text. */
const formatInLink = part => part.map(word => Number.isInteger(word) ? word + 1 : word).join(".");

/** Return the fragment (after #) of the link to this state. */
function fragment() {
  const {content, cut, mode, chosen, step, cell} = state, link = new URLSearchParams({ask: textOf(content)});
  if (cut.length) link.set("cut", cut.map(key => formatInLink(partOf(key))).join(" "));
  if (mode !== "zero") link.set("mode", mode);
  link.set("head", formatInLink(chosen));
  if (step) link.set("step", step);
  if (cell) link.set("cell", formatInLink(cell));
  return `#${link}`;
}

/** Return the head [kind, layer, head] for a link's encoder.1.6. */
function parseHeadInLink(text) {
  const part = partOf(text).map((word, i) => i ? word - 1 : word), heads = listHeads(model);
  const found = heads.find(head => keyOf(head) === keyOf(part));
  if (!found) {
    const all = `${formatInLink(heads[0])}, … , ${formatInLink(heads.at(-1))}`;
    throw new Error(`this model has no head ${shorten(text)}; its heads are ${all}`);
  }
  return found;
}

/** Show the state in the link; anything it omits is as on a newly opened page. */
function followLink() {
  const link = new URLSearchParams(location.hash.slice(1)), [example] = data.examples;
  try {
    const content = link.has("ask") ? parse(link.get("ask")) : example[0];
    check(content);
    const cut = new Set((link.get("cut") ?? "").split(" ").filter(text => text));
    const [row, column] = (link.get("cell") ?? "").split(".").map(text => parseInt(text) - 1);
    change({
      content, mode: link.get("mode") === "mean" ? "mean" : "zero",
      cut: [...cut].map(parseHeadInLink).map(keyOf), earlier: [], pointed: null,
      chosen: link.has("head") ? parseHeadInLink(link.get("head")) : null,
      step: Math.max(0, parseInt(link.get("step"))) || null,
      cell: row >= 0 && column >= 0 ? [row, column] : null,
    });
    problem("");
  } catch (error) {
    if (!asked) change({});
    problem(`This link does not fit this model: ${error.message}`);
  }
  byId("question").value = textOf(state.content);
}

let written = null, writing = null;                         // the fragment in the address bar, and a timer

/** Put the state into the address bar shortly after the last change: browsers refuse frequent updates. */
function linkLater() {
  written ??= fragment();                                   // a newly opened page needs none
  clearTimeout(writing);
  writing = setTimeout(() => fragment() !== written && writeLink(), 300);
}

function writeLink() {
  written = fragment();
  history.replaceState(null, "", written);
}

async function copyLink() {
  writeLink();
  try {
    await navigator.clipboard.writeText(location.href);
    byId("shared").textContent = "Link copied.";
  } catch {                                                 // the browser does not allow it
    byId("shared").textContent = "Could not copy; please copy the link from the address bar.";
  }
}

// ---------------------------------------------------------------- the picture

/** Draw a head's grid as squares, with its names; x and y are the position of the first cell. */
function gridInPicture({kind, keys, queries, rows, shown, query, key}, x, y) {
  const size = 28, isOutlined = (q, k) => kind === sourceKind && isAnswerSource(q, k);
  const names = keys.map((token, k) => element("svg:text", {
    class: `key ${k === key ? "at" : ""}`,
    transform: `translate(${x + size * (k + .6)} ${y - 6}) rotate(-45)`,
  }, nameOf(token)));
  return names.concat(rows.slice(0, shown).flatMap((row, q) => [
    element("svg:text", {
      class: `query ${q === query ? "at" : ""}`, x: x - 6, y: y + size * (q + .67),
    }, nameOf(queries[q])),
    ...row.map((weight, k) => element("svg:rect", {
      x: x + size * k + 2, y: y + size * q + 2, width: size - 4, height: size - 4,
      class: isMasked(kind, q, k) ? "masked" : isOutlined(q, k) ? "origin" : "", "fill-opacity": weight,
    })),
  ]));
}

/** Draw the view of a head, its lines and its grid, with the sentences on the page. */
function picture() {
  const seen = view(), shown = byId("lines"), words = id => byId(id).textContent, rest = 120;
  const colour = name => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
  const lines = [...shown.children].filter(one => !one.matches(".target"));
  const sentences = [words("verdict"), words("exact"), `${partName(seen.part)}: ${words("cell")}`];
  const left = Number(shown.getAttribute("width")) + 90, {keys, queries} = seen;
  const widths = sentences.map(words => 40 + 10 * words.length);
  const width = Math.max(left + 28 * keys.length + 20, ...widths);
  const height = rest + Math.max(310, 60 + 28 * queries.length);
  const style = `text { font: 14px system-ui, sans-serif; fill: ${colour("ink")}; text-anchor: middle }
    line { stroke: ${colour("accent")}; stroke-linecap: round }
    rect { fill: ${colour("accent")}; stroke: ${colour("edge")} }
    .page { fill: ${colour("page")}; stroke: none }
    .masked { fill: none; stroke: none } .origin { stroke: ${colour("bad")}; stroke-width: 3 }
    .at { fill: ${colour("accent")}; font-weight: 700 } .says { fill: ${colour("quiet")} }
    .key, .sentence { text-anchor: start } .query { text-anchor: end }
    .first { font-size: 17px; font-weight: 700 }`;
  return element("svg:svg", {
    xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`,
  },
  element("svg:title", {}, sentences.join("; ")), element("svg:style", {}, style),
  element("svg:rect", {class: "page", width, height}),
  ...sentences.map((words, i) => element("svg:text", {
    class: `sentence ${i ? "" : "first"}`, x: 20, y: 32 + 24 * i,
  }, words)),
  element("svg:g", {transform: `translate(0 ${rest})`}, ...lines.map(line => line.cloneNode(true))),
  ...gridInPicture(seen, left, rest + 40));
}

function savePicture() {
  const text = new XMLSerializer().serializeToString(picture()), {architecture, task} = data;
  const file = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
  const name = `${task}_${architecture}_${formatInLink(view().part)}.svg`;
  element("a", {href: file, download: name}).click();
  byId("shared").textContent = `Saved as ${name}.`;
}
