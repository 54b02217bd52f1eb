/* Assemble the page and start it. */
"use strict";

function start() {
  const button = (text, onclick, properties) =>
    element("button", {type: "button", onclick, ...properties}, text);
  const question = byId("question");
  makeHeads();
  const symbols = data.symbols.map(token => button(nameOf(token),
    () => write(`${question.value.trim()} ${nameOf(token)}`.trim()), {className: "chip", ...tokenStyle(token)}));
  byId("symbols").append(...symbols);
  makeOneTabStop(byId("symbols"), [symbols]);
  byId("examples").append(...data.examples.map(([content, , note], i) =>
    button(note ? "too long" : i ? "short" : "long", () => write(textOf(content)), {title: note || textOf(content)})));
  const actions = {
    "ask-wrong": askWrong, "cut-all": () => toggle([]), restore: () => cutHeads([]), play,
    delete: () => write(question.value.trim().split(/\s+/).slice(0, -1).join(" ")),
    undo: () => change({cut: state.earlier.at(-1), earlier: state.earlier.slice(0, -1)}),
    back: () => stepTo((state.step ?? asked.answer.length) - 1),
    forward: () => stepTo((state.step ?? 0) + 1),
    "show-numbers": toggleNumbers, "copy-link": copyLink, "save-picture": savePicture,
    present: () => byId("present").setAttribute("aria-pressed", document.body.classList.toggle("present")),
  };
  for (const [id, action] of Object.entries(actions)) byId(id).onclick = action;
  question.oninput = () => askText(question.value);
  byId("modes").onchange = event => {
    change({mode: event.target.value});
    if (state.mode === "mean") measureEach("mean");
    renderCosts();
  };
  byId("grid").onkeydown = moveCell;
  document.querySelectorAll("dfn").forEach(explain);
  matchMedia("(prefers-color-scheme: dark)").onchange = renderHeads;
  window.onhashchange = followLink;
  followLink();
  makeGuide();
  renderCosts();
  requestAnimationFrame(() => setTimeout(startMeasuring));  // once the answer is visible
}

function startMeasuring() {
  startWorkers();
  measure();
  compareLogits();
  measureEach("zero");
}

try {
  start();
} catch (error) {                                           // a model with parts that ours lacks
  warn(error.message);
} finally {
  document.body.classList.remove("starting");
}
