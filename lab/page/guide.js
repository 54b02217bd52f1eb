/* The experiments, each "predict, cut, look", worded in lab/experiments.py from this run's measurements. */
"use strict";

const {experiments, elsewhere, top_head: topHead} = data.guide;

/** Where to see what this run does not show: next door or, if that was not trained, by a command. */
function describeElsewhere([task, effects]) {
  const page = document.querySelector(`#pages a[data-run="${task}, encoder"]`);
  return [`To see ${effects.join(" and ")}, open `, page ? element("a", {href: page.href}, `${task}, encoder`)
    : `the page of this run: python train.py --task ${task} --architecture encoder`, ". "];
}

const progress = experiments.map(() => ({guess: null, done: []}));
let current = 0;                                            // the experiment that is shown

/** Wrap an action so that its progress is shown afterwards. */
const acting = action => () => {
  action();
  renderGuide();
  renderCosts();
  renderScore();
};

/** The first experiment that asks about these cuts, unless one that does has been predicted; else −1. */
function findAsking(cut) {
  const job = jobOf("", cut.map(partOf));
  const isAsked = experiments.map(({trials}) => trials.some(({parts}) => jobOf("", parts) === job));
  return isAsked.some((is, i) => is && progress[i].guess !== null) ? -1 : isAsked.indexOf(true);
}

function makeGuide() {
  const turn = step => acting(() => { current += step; });
  byId("previous").onclick = turn(-1);
  byId("next").onclick = turn(1);
  byId("again").onclick = acting(() => {
    progress.forEach(one => Object.assign(one, {guess: null, done: []}));
    current = 0;
    change({cut: []});
  });
  byId("experiments").append(...experiments.map(makeSteps));
  byId("elsewhere").append(...data.num_correct ? Object.entries(elsewhere).flatMap(describeElsewhere)
    : ["This model is never correct, so no cut can make it worse. Train it for longer."]);
  byId("previous").hidden = byId("next").hidden = experiments.length < 2;
  byId("again").hidden = byId("print").hidden = !experiments.length;
  renderGuide();
}

function makeSteps({intro, question, options, trials, look, tells_length: tellsLength}, number) {
  const kept = progress[number], button = (className, text, onclick) => element(
    "button", {type: "button", className, onclick}, text);
  const lengths = data.examples.slice(0, 2).map(([content]) => content);
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
        const cut = trial.parts.flatMap(part => listHeads(model, part)).map(keyOf);
        change({cut, mode: "zero", ...topHead ? {chosen: topHead, pointed: null, cell: null} : {}});
        reveal("asking");
      })))),
    element("div", {className: "looks"}, element("b", {}, "Look. "),
      ...look.map(head => button("look", `at ${partName(head)}`, () => lookAt(head))),
      ...tellsLength ? lengths.map(content => button("look", `${content.length} symbols`, () => {
        change({cut: []});
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
