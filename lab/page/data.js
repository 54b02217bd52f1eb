/* The tasks of data.py in JavaScript. The page uses these only if they reproduce data.py's answers to all
   embedded questions. So a modified or user-defined task is never judged by the wrong rule. */
"use strict";

const MASK = 3, ZERO = 4, PLUS = 14;

/** The pattern with this period, gaps filled; null if the visible symbols contradict it. */
function repeat(content, period) {
  const pattern = Array(period).fill(MASK);
  for (const [position, symbol] of content.entries()) {
    if (symbol === MASK) continue;
    if (![MASK, symbol].includes(pattern[position % period])) return null;
    pattern[position % period] = symbol;
  }
  return content.map((_, position) => pattern[position % period]);
}

/** Every way to fill the gaps, the one with the smallest period first. */
function completions(content) {
  const periods = Array.from({length: Math.floor(content.length / 2)}, (_, i) => i + 1);
  return periods.map(period => repeat(content, period)).filter(filled => filled);
}

const ANSWERS = {
  copy: content => content,
  reverse: content => content.toReversed(),
  sort: content => content.toSorted((a, b) => a - b),
  double: content => [...content, ...content],
  add: content => {
    const digits = [], half = (content.length - 1) / 2;
    let carry = 0;
    for (let column = half - 1; column >= 0; column--) {
      const total = content[column] + content[half + 1 + column] - 2 * ZERO + carry;
      digits.unshift(ZERO + total % 10);
      carry = Math.floor(total / 10);
    }
    return [ZERO + carry, ...digits];
  },
  complete: content => completions(content).find(filled => !filled.includes(MASK)) ?? content,
};

/** Which questions are valid, for tasks that restrict them. */
const IS_VALID = {
  add: content => content.length % 2 === 1 && content.length > 1
    && content.every((symbol, position) => (symbol === PLUS) === (position === (content.length - 1) / 2)),
  complete: content => {
    const filledPatterns = completions(content), [first] = filledPatterns;
    return content.includes(MASK) && filledPatterns.length > 0 && !first.includes(MASK)
      && filledPatterns.every(filled => filled.join() === first.join());
  },
};

const validityRule = task => IS_VALID[task] ?? (() => true);

/** What answers depend on, if a task defines it. Replacing a symbol usually breaks a pattern, so there it is
   the symbol's visible copies. */
const ANSWER_SOURCES = {
  complete: content => ANSWERS.complete(content).map(symbol => content.map(other => other === symbol)),
};

/** The cells that the correct answer comes from, [answer symbol][question symbol]. Each symbol is replaced
   with every other one that leaves a valid question. The cells are those that change the answer's symbol at
   least half as often as the cell that changes it most. */
function answerSources(task, content, symbols) {
  if (ANSWER_SOURCES[task]) return ANSWER_SOURCES[task](content);
  const answer = ANSWERS[task](content), isValid = validityRule(task);
  const rates = content.map((symbol, position) => {
    const questions = symbols.filter(other => other !== symbol).map(other => content.with(position, other));
    const answers = questions.filter(isValid).map(ANSWERS[task]);
    const changes = (symbol, i) => answers.filter(other => other[i] !== symbol).length;
    return answer.map((symbol, i) => changes(symbol, i) / (answers.length || 1));
  });
  return answer.map((_, i) => {
    const largest = Math.max(...rates.map(rate => rate[i]));
    return rates.map(rate => rate[i] > 0 && rate[i] >= largest / 2);
  });
}

/** A question as the model reads it. In next-token prediction, no END follows it. */
const makeSource = (config, content) => [START, ...content, ...(config.next_token ? [] : [END])];

/** The model's inputs for a question and an answer, and its targets; PAD where nothing is scored. */
function makeInputsAndTargets(config, content, answer) {
  const {architecture} = config, source = makeSource(config, content), target = [START, ...answer, END];
  if (architecture === "encoder-decoder") {
    return {inputs: [source, target.slice(0, -1)], targets: target.slice(1)};
  }
  if (architecture === "encoder") {
    const missing = target.length - source.length;          // if the answer is longer: MASK, "write here"
    return {
      inputs: [[...source, ...Array(Math.max(0, missing)).fill(MASK)]],
      targets: [...target, ...Array(Math.max(0, -missing)).fill(PAD)],
    };
  }
  const prompt = Array(source.length - 1).fill(PAD);
  return {inputs: [[...source, ...answer]], targets: [...prompt, ...answer, END]};
}
