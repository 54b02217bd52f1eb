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
      cut: [...cut].map(parseHeadInLink).map(keyOf), pointed: null,
      chosen: link.has("head") ? parseHeadInLink(link.get("head")) : null,
      step: Math.max(0, parseInt(link.get("step"))) || null,
      cell: row >= 0 && column >= 0 ? [row, column] : null,
    });
    problem("");
    if (state.cell) reveal("looking");
  } catch (error) {
    if (!asked) change({});
    problem(`This link does not fit this model: ${error.message}`);
  }
  byId("question").value = textOf(state.content);
}

let written, writing;                                       // the fragment in the address bar, and a timer

/** Put the state into the address bar shortly after the last change: browsers refuse frequent updates. */
function linkLater() {
  if (location.protocol === "about:") return;               // in a notebook's frame, there is no address
  written ??= fragment();                                   // a newly opened page needs none
  clearTimeout(writing);
  writing = setTimeout(() => {
    if (fragment() !== written) history.replaceState(null, "", written = fragment());
  }, 300);
}

// ---------------------------------------------------------------- the picture

/** The lines of the head on view, below the sentences on the page. */
function picture() {
  const style = getComputedStyle(document.body), colour = name => style.getPropertyValue(`--${name}`).trim();
  const {part} = view(), drawing = byId("lines").cloneNode(true), size = byId("lines").viewBox.baseVal;
  const sentences = [...["verdict", "exact"].map(id => byId(id).textContent.trim().replace(/\s+/g, " ")),
    `${sentence(partName(part))}: ${byId("cell").textContent}`];
  const width = Math.max(size.width, ...sentences.map(words => 40 + 8 * words.length));
  const rules = [...document.styleSheets[0].cssRules].filter(
    ({selectorText}) => /#lines |^\.chip/.test(selectorText)).map(({cssText}) => cssText);
  const colours = ["page", "ink", "light", "middle"].map(name => `--${name}: ${colour(name)}`).join("; ");
  const place = {y: 110, width: size.width, height: size.height};
  Object.entries(place).forEach(pair => drawing.setAttribute(...pair));
  return element("svg:svg", {xmlns: "http://www.w3.org/2000/svg", width, height: 120 + size.height},
    element("svg:title", {}, sentences.join("; ")),
    element("svg:style", {}, `svg { ${colours}; background: var(--page) }
      .sentence { font: 14px system-ui, sans-serif; fill: var(--ink) } ${rules.join(" ")}`),
    ...sentences.map((words, i) => element("svg:text", {class: "sentence", x: 20, y: 32 + 24 * i}, words)),
    drawing);
}

function savePicture() {
  const text = new XMLSerializer().serializeToString(picture());
  const file = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
  const name = `${data.task}_${architecture}_${formatInLink(view().part)}.svg`;
  element("a", {href: file, download: name}).click();
  byId("shared").textContent = `Saved as ${name}.`;
}
