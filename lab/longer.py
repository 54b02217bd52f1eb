"""Train on questions of up to 20 symbols, then answer ones of 1,000: rotary attention and coupled positions.

`python -m lab.longer --task reverse` trains one layer with one head, saves it, and measures how often it is
correct as questions grow. It has five ingredients, and `--without NAME` takes one away:

    rotation    queries and keys are rotated by their positions, so that scores depend on differences
    coupling    a token of the answer gets the position of the symbol that it has to fetch …
    shift       … plus 1,100, so that it does not find itself there
    random      in half of the batches, positions are an ordered random subset of 0 … 1,099
    logarithm   scores are multiplied by the logarithm of the number of keys

Two things are *not* shown. The model does not find out where to look, because coupling encodes it. And no
position in the test is new: random ones have covered all that a question of 1,000 symbols needs.
"""

import itertools
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import trange

import data
import transformer
from support import console, files
from support.figure import label_lines, new_figure, percent, picture_style, save_picture
from train import CLIP_NORM, lr_multiplier, masked_cross_entropy
from transformer import END, MiniTransformer, MultiHeadAttention, PositionalEncoding, eval_mode

TASKS, INGREDIENTS = ("copy", "reverse"), ("rotation", "coupling", "shift", "random", "logarithm")
SETTINGS = {"": "all ingredients"} | {name: f"without {name}" for name in INGREDIENTS}
TRAINING_LENGTH, TEST_LENGTHS, TESTED = 20, (20, 40, 100, 200, 500, 1_000), 100
VOCAB_SIZE, D_MODEL, D_FF = 20, 64, 256
NUM_POSITIONS = 1_100                                       # more than a question of 1,000 symbols needs
ROTATION_BASE = 2_000.0                                     # the paper uses 10,000
STEPS, BATCH_SIZE, LEARNING_RATE, BETAS = 3_000, 64, 3e-3, (0.85, 0.95)


def rotate(x: Tensor, positions: Tensor, base: float = ROTATION_BASE) -> Tensor:
    """Rotate each pair of features by an angle proportional to the token's position (RoPE):

        (x₂ᵢ, x₂ᵢ₊₁) → (x₂ᵢ cos θ − x₂ᵢ₊₁ sin θ, x₂ᵢ sin θ + x₂ᵢ₊₁ cos θ)      θ = position / base^(2i/Dh)

    x (B, H, T, Dh), positions (T,) or (B, 1, T) → (B, H, T, Dh). Rotating two vectors by the same angle does
    not change their dot product. So the score of a query and a key depends only on the difference of their
    positions (Su et al. 2021, "RoFormer", arXiv:2104.09864, equations 15 and 16).
    """
    frequency = base ** (-torch.arange(0, x.size(-1), 2) / x.size(-1))                  # (Dh/2,)
    angle = positions[..., None] * frequency                                            # (…, T, Dh/2)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())                # x₂ᵢ + i·x₂ᵢ₊₁
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


class LongAttention(MultiHeadAttention):
    """Attention with rotated queries and keys, and scores that grow with the logarithm of the number of keys.

    The more keys, the less weight softmax leaves to a single one, unless scores grow with ln(number of keys)
    (Chiang and Cholak 2022, arXiv:2202.12172). Here, though, 2,000 keys are too few for it to matter.
    """

    positions: Tensor                                       # in the next pass: (T,) or (B, 1, T)

    def __init__(self, rotation: bool, logarithm: bool):
        super().__init__(D_MODEL, num_heads=1)
        self.rotation, self.logarithm = rotation, logarithm

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        """Let each position of x (B, T, D) attend to those that the mask (B, 1, T, T) allows; → (B, T, D)."""
        query = self.split_heads(self.query_projection(x))                              # (B, H, T, Dh)
        key = self.split_heads(self.key_projection(x))
        value = self.split_heads(self.value_projection(x))
        if self.rotation:
            query, key = rotate(query, self.positions), rotate(key, self.positions)
        if self.logarithm:
            query = query * mask.sum(dim=-1, keepdim=True).log()
        mixture, weights = transformer.scaled_dot_product_attention(query, key, value, mask)
        self.last_weights = weights.detach()
        return self.output_projection(mixture.transpose(1, 2).flatten(2))


class AbsolutePositions(PositionalEncoding):
    """The paper's sinusoids, added at any positions; they replace rotation if it is taken away."""

    positions: Tensor                                       # in the next pass, (B, 1, T)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.encoding[self.positions.squeeze(1)]


def couple_positions(task: str, question: Tensor, shift: int = NUM_POSITIONS) -> Tensor:
    """Append to the positions of a question (B, L + 2) those of its answer: where each token has to look.

        reverse     START 5 7 9 END   START 9 7 5        each predicts the next token of the answer
        positions   0     1 2 3 4     3     2 1 4        in the answer, plus the shift

    The answer's START fetches the question's last symbol, 9; the 9 fetches the 7; the last token fetches END.
    Copying or reversing the positions themselves yields these (Cho et al. 2024, arXiv:2405.20671).
    """
    fetched = [data.TASKS[task].answer(question[:, 1:-1]), question[:, -1:]]
    return torch.cat([question, shift + torch.cat(fetched, dim=1)], dim=1)


class LongTransformer(MiniTransformer):
    """A decoder-only model of one layer and one head. Its input is START, question, END, START, answer."""

    def __init__(self, task: str, without: str = ""):
        super().__init__(VOCAB_SIZE, D_MODEL, num_heads=1, num_layers=1, d_ff=D_FF, causal=True)
        self.task, self.without = task, without
        absolute = AbsolutePositions(D_MODEL, 2 * NUM_POSITIONS, position_base=ROTATION_BASE)
        self.positional_encoding = absolute if without == "rotation" else nn.Identity()
        self.blocks[0].attention = LongAttention(without != "rotation", without != "logarithm")

    def assign_positions(self, length: int, rows: int, generator: torch.Generator | None) -> Tensor:
        """Return positions for questions of this length and their answers, (rows, T); see forward."""
        coupled, shift = self.without != "coupling", 0 if self.without == "shift" else NUM_POSITIONS
        count, limit = (length + 2, NUM_POSITIONS) if coupled else (2 * length + 3, 2 * NUM_POSITIONS)
        positions = torch.arange(count).expand(rows, -1)
        if generator:                                       # Ruoss et al. 2023, arXiv:2305.16843
            positions = torch.rand(rows, limit, generator=generator).topk(count).indices.sort(dim=1).values
        return couple_positions(self.task, positions, shift) if coupled else positions

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """tokens (B, T) → logits (B, T, V); all rows must have questions of the same length.

        Positions are 0, 1, 2, … or, with a generator, random.
        """
        length = int((tokens[0] == END).int().argmax()) - 1
        positions = self.assign_positions(length, len(tokens), generator)[:, None, : tokens.size(1)]
        self.positional_encoding.positions = self.blocks[0].attention.positions = positions
        return super().forward(tokens)


def sample_batch(task: str, length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample tokens (count, 2L + 3) for the model, and what it should predict at the end, (count, L + 1)."""
    content = data.sample_valid(task, count, length, VOCAB_SIZE, generator)
    source, target = data.make_source_and_target(task, content)
    return torch.cat([source, target[:, :-1]], dim=1), target[:, 1:]


def train_model(task: str, without: str, seed: int, steps: int) -> LongTransformer:
    """Return a model trained on up to TRAINING_LENGTH symbols, with questions of one length per batch."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = LongTransformer(task, without)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_multiplier(step, steps))
    for _ in trange(steps, leave=False, disable=None):
        length = int(torch.randint(1, TRAINING_LENGTH + 1, (), generator=generator))
        tokens, answers = sample_batch(task, length, BATCH_SIZE, generator)
        is_random = without != "random" and torch.rand((), generator=generator) < 0.5
        logits = model(tokens, generator if is_random else None)[:, -answers.size(1) :]
        optimizer.zero_grad()
        masked_cross_entropy(logits, answers).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
    return model


def score(model: LongTransformer, length: int) -> float:
    """Return the fraction of TESTED random questions that the model answers without a mistake.

    It reads the correct tokens so far. If all its predictions are correct, greedy decoding writes the same.
    """
    generator, correct = torch.Generator().manual_seed(length), 0
    with eval_mode(model):
        for rows in torch.arange(TESTED).split(10):         # 10 · 2,003² attention weights: 160 MB
            tokens, answers = sample_batch(model.task, length, len(rows), generator)
            predictions = model(tokens)[:, -answers.size(1) :].argmax(dim=-1)
            correct += int((predictions == answers).all(dim=1).sum())
    return correct / TESTED


def format_row(task: str, without: str, scores: list[float], remark: str) -> str:
    percentages = "".join(f"{percent(each):>7}" for each in scores)
    return f"{f'{task}, {SETTINGS[without]}':<27}{percentages}   {remark}"


def train_and_save(task: str, without: str, seed: int, folder: Path) -> None:
    """Train a model, save it with its scores, and print these."""
    start = time.perf_counter()
    model = train_model(task, without, seed, STEPS)
    seconds, scores = time.perf_counter() - start, [score(model, length) for length in TEST_LENGTHS]
    run = {"task": task, "without": without, "seed": seed, "scores": scores, "model": model.state_dict()}
    with files.atomic_write(folder / f"{task}_without_{without or 'nothing'}_{seed}.pt") as unfinished:
        torch.save(run, unfinished)
    print(format_row(task, without, scores, f"seed {seed}, trained in {seconds:.0f} s"), flush=True)


def read_scores(folder: Path) -> dict[tuple[str, str], Tensor]:
    """Return the scores of all saved models, (seeds, lengths), by task and by what was taken away."""
    scores = {(task, without): [] for task in TASKS for without in SETTINGS}
    for run in map(files.read_archive, folder.glob("*.pt")):
        scores[run["task"], run["without"]].append(run["scores"])
    return {setting: torch.tensor(found) for setting, found in scores.items() if found}


def draw_scores(scores: dict[tuple[str, str], Tensor]) -> Figure:
    """Draw mean scores against length, with a panel for each task and a line for each setting."""
    tasks = [task for task in TASKS if (task, "") in scores]
    correct, longest = min(scores[task, ""][:, -1].mean().item() for task in tasks), TEST_LENGTHS[-1]
    title = f"Trained on up to {TRAINING_LENGTH} symbols, {percent(correct)} correct on {longest:,}"
    seeds = " or ".join(map(str, sorted({len(found) for found in scores.values()})))
    caption = f"Means over {seeds} seeds, each tested on {TESTED} questions of each length."
    figure = new_figure(2.5, title, "One layer with one head: all ingredients, or one taken away.", caption)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for marker, without in zip("s^vDPo", (*INGREDIENTS, ""), strict=True):
            if (task, without) in scores:
                means = 100 * scores[task, without].mean(dim=0)
                axes.plot(TEST_LENGTHS, means, f"{marker}-", label=SETTINGS[without])
        axes.set(xscale="log", xlabel="symbols in the question", ylabel="% correct", ylim=(-3, 103))
        axes.set_xticks(TEST_LENGTHS, map("{:,}".format, TEST_LENGTHS), size=8)
        axes.minorticks_off()
        axes.set_title(task, loc="left")
        label_lines(axes)
    return figure


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.longer --compare --seeds 10")
    console.add_choice(parser, "--task", TASKS, TASKS)
    option, setting = parser.add_argument, parser.add_mutually_exclusive_group()
    setting.add_argument("--without", choices=INGREDIENTS, default="", help="take away one ingredient")
    setting.add_argument("--compare", action="store_true", help="take away each, then draw all saved")
    option("--seeds", type=int, default=1, metavar="NUMBER", help="how many (default: 1); 0 trains nothing")
    option("--dark", action="store_true", help="draw on a dark background")
    option("--output-dir", type=console.folder_name, default="models/longer", metavar="FOLDER")
    options = parser.parse_args()
    console.set_threads(None)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    print(" " * 27 + "".join(f"{length:7,}" for length in TEST_LENGTHS) + "   symbols")
    settings = SETTINGS if options.compare else [options.without]
    for seed, without, task in itertools.product(range(options.seeds), settings, options.task):
        train_and_save(task, without, seed, options.output_dir)
    if options.compare:
        scores = read_scores(options.output_dir)
        if "" not in {without for _, without in scores}:
            console.exit_with_error(f"no models in {options.output_dir}; choose --seeds 1 or more")
        for setting, found in scores.items():
            remark = f"mean of {len(found)} seeds; all correct at 1,000: {int((found[:, -1] == 1).sum())}"
            print(format_row(*setting, found.mean(dim=0).tolist(), remark))
        with picture_style(options.dark):
            save_picture(draw_scores(scores), path := options.output_dir / "lengths.png")
        print(f"saved {path}")


if __name__ == "__main__":
    console.run_script(main)
