"""Interventions on the question: replace one symbol and see which symbols of the answer change.

`answer_sensitivity` measures this for the correct answer, `measure_influence` for the model's.

Shapes: N questions, L symbols of content, A symbols of the answer, S source length, T target length.
"""

import torch
from torch import Tensor

from data import TASKS, batches_by_length, loss_mask, question_symbols
from support.config import EVALUATION_BATCH, fixed_generator
from support.puzzles import strip_special_tokens
from support.runs import Run
from transformer import eval_mode


def replace_symbol(
    symbols: range, tokens: Tensor, position: int, shift: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Replace the symbol at one position of tokens (N, S) with the one shift (N,) steps later, cyclically.

    Also return which rows (N,) changed; tokens that are not among these symbols are kept.
    """
    order = tokens[:, position] - symbols.start             # index of the symbol there, from 0
    is_symbol = (order >= 0) & (order < len(symbols))
    replaced = tokens.clone()
    replaced[is_symbol, position] = (symbols.start + (order + shift) % len(symbols))[is_symbol]
    return replaced, replaced[:, position] != tokens[:, position]


def perturb_question(
    task: str, content: Tensor, position: int, shift: Tensor | int, vocab_size: int, tries: int = 1
) -> tuple[Tensor, Tensor]:
    """Apply replace_symbol to questions (N, L); return which rows (N,) are new valid questions.

    If that leaves an invalid question, the next symbol is tried. Tasks with answer_sources allow them.
    """
    symbols = question_symbols(task, vocab_size)
    for _ in range(tries):
        replaced, changed = replace_symbol(symbols, content, position, shift)
        if TASKS[task].answer_sources is None:
            changed = changed & TASKS[task].is_valid(replaced)
        if changed.all():
            break
        shift = torch.where(changed, shift, shift % max(1, len(symbols) - 1) + 1)
    return replaced.where(changed[:, None], content), changed


def measure_influence(run: Run, source: Tensor, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Measure what each answer depends on: replace one symbol and see how much the output changes, (N, T, S).

    For query t and key s, this is the total variation distance ½·Σ|p − p′| between the output distributions
    before and after, from 0 to 1. It is NaN at positions that are not scored, and where no other symbol
    leaves a valid question. An encoder–decoder's answer is held fixed. All sources must have one length.
    """
    config, question = run.config, strip_special_tokens(source)
    symbols, generator = question_symbols(config.task, config.vocab_size), fixed_generator("influence")
    result = torch.full((*targets.shape, inputs[0].size(1)), torch.nan, dtype=torch.float32)
    with eval_mode(run.model) as model:
        for rows, batch in batches_by_length(inputs, EVALUATION_BATCH):
            before = model(*batch).float().softmax(dim=-1)
            for key in range(inputs[0].size(1)):
                shift = torch.randint(1, max(2, len(symbols)), (len(rows),), generator=generator)
                if 1 <= key <= question.size(1):
                    replaced, changed = perturb_question(
                        config.task, question[rows], key - 1, shift, config.vocab_size, tries=len(symbols)
                    )
                    perturbed = batch[0].clone()
                    perturbed[:, 1 : question.size(1) + 1] = replaced
                else:                                       # a symbol that a decoder has generated
                    perturbed, changed = replace_symbol(symbols, batch[0], key, shift)
                after = model(perturbed, *batch[1:]).float().softmax(dim=-1)
                distance = (after - before).abs().sum(dim=-1) / 2                       # (N, T)
                valid = changed[:, None] & loss_mask(targets[rows])
                result[rows, :, key] = distance.where(valid, torch.nan)
    return result


def answer_sensitivity(task: str, content: Tensor, vocab_size: int) -> Tensor:
    """Return how much each answer symbol depends on each question symbol, (N, A, L), from 0 to 1.

    This is the fraction of replacements that change the answer symbol. Each question symbol is replaced with
    every other one that leaves a valid question; with more than 64 symbols, with about 32 others. It is NaN
    for symbols that cannot be replaced, such as the plus in a sum. content (N, L) are valid questions.
    """
    if TASKS[task].answer_sources is not None:
        return TASKS[task].answer_sources(content).double()
    answer, count = TASKS[task].answer(content), len(question_symbols(task, vocab_size))
    step = 2 * (count // 64) + 1                            # an odd step reaches odd and even symbols
    result = torch.zeros(*answer.shape, content.size(1), dtype=torch.float64)
    for position in range(content.size(1)):
        tries = torch.zeros(len(content), 1, dtype=torch.float64)
        for shift in range(1, count, step):
            replaced, changed = perturb_question(task, content, position, shift, vocab_size)
            if changed.any():
                other = TASKS[task].answer(replaced[changed])
                result[changed, :, position] += (other != answer[changed]).double()
                tries[changed] += 1
        result[:, :, position] /= tries                     # 0/0 is nan
    return result
