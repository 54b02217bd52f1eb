/* Assemble the page and start it. */
"use strict";

function start() {
  const button = (text, onclick) => element("button", {type: "button", onclick}, text);
  const question = byId("question");
  makeHeads();
  byId("ask-wrong").onclick = askWrong;
  question.oninput = () => askText(question.value);
  byId("delete").onclick = () => write(question.value.trim().split(/\s+/).slice(0, -1).join(" "));
  const symbols = data.symbols.map(nameOf).map(
    name => button(name, () => write(`${question.value.trim()} ${name}`.trim())));
  byId("symbols").append(...symbols);
  makeOneTabStop(byId("symbols"), [symbols]);
  byId("examples").append("examples:", ...data.examples.map(([content, , note]) => {
    const text = textOf(content);
    return button(note ? `${text} (${note})` : text, () => write(text));
  }));
  byId("modes").onchange = event => change({mode: event.target.value});
  byId("cut-all").onclick = () => toggle([]);
  byId("cut-all").hidden = kinds.length === 1;              // then the kind covers everything
  byId("undo").onclick = () => change({cut: state.earlier.at(-1), earlier: state.earlier.slice(0, -1)});
  byId("restore").onclick = () => cutHeads([]);
  byId("stepping").hidden = architecture === "encoder";
  byId("step").oninput = event => stepTo(Number(event.target.value));
  byId("back").onclick = () => stepTo((state.step ?? asked.answer.length) - 1);
  byId("forward").onclick = () => stepTo((state.step ?? 0) + 1);
  byId("grid").onkeydown = moveCell;
  matchMedia("(prefers-color-scheme: dark)").onchange = renderHeads;
  byId("copy-link").onclick = copyLink;
  byId("save-picture").onclick = savePicture;
  window.onhashchange = followLink;
  followLink();
  makeGuide();
  requestAnimationFrame(() => setTimeout(startMeasuring));  // once the answer is visible
}

function startMeasuring() {
  startWorkers();
  measure();
  compareLogits();
  for (const [job, [row]] of rowsByJob) {
    for (const worker of workers) worker.postMessage({job: [job, [data.ablations[row][0]], "zero", false]});
  }
}

try {
  start();
} catch (error) {                                           // a model with parts that ours lacks
  warn(error.message);
} finally {
  document.body.classList.remove("starting");
}
