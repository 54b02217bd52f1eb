"""Train the decoder-only model on text: GPT in miniature, with one character per token.

`python -m lab.text` trains MiniTransformer(causal=True) on our README, in about a minute on one core;
`python -m lab.text FILE` takes any other text. Every tenth line is held out. As the model learns, its loss on
those lines is printed, and a sample of what it writes. Two models that know less come first, for comparison.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support import console
from train import BETAS, CLIP_NORM, lr_multiplier, masked_cross_entropy
from transformer import END, MiniTransformer, eval_mode

README = Path(__file__).parents[1] / "README.md"
FIRST_CHARACTER = END + 1                                   # its token id; text needs no START and no END
CONTEXT, BATCH_SIZE, LEARNING_RATE, DROPOUT = 32, 16, 3e-3, 0.1
SAMPLE_LENGTH, REPORTS = 72, 10


def encode(text: str, alphabet: str) -> Tensor:
    """Return the token ids of a text, (characters,)."""
    return torch.tensor([alphabet.index(character) for character in text]) + FIRST_CHARACTER


def split_lines(text: str) -> tuple[str, str]:
    """Return the lines to train on, and every tenth line, which is held out."""
    lines = text.splitlines(keepends=True)
    held_out = lines[9::10]
    del lines[9::10]
    return "".join(lines), "".join(held_out)


def pair_loss(training: Tensor, held_out: Tensor, vocab_size: int) -> float:
    """Return the loss on held_out, in nats, if each token is predicted from counts of pairs in training.

    Both are (characters,). Each pair is counted once more than it occurs, so that none is impossible.
    """
    counts = torch.zeros(vocab_size, vocab_size)            # row: a token, column: the one after it
    counts[FIRST_CHARACTER:, FIRST_CHARACTER:] = 1
    counts.index_put_((training[:-1], training[1:]), torch.ones(len(training) - 1), accumulate=True)
    probabilities = F.normalize(counts, p=1, dim=1)
    return F.nll_loss(probabilities.log()[held_out[:-1]], held_out[1:]).item()


def sample_windows(tokens: Tensor) -> Tensor:
    """Return random pieces of a text (characters,), each of CONTEXT + 1 tokens, (BATCH_SIZE, CONTEXT + 1)."""
    return tokens[torch.randint(len(tokens) - CONTEXT, (BATCH_SIZE, 1)) + torch.arange(CONTEXT + 1)]


def text_loss(model: nn.Module, tokens: Tensor) -> float:
    """Return the model's loss on consecutive pieces of a text (characters,), in nats per character."""
    pieces = tokens.unfold(0, CONTEXT + 1, CONTEXT)
    with eval_mode(model):
        return masked_cross_entropy(model(pieces[:, :-1]), pieces[:, 1:]).item()


def continue_text(model: nn.Module, tokens: Tensor, count: int) -> Tensor:
    """Append count tokens to tokens (T,), each drawn from the model's probabilities for the next one.

    generate in transformer.py appends the most likely token instead; in text, that soon repeats itself.
    """
    generator = torch.Generator().manual_seed(0)            # the same chances in each sample
    with eval_mode(model):
        for _ in range(count):
            logits = model(tokens[None, -CONTEXT:])[0, -1, FIRST_CHARACTER:]
            token = torch.multinomial(logits.softmax(dim=-1), num_samples=1, generator=generator)
            tokens = torch.cat([tokens, token + FIRST_CHARACTER])
    return tokens


def train_on_text(tokens: Tensor, vocab_size: int, steps: int) -> Iterator[tuple[int, MiniTransformer]]:
    """Train on a text (characters,); yield step and model before the first step and REPORTS times after."""
    torch.manual_seed(0)                                    # of weights, windows and dropout
    model = MiniTransformer(vocab_size, max_len=CONTEXT, dropout=DROPOUT, causal=True)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_multiplier(step, steps))
    yield 0, model
    for step in range(1, steps + 1):
        windows = sample_windows(tokens)
        optimizer.zero_grad()
        masked_cross_entropy(model(windows[:, :-1]), windows[:, 1:]).backward()     # each predicts the next
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // REPORTS) == 0:
            yield step, model


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.text EXERCISES.md")
    parser.add_argument("file", nargs="?", type=Path, default=README, help="a text (default: our README)")
    parser.add_argument("--steps", type=int, default=700, metavar="NUMBER", help="default: 700")
    options = parser.parse_args()
    text = options.file.read_text(encoding="utf-8", errors="replace")
    alphabet = "".join(sorted(set(text)))
    vocab_size = FIRST_CHARACTER + len(alphabet)
    training, held_out = (encode(lines, alphabet) for lines in split_lines(text))
    if min(len(training), len(held_out)) <= CONTEXT:
        console.exit_with_error(f"{options.file} is too short; choose a text of 1,000 characters or more")
    if options.steps < 1:
        console.exit_with_error(f"--steps {options.steps} is too small; choose 1 or more")
    console.set_threads(None)
    print(f"{options.file.name}: {len(training):,} characters to train on, {len(held_out):,} held out")
    pairs, number = pair_loss(training, held_out, vocab_size), len(alphabet)
    print(f"Loss on those, in nats per character: {math.log(number):.2f} when guessing among {number}, "
          f"{pairs:.2f} when counting pairs\n\nstep   loss   a sample")
    for step, model in train_on_text(training, vocab_size, options.steps):
        sample = continue_text(model, encode("\n", alphabet), SAMPLE_LENGTH) - FIRST_CHARACTER
        characters = "".join(alphabet[token] for token in sample[1:]).replace("\n", "↵")
        print(f"{step:4}   {text_loss(model, held_out):.2f}   {characters}", flush=True)


if __name__ == "__main__":
    console.run_script(main)
