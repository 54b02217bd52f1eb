/* The experiments, each "predict, cut, look". Their texts come from the measurements of this run, and those
   that would show nothing in it are left out. */
"use strict";

const total = data.unseen.length, countZeroed = part => countWithout(part, "zero");
const formatCorrect = count => `${percent(count / total)} correct`;
const points = count => `${costInPoints(count)} ${costInPoints(count) === 1 ? "point" : "points"}`;
const NEEDED = "the symbols that the answer needs";
const joinSentences = sentences => sentences.filter(words => words).join(" ");

/** A cut tried in an experiment, and the number of sequences that are then correct. */
const makeTrial = (...parts) => ({
  name: parts.map(partName).join(" and "), parts,
  count: parts.length > 1 ? data.guide.redundant_pair[2] : countZeroed(parts[0]),
});

function topHeadExperiment() {
  const {top_head: topHead, other, readers, mass, mass_without: massWithout} = data.guide;
  if (!topHead || Math.min(...[topHead, other].map(countZeroed)) > data.num_correct - total / 100) return null;
  const [one, two] = [partName(topHead), partName(other)], isHelper = mass - massWithout >= .1;
  const [withoutOne, withoutTwo] = [topHead, other].map(countZeroed), difference = withoutOne - withoutTwo;
  const answer = difference > total / 100 ? 1 : difference < -total / 100 ? 0 : 2;
  const isOneCheap = data.num_correct - withoutOne <= total / 100;
  return {
    title: "Does the head that attends most matter most?",
    intro: `${sentence(one)} spends ${percent(mass)} of its attention on ${NEEDED}, more than any other head. `
      + `Compare it with ${two}.`,
    question: "Which cut causes more mistakes?", options: [one, two, "both about the same"], answer,
    trials: [makeTrial(topHead), makeTrial(other)], chosen: topHead, look: [topHead, other],
    found: joinSentences([
      readers > 1 && isOneCheap
        ? `${readers} heads attend mainly to the needed symbols, so the model can spare one.` : "",
      isHelper ? `Without ${two}, ${one} spends ${percent(massWithout)} of its attention there instead of `
        + `${percent(mass)}: ${two} helps it to find the position.`
        : answer === 1 ? `Without ${two}, ${one} attends as before, so ${two} must do something else.` : "",
      isHelper && data.task === "reverse" ? "That position depends on the length of the question: "
        + `compare where ${two} attends in a shorter and a longer one.` : "",
    ]),
    questions: isHelper && data.task === "reverse" ? other : null,
  };
}

function withoutAttention() {
  const count = countZeroed([]), answer = count >= data.num_correct ? 0 : count ? 1 : 2;
  return {
    title: answer ? "Does anything work without attention?" : "Does it need attention at all?",
    intro: "Attention is the only way in which information can move between positions.",
    question: "How many answers are still correct when all attention is cut?",
    options: ["as many as before", "some", "none"], answer,
    trials: [[], ...kinds.length > 1 ? kinds.map(kind => [kind]) : []].map(part => makeTrial(part)), look: [],
    found: answer === 0
      ? "Nothing is lost: each position can produce its part of the answer without reading any other. "
        + "What the attention maps show is not used."
      : `${count ? percent(count / total) : "None"} of the answers are still correct: `
        + "a position cannot output what it has not read."
        + (kinds.includes("cross") ? " Only cross-attention carries the question to the answer." : ""),
  };
}

function twoHeads() {
  const {redundant_pair: pair} = data.guide, [one, two, count] = pair ?? [];
  if (!pair || data.num_correct + count >= countZeroed(one) + countZeroed(two)) return null;
  return {
    title: "Can two heads replace each other?",
    intro: `Cut ${partName(one)} alone or ${partName(two)} alone, and next to nothing is lost.`,
    question: "What if both are cut?",
    options: ["next to nothing is lost", "more is lost than by the two cuts taken separately"],
    answer: 1, trials: [makeTrial(one), makeTrial(two), makeTrial(one, two)], look: [one, two],
    found: `Cut alone, they cost ${points(countZeroed(one))} and ${points(countZeroed(two))}; cut together, `
      + `${points(count)}. Each can do part of the other's work: they are redundant. So cutting one head alone `
      + "understates what it does.",
  };
}

/** What this run does not show, and where to see it: next door or, if that was not trained, by a command. */
const EFFECTS = [
  [topHeadExperiment, "reverse", "a head that matters most without attending most"],
  [withoutAttention, "copy", "a model that needs no attention"],
  [twoHeads, "reverse", "two heads that replace each other"],
];

const found = EFFECTS.map(([find]) => data.num_correct ? find() : null);
const experiments = found.filter(experiment => experiment);
const isShown = [found[0]?.answer === 1, found[1]?.answer === 0, Boolean(found[2])];

function describeElsewhere() {
  return ["reverse", "copy"].flatMap(task => {
    const effects = EFFECTS.filter((effect, i) => effect[1] === task && !isShown[i]).map(effect => effect[2]);
    if (!effects.length || data.task === task && architecture === "encoder") return [];
    const page = document.querySelector(`#pages a[data-run="${task}, encoder"]`);
    return [`To see ${effects.join(", and ")}, open `, page ? element("a", {href: page.href}, `${task}, encoder`)
      : `the page of this run: python train.py --task ${task} --architecture encoder`, ". "];
  });
}

// ---------------------------------------------------------------- progress, kept when the page is reloaded

const checksum = numbers.reduce((sum, x) => sum + Math.abs(x), 0);      // other weights, other experiments
const STORAGE_KEY = `explorer ${data.task} ${architecture} ${checksum}`;
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

const keysOfTrial = ({parts}) => parts.flatMap(part => listHeads(model, part)).map(keyOf);

/** Whether an experiment waits for a prediction about the current cuts. */
function isAskingAbout({trials}, number) {
  const now = jobOf("", state.cut);
  return progress[number].guess === null && trials.some(trial => jobOf("", keysOfTrial(trial)) === now);
}

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
  byId("elsewhere").append(...data.num_correct ? describeElsewhere()
    : ["This model is never correct, so no cut can make it worse. Train it for longer."]);
  for (const id of ["previous", "next", "again", "print"]) byId(id).hidden = !experiments.length;
  makeSheet();
  renderGuide();
}

function makeSteps({intro, question, options, trials, chosen, look, questions}, number) {
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
        if (chosen) change({chosen, pointed: null, cell: null});
        cutHeads(keysOfTrial(trial), "zero");
        reveal("asking");
      })))),
    element("div", {className: "looks"}, element("b", {}, "Look. "),
      ...look.map(head => button("look", `at ${partName(head)}`, () => lookAt(head))),
      ...questions ? lengths.map(content => button("look", `at it with ${content.length} symbols`, () => {
        cutHeads([]);
        write(textOf(content));
        lookAt(questions);
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
      button.textContent = `✂ ${trials[i].name}${done[i] ? `: ${formatCorrect(trials[i].count)}` : ""}`;
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
    const measured = trials.map(({name, count}) => `Without ${name}: ${formatCorrect(count)}.`);
    byId("sheet-answers").append(element("h3", {}, heading), step("Answer:", `${options[answer]}.`),
      step("Measured.", measured.join(" ")), step("Explanation.", found));
  }
}
