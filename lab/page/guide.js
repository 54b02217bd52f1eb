/* Three experiments, each "predict, cut, look". Their texts come from the measurements of this run. */
"use strict";

const total = data.unseen.length, countWithout = part => correctWithout.get(keyOf(part));
const formatCorrect = count => `${percent(count / total)} correct`;
const points = count => `${costInPoints(count)} ${costInPoints(count) === 1 ? "point" : "points"}`;
const ONE_POINT = total / 100;

/** What to try if this run does not show an effect: a run that does, or the same run with another seed. */
function suggestOtherRun(task, kind, what) {
  const isTrained = !Object.keys(data.purposes).length, {seed} = data.config;
  const isHere = data.task === task && architecture === kind && isTrained;
  const where = isHere ? "Another seed may show" : `A model trained on ${task} (${kind}) shows`;
  return `${where} ${what}. To try it: python train.py --task ${task} --architecture ${kind}`
    + `${isHere ? ` --seed ${seed + 1}` : ""}, then python visualize.py.`;
}

const sentence = words => words[0].toUpperCase() + words.slice(1);

/** A cut tried in an experiment, and the number of sequences that are then correct. */
const makeTrial = part => ({name: partName(part), parts: [part], count: countWithout(part)});

function topHeadExperiment() {
  const {top_head: topHead, other, readers, mass, mass_without: massWithout} = data.guide;
  const title = "Is the brightest head the one that matters?";
  const effect = "a head that matters most without being the brightest";
  if (!topHead) {
    return {title, missing: "This model has no two heads that can be compared by their attention to "
      + `the symbols the answers come from. ${suggestOtherRun("reverse", "encoder", effect)}`};
  }
  const [one, two] = [partName(topHead), partName(other)];
  const [withoutOne, withoutTwo] = [topHead, other].map(countWithout);
  const difference = withoutOne - withoutTwo;
  const answer = difference > ONE_POINT ? 1 : difference < -ONE_POINT ? 0 : 2;
  const found = [
    ["Here the brightest head does matter most.", "The brightest head is not the one that matters most.",
      `Here the two matter equally: they cost ${points(withoutOne)} and ${points(withoutTwo)}.`][answer],
    readers > 1 && data.num_correct - withoutOne <= ONE_POINT
      ? `${readers} heads attend mainly to the symbols the answers come from, `
        + "so the model can spare one." : "",
    mass - massWithout >= .1
      ? `Without ${two}, ${one} spends ${percent(massWithout)} of its attention there instead of `
        + `${percent(mass)}: ${two} helps it find the position.`
      : answer === 1 ? `Without ${two}, ${one} attends as before, so ${two} must do something else.` : "",
    answer === 1 ? "" : suggestOtherRun("reverse", "encoder", effect),
  ];
  return {
    title, intro: `${sentence(one)} is the brightest head: it spends ${percent(mass)} of its attention `
      + `on the symbols the answers come from, more than any other. Compare it with ${two}.`,
    question: "Which cut causes more mistakes?", options: [one, two, "both about the same"], answer,
    cuts: [makeTrial(topHead), makeTrial(other)], found: found.filter(words => words).join(" "),
    look: [topHead, other],
  };
}

function withoutAttention() {
  const count = countWithout([]), answer = count >= data.num_correct ? 0 : count ? 1 : 2;
  const parts = kinds.length > 1 ? kinds.map(kind => [kind]) : [];
  const effect = "that copying can do without any attention";
  return {
    title: "Does anything still work without attention?",
    intro: "Attention is the only way information can move between positions.",
    question: "How many answers are still correct when all attention is cut?",
    options: ["as many as before", "some", "none"], answer,
    cuts: [[], ...parts].map(makeTrial),
    found: answer === 0
      ? "Nothing is lost: each position can produce its part of the answer without reading any other."
      : `${percent(count / total)} of the answers are still correct: `
        + "a position cannot output what it has not read. "
        + (kinds.includes("cross") ? "Only cross-attention carries the question to the answer. " : "")
        + suggestOtherRun("copy", "encoder", effect),
    look: [],
  };
}

function twoHeads() {
  const title = "Can two heads replace each other?", {redundant_pair: pair} = data.guide;
  const [one, two, count] = pair ?? [];
  if (!pair || data.num_correct + count >= countWithout(one) + countWithout(two)) {    // both cost no more
    return {title, missing: "In this model, no pair of heads was found in which either can be cut at no "
      + `cost, but not both. ${suggestOtherRun("reverse", "encoder", "such a pair")}`};
  }
  const both = {name: `${partName(one)} and ${partName(two)}`, parts: [one, two], count};
  return {
    title, intro: `Cut ${partName(one)} alone or ${partName(two)} alone, and next to nothing is lost.`,
    question: "What if both are cut?",
    options: ["next to nothing is lost", "more is lost than by the two separate cuts together"],
    answer: 1, cuts: [makeTrial(one), makeTrial(two), both],
    found: `Alone they cost ${points(countWithout(one))} and ${points(countWithout(two))}, together `
      + `${points(count)}. Each can do part of the other's work, so cutting one head alone understates what `
      + "it does. This is called self-repair.",
    look: [one, two],
  };
}

const applicable = [topHeadExperiment(), withoutAttention(), twoHeads()];
const experiments = applicable.map(one => data.num_correct ? one : {
  title: one.title, missing: "This model is never correct, so no cut can make it worse. Train it for longer.",
});

// ---------------------------------------------------------------- progress, kept when the page is reloaded

const checksum = numbers.reduce((sum, x) => sum + Math.abs(x), 0);      // other weights, other experiments
const STORAGE_KEY = `explorer ${data.task} ${architecture} ${checksum}`;
const progress = experiments.map(() => ({guess: null, done: []}));
try {
  Object.assign(progress, JSON.parse(localStorage.getItem(STORAGE_KEY)));
} catch {}                                                  // the browser stores nothing for local files

function keep() {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(progress));
  } catch {}                                                // then it is lost when the page closes
}

/** Wrap an action so that progress is saved and shown afterwards. */
const acting = action => () => {
  action();
  keep();
  renderGuide();
};

// ---------------------------------------------------------------- how they are shown

const headings = experiments.map(({title}, number) => `${number + 1}. ${title}`);

function makeGuide() {
  byId("experiments").append(...experiments.map((experiment, number) => element("li", {},
    element("h3", {}, headings[number]),
    ...experiment.missing ? [element("p", {}, experiment.missing)] : makeSteps(experiment, number))));
  byId("again").onclick = acting(() => {
    progress.forEach(one => Object.assign(one, {guess: null, done: []}));
    cutHeads([]);
  });
  byId("print").onclick = () => print();
  makeSheet();
  renderGuide();
}

function makeSteps({intro, question, options, cuts, look}, number) {
  const kept = progress[number];
  return [
    element("p", {}, intro),
    element("fieldset", {}, element("legend", {}, element("b", {}, "Predict."), ` ${question}`),
      ...options.map((text, i) => element("label", {}, element("input", {
        type: "radio", name: `guess${number}`, onchange: acting(() => { kept.guess = i; }),
      }), ` ${text}`))),
    element("p", {}, element("b", {}, "Cut.")),
    ...cuts.map(({parts}, i) => element("button", {
      type: "button", className: "try", onclick: acting(() => {
        kept.done[i] = true;
        cutHeads(parts.flatMap(part => listHeads(model, part)).map(keyOf), "zero");
      }),
    })),
    element("p", {className: "found", role: "status"}),
    ...look.map(head => element("button", {
      type: "button", className: "look", onclick: () => change({chosen: head, pointed: null, cell: null}),
    }, `look at ${partName(head)}`)),
  ];
}

function renderGuide() {
  [...byId("experiments").children].forEach((item, number) => {
    const {cuts, options, answer, found, missing} = experiments[number], {guess, done} = progress[number];
    if (missing) return;
    const isDone = cuts.every((_, i) => done[i]), hasGuessed = guess !== null;
    item.querySelectorAll("input").forEach((input, i) => Object.assign(input, {checked: guess === i}));
    item.querySelectorAll(".try").forEach((button, i) => {
      button.disabled = !hasGuessed;
      button.textContent = `cut ${cuts[i].name}${done[i] ? `: ${formatCorrect(cuts[i].count)}` : ""}`;
    });
    item.querySelectorAll(".look").forEach(button => { button.hidden = !isDone; });
    item.querySelector(".found").replaceChildren(...isDone ? [element("b", {}, "Look."),
      ` Your prediction was ${guess === answer ? "correct" : `“${options[guess]}”`}. ${found}`] : []);
    item.classList.toggle("done", isDone);
  });
}

/** For printing: the same experiments as a worksheet, with an answer key for this run at the end. */
function makeSheet() {
  const step = (name, words, items = []) => element("p", {}, element("b", {}, name), ` ${words} `,
    ...items.map(text => element("span", {className: "item"}, text)));
  for (const [number, {intro, question, options, cuts, found, missing}] of experiments.entries()) {
    const heading = headings[number];
    if (!missing) {
      byId("sheet-experiments").append(
        element("h3", {}, heading), element("p", {}, intro),
        step("Predict.", question, options.map(text => `☐ ${text}`)),
        step("Cut.", "", cuts.map(({name}) => `Without ${name}: _____ % correct.`)),
        step("Look.", "What I saw, and why I think it happened:"), element("div", {className: "room"}));
    }
    const measured = cuts?.map(({name, count}) => `Without ${name}: ${formatCorrect(count)}.`);
    byId("sheet-answers").append(step(heading, missing ?? [...measured, found].join(" ")));
  }
}
