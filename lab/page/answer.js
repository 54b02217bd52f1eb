/* The question and the model's answer as coloured chips, in columns, with the answer before the last cut. */
"use strict";

const chip = (token, {isWrong, isChanged, text = nameOf(token)} = {}) => element("b", {
  className: `chip ${text.length > 2 ? "long" : ""} ${isWrong ? "wrong" : ""} ${isChanged ? "changed" : ""}`,
  ...tokenStyle(token),
}, text, ...(isWrong ? [element("span", {className: "spoken"}, " (wrong)")] : []));

/** A row of the answer's table: its name, and a cell for each column. */
const row = (id, name, columns, cells) => element("tr", {id}, element("th", {scope: "row"}, name),
  ...Array.from({length: columns}, (_, i) => element("td", {}, ...cells[i] ?? [])));

/** The tokens of this task that the model finds likely, with their probability: two at most. */
function likelyTokens(logits) {
  const chances = softmax(logits), tokens = [...data.symbols, END].filter(token => chances[token] >= .01);
  return tokens.sort((one, other) => chances[other] - chances[one]).slice(0, 2).map(token =>
    element("span", {className: "chance", "--p": chances[token], ...tokenStyle(token)},
      element("span", {}, nameOf(token)), element("span", {}, percent(chances[token]))));
}

function renderAnswer() {
  const {answer, earlier, logits, first} = asked, correct = correctAnswer(state.content);
  const expected = correct && [...correct, END], isWrong = i => expected && expected[i] !== answer[i];
  const isChanged = i => earlier && earlier[i] !== answer[i];
  const wrong = answer.filter((_, i) => isWrong(i)).length;
  const isCorrect = expected?.join() === answer.join();
  const output = textOf(answer.at(-1) === END ? answer.slice(0, -1) : answer);
  byId("verdict").className = isCorrect || !expected ? "" : "wrong";
  byId("verdict").replaceChildren(
    element("span", {className: "spoken"}, `${textOf(state.content)} → ${output} `
      + (isCorrect || !correct ? "" : `(correct: ${textOf(correct)}) `)),
    !correct ? "(correct answer unknown)" : isCorrect ? "✓ correct"
      : `✗ ${wrong ? `${wrong} of ${answer.length} tokens wrong` : "incomplete"}`);
  const ghost = earlier ?? expected ?? [], columns = Math.max(
    ...[state.content, answer, ghost].map(({length}) => length));
  byId("answer").style.setProperty("--columns", columns);
  byId("answer").classList.toggle("long", columns > 10);
  byId("answer").replaceChildren(
    row("asked", "question", columns, state.content.map(token => [chip(token)])),
    row("answered", "answer", columns,
      answer.map((token, i) => [chip(token, {isWrong: isWrong(i), isChanged: isChanged(i)})])),
    row("before", earlier ? "before" : "correct", columns, ghost.map(token => [chip(token)])),
    row("likely", "likely", columns, answer.map((_, i) => likelyTokens(logits[first + i]))),
  );
  byId("before").classList.toggle("later", !earlier && (isCorrect || !expected));
}
