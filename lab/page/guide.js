/* The experiments, each "predict, cut, look", worded in lab/experiments.py from this run's measurements. */
"use strict";

const {experiments, elsewhere} = data.guide;

/** Where to see what this run does not show: next door or, if that was not trained, by a command. */
function describeElsewhere([task, effects]) {
  const page = document.querySelector(`#pages a[data-run="${task}, encoder"]`);
  return [`To see ${effects.join(" and ")}, open `, page ? element("a", {href: page.href}, `${task}, encoder`)
    : `the page of this run: python train.py --task ${task} --architecture encoder`, ". "];
}

// ---------------------------------------------------------------- progress, kept when the page is reloaded

const STORAGE_KEY = `explorer ${data.checks[0].logits.slice(0, 99)}`;   // other weights, other experiments
const progress = experiments.map(() => ({guess: null, done: []}));
let current = 0;                                            // the experiment that is shown
try {
  Object.assign(progress, JSON.parse(localStorage.getItem(STORAGE_KEY)));
} catch {}                                                  // the browser stores nothing for local files

/** Wrap an action so that progress is saved and shown afterwards. */
const acting = action => () => {
  action();
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(progress));
  } catch {}                                                // then it is lost when the page closes
  renderGuide();
  renderCosts();
  renderScore();
};

/** Whether an experiment waits for a prediction about the current cuts. */
const isAskingAbout = ({trials}, number) => progress[number].guess === null
  && trials.some(({parts}) => jobOf("", parts) === jobOf("", state.cut.map(partOf)));

// ---------------------------------------------------------------- how they are shown

function makeGuide() {
  const turn = step => acting(() => { current += step; });
  byId("previous").onclick = turn(-1);
  byId("next").onclick = turn(1);
  byId("again").onclick = acting(() => {
    progress.forEach(one => Object.assign(one, {guess: null, done: []}));
    current = 0;
    cutHeads([]);
  });
  byId("print").onclick = () => print();
  byId("experiments").append(...experiments.map(makeSteps));
  byId("elsewhere").append(...data.num_correct ? Object.entries(elsewhere).flatMap(describeElsewhere)
    : ["This model is never correct, so no cut can make it worse. Train it for longer."]);
  for (const id of ["previous", "next", "again", "print"]) byId(id).hidden = !experiments.length;
  makeSheet();
  renderGuide();
}

function makeSteps({intro, question, options, trials, look, tells_length: tellsLength}, number) {
  const kept = progress[number], button = (className, text, onclick) => element(
    "button", {type: "button", className, onclick}, text);
  const lengths = data.examples.filter(([, , note]) => !note).map(([content]) => content);
  return element("div", {className: "experiment"},
    element("div", {}, element("p", {className: "found", role: "status"}),
      element("p", {className: "intro"}, intro)),
    element("fieldset", {}, element("legend", {}, element("b", {}, "Predict. "), question),
      ...options.map((text, i) => element("label", {}, element("input", {
        type: "radio", name: `guess${number}`, onchange: acting(() => { kept.guess = i; }),
      }), ` ${text}`))),
    element("div", {className: "trials"}, element("b", {}, "Cut. "), element("span", {className: "wait"}),
      ...trials.map((trial, i) => button("try", "", acting(() => {
        kept.done[i] = true;
        if (data.guide.top_head) change({chosen: data.guide.top_head, pointed: null, cell: null});
        cutHeads(trial.parts.flatMap(part => listHeads(model, part)).map(keyOf), "zero");
        reveal("asking");
      })))),
    element("div", {className: "looks"}, element("b", {}, "Look. "),
      ...look.map(head => button("look", `at ${partName(head)}`, () => lookAt(head))),
      ...tellsLength ? lengths.map(content => button("look", `at it with ${content.length} symbols`, () => {
        cutHeads([]);
        write(textOf(content));
        lookAt(look[1]);
      })) : []));
}

function renderGuide() {
  byId("experiment-title").textContent = experiments.length
    ? `Experiment ${current + 1} of ${experiments.length}: ${experiments[current].title}` : "Experiments";
  byId("previous").disabled = !current;
  byId("next").disabled = current >= experiments.length - 1 || progress[current].guess === null;
  byId("next").title = byId("next").disabled && current < experiments.length - 1 ? "predict first" : "";
  [...byId("experiments").children].forEach((item, number) => {
    const {trials, options, answer, found} = experiments[number], {guess, done} = progress[number];
    const hasGuessed = guess !== null, isDone = hasGuessed && trials.every((_, i) => done[i]);
    item.hidden = number !== current;
    item.querySelectorAll("input").forEach((input, i) => Object.assign(
      input, {checked: guess === i, disabled: hasGuessed && done.some(one => one)}));
    item.querySelector(".wait").textContent = hasGuessed ? "" : "(predict first)";
    item.querySelectorAll(".try").forEach((button, i) => {
      button.disabled = !hasGuessed;
      button.textContent = `✂ ${trials[i].name}${done[i] ? `: ${trials[i].correct}` : ""}`;
    });
    item.querySelector(".looks").hidden = !isDone;
    item.querySelector(".found").textContent = !isDone ? ""
      : `Your prediction was ${guess === answer ? "correct" : "wrong"}. ${found}`;
  });
}

/** For printing: the same experiments as a worksheet, and this run's answers on a sheet of their own. */
function makeSheet() {
  const step = (name, words, items = []) => element("p", {}, element("b", {}, name), ` ${words} `,
    ...items.map(text => element("span", {className: "item"}, text)));
  for (const [number, {title, intro, question, options, answer, trials, found}] of experiments.entries()) {
    const heading = `${number + 1}. ${title}`;
    byId("sheet-experiments").append(
      element("h3", {}, heading), element("p", {}, intro),
      step("Predict.", question, options.map(text => `☐ ${text}`)),
      step("Cut.", "", trials.map(({name}) => `Without ${name}: _____ % correct.`)),
      step("Look.", "What I saw, and why I think it happened:"), element("div", {className: "room"}));
    const measured = trials.map(({name, correct}) => `Without ${name}: ${correct}.`);
    byId("sheet-answers").append(element("h3", {}, heading), step("Answer:", `${options[answer]}.`),
      step("Measured.", measured.join(" ")), step("Explanation.", found));
  }
}
