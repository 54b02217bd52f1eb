/* Assemble the page and start it. */
"use strict";

function start() {
  const button = (text, onclick, properties) =>
    element("button", {type: "button", onclick, ...properties}, text);
  const question = byId("question");
  const append = token => write(`${question.value.trim()} ${nameOf(token)}`.trim());
  makeHeads();
  const symbols = data.symbols.map(
    token => button(nameOf(token), () => append(token), {className: "chip", ...tokenStyle(token)}));
  byId("symbols").append(...symbols);
  makeOneTabStop(byId("symbols"), [symbols]);
  byId("examples").append(...data.examples.map(
    ([content, , label]) => button(label, () => write(textOf(content)))));
  const actions = {
    "ask-wrong": askWrong, "cut-all": () => toggle([]), restore: () => change({cut: []}), play,
    delete: () => write(question.value.trim().split(/\s+/).slice(0, -1).join(" ")),
    back: () => stepTo((state.step ?? asked.answer.length) - 1),
    forward: () => stepTo((state.step ?? 0) + 1),
    "show-numbers": toggleNumbers, "save-picture": savePicture, print: () => print(),
    present: ({target}) =>
      target.setAttribute("aria-pressed", document.documentElement.classList.toggle("present")),
  };
  for (const [id, action] of Object.entries(actions)) byId(id).onclick = action;
  question.oninput = () => askText(question.value);
  byId("modes").onchange = event => change({mode: event.target.value});
  byId("grid").onkeydown = moveCell;
  matchMedia("(prefers-color-scheme: dark)").onchange = () => {
    accent = null;
    renderHeads();
  };
  window.onhashchange = followLink;
  followLink();
  makeGuide();
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
