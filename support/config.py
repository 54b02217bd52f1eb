"""Every setting of a run, once: its default, its range, its help, and what each task trains best with."""

import argparse
import inspect
import math
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor, nn

from data import ARCHITECTURES, MODELS, POOL, SPLITS, TASKS, answer_length, check_task, draw, usable_lengths
from support.files import is_of, size_text, total_memory
from transformer import ACTIVATIONS, POSITIONAL, EncoderDecoder, MiniTransformer, check_known, check_positive

VALIDATION_SEQUENCES, TEST_SEQUENCES = 2_000, 10_000
EVALUATION_BATCH = 100                                      # rows per forward pass; also scored every epoch
LONGEST_PROBE = 16                                          # the maximum length of a recorded question
SEEDS = {"validation": 1, "test": 2, "examples": 3, "analysis": 4, "influence": 5}      # the same in all runs


def defaults_of(model: type[nn.Module]) -> dict:
    """Return a model class's default settings."""
    return {name: setting.default for name, setting in inspect.signature(model).parameters.items()}


MODEL = defaults_of(MiniTransformer)


def check_types(config: "Config") -> None:
    """Raise ValueError for the first setting of the wrong type; integers are accepted as floats."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        if not is_of(value, setting.type | int if setting.type is float else setting.type):
            wanted = getattr(setting.type, "__name__", setting.type)
            raise ValueError(f"{setting.name}={value!r} has type {type(value).__name__}, not {wanted}")
        if setting.type is float and not math.isfinite(value):
            raise ValueError(f"{setting.name}={value} is out of range; choose e.g. {setting.default}")


@dataclass
class Config:
    """Everything that determines a run; saved in checkpoints as a dict. Raises ValueError for unknown names.

    Model settings default to those of transformer.py.
    """

    task: str = "reverse"
    architecture: str = "encoder"
    epochs: int = 50
    steps_per_epoch: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    hold: float = 0.0                                       # fraction of the steps before cosine decay begins
    seq_len: int = 8
    fixed_length: bool = False
    oversample: float = 0.0                                 # fraction sampled with all kinds equally frequent
    vocab_size: int = MODEL["vocab_size"]
    d_model: int = MODEL["d_model"]
    num_heads: int = MODEL["num_heads"]
    num_layers: int | None = None                           # None: the model's default
    d_ff: int = MODEL["d_ff"]
    dropout: float = MODEL["dropout"]
    positional: str = MODEL["positional"]
    position_base: float = MODEL["position_base"]
    embedding_std: float = MODEL["embedding_std"]
    norm_first: bool = MODEL["norm_first"]
    activation: str = MODEL["activation"]
    max_len: int | None = None                              # None: the model's own, or what the task needs
    seed: int = 0

    def __post_init__(self):
        check_types(self)
        check_known(TASKS, task=self.task)
        check_known(ARCHITECTURES, architecture=self.architecture)
        check_known(POSITIONAL, positional=self.positional)
        check_known(ACTIVATIONS, activation=self.activation)
        if self.num_layers is None:
            model = EncoderDecoder if self.architecture == "encoder-decoder" else MiniTransformer
            self.num_layers = defaults_of(model)["num_layers"]

    @property
    def name(self) -> str:
        """Return the run's display name, e.g. "reverse, encoder"."""
        return f"{self.task}, {self.architecture}"

    def model(self) -> MiniTransformer | EncoderDecoder:
        """Return a new model in float32; the weights come from torch's global generator."""
        settings = {name: value for name, value in asdict(self).items() if name in MODEL}
        settings["max_len"] = self.max_len or max(MODEL["max_len"], self.longest_row())
        inherited = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            if self.architecture == "encoder-decoder":
                return EncoderDecoder(**settings)
            return MiniTransformer(**settings, causal=self.architecture == "decoder")
        finally:
            torch.set_default_dtype(inherited)

    def lengths(self, split: str) -> list[int]:
        """Return the question lengths of a split; for sums with seq_len 8, these are 3, 5 and 7."""
        return usable_lengths(self.task, split, self.seq_len, self.vocab_size, self.fixed_length)

    def longest_row(self) -> int:
        """Return the longest possible input: a decoder's prompt and answer, with START and END."""
        lengths = self.lengths("train")
        return max(length + answer_length(self.task, length, self.vocab_size) for length in lengths) + 3

    def check_task(self) -> None:
        """Raise a one-line ValueError if the task's function fails at these sizes."""
        check_task(self.task, self.seq_len, self.vocab_size, self.fixed_length)

    def draw(self, count: int, generator: torch.Generator, split: str = "train") -> tuple[Tensor, Tensor]:
        """Draw fresh questions (count, S) and targets (count, T) of this run's task."""
        oversample = self.oversample if split == "train" else 0.0
        sizes = self.seq_len, self.vocab_size, self.fixed_length
        return draw(self.task, count, generator, split, *sizes, oversample)


def own_settings(task: str, architecture: str) -> dict:
    """Return the task's best settings; those listed under an architecture's name apply only to it."""
    own = TASKS[task].settings
    return {name: own[name] for name in own if name not in ARCHITECTURES} | own.get(architecture, {})


def recipe(task: str, architecture: str, **settings) -> Config:
    """Return a Config with these settings; the rest come from the task, or else from the defaults."""
    check_known(TASKS, task=task)
    own = own_settings(task, architecture)
    known = [setting.name for setting in fields(Config)]
    for name in own:
        if name not in known:
            raise ValueError(f"task {task} has an unknown setting {name}; choose from {', '.join(known)}")
    return Config(task=task, architecture=architecture, **own | settings)


def setting_text(name: str, value: object) -> str:
    """Format a setting for display: num_layers 1, fixed_length, no fixed_length."""
    if name == "norm_first":
        return "norm pre" if value else "norm post"
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def differing_settings(config: Config) -> str:
    """Format all settings that differ from the task's own or, failing that, the defaults."""
    usual = asdict(recipe(config.task, config.architecture))
    settings = asdict(config)
    return ", ".join(setting_text(name, settings[name]) for name in usual if settings[name] != usual[name])


def label_of(architecture: str) -> str:
    """Return an architecture's label in pictures and pages: decoder-only, encoder–decoder."""
    return MODELS.get(architecture, architecture).removesuffix(" model")


def title_of(task: str, architecture: str) -> str:
    """Return a run's title in pictures and pages, e.g. "reverse, decoder-only"."""
    return f"{task}, {label_of(architecture)}"


def fixed_generator(purpose: str) -> torch.Generator:
    """Return a generator for sequences shared by all runs, whatever their seed; see SEEDS."""
    return torch.Generator().manual_seed(SEEDS[purpose])


def parameters_expected(config: Config) -> int:
    """Return the parameter count, including the positional table, without building the model."""
    width, hidden, vocabulary = config.d_model, config.d_ff, config.vocab_size
    attention, feed_forward = 4 * width * (width + 1), 2 * width * hidden + width + hidden
    norm = 2 * width
    layer, last = attention + feed_forward + 2 * norm, norm if config.norm_first else 0
    if config.architecture == "encoder-decoder":
        layer, last = 2 * layer + attention + norm, 2 * last            # with cross-attention
    positions = config.max_len or max(MODEL["max_len"], 2 * config.seq_len + 3)
    return config.num_layers * layer + last + (2 * vocabulary + positions) * width + vocabulary


def memory_needed(config: Config, parts: int = 1) -> int:
    """Estimate the bytes that training needs: weight copies, one micro-batch, the data and the record."""
    length = 2 * config.seq_len + 3 if config.architecture == "decoder" else config.seq_len + 2
    attentions, feed_forwards = config.num_layers, config.num_layers
    if config.architecture == "encoder-decoder":
        attentions, feed_forwards = 3 * attentions, 2 * feed_forwards
    row = length * config.num_heads * length                # attention weights of one layer for one question
    inner, logits = length * (3 * config.d_model + 2 * config.d_ff), 3 * length * config.vocab_size
    trained = attentions * (5 * length * config.d_model + 2 * row) + feed_forwards * inner + logits
    evaluated = attentions * row + 3 * row + inner + logits             # without gradients
    # weights, gradients, two moments and the average; two checkpoints of four copies each, and one serialised
    numbers = 17 * parameters_expected(config)
    numbers += max(math.ceil(config.batch_size / parts) * trained, EVALUATION_BATCH * evaluated)
    drawn = config.steps_per_epoch * config.batch_size * (POOL if config.oversample else 1)
    tokens = 14 * length * max(drawn, TEST_SEQUENCES)       # one in ten drawn falls in the split
    recorded = config.epochs * attentions * config.num_heads * min(length, LONGEST_PROBE + 2) ** 2
    return 4 * numbers + 8 * tokens + 3 * 2 * recorded      # float32, int64 and float16


def check_memory(config: Config, device: torch.device, parts: int) -> None:
    """Raise ValueError naming the most important setting if training needs more memory than available."""
    needed, there_is = memory_needed(config, parts), total_memory(device)
    if needed <= there_is:
        return
    usual = asdict(Config(architecture=config.architecture, max_len=MODEL["max_len"]))
    sizes = [name for name, value in asdict(config).items() if type(value) is int and value > usual[name]]
    need_of = {name: memory_needed(replace(config, **{name: usual[name]}), parts) for name in sizes}
    name = min(need_of, key=need_of.get, default="batch_size")
    raise ValueError(
        f"{name}={getattr(config, name)} is too large: {config.name} would need about "
        f"{size_text(needed)} of memory, but only {size_text(there_is)} is available"
    )


def check_config(config: Config, device: torch.device, parts: int = 1) -> nn.Module:
    """Return the run's untrained model; raise ValueError for the first setting that makes it impossible.

    The state of the global random number generator does not change.
    """
    check_positive(
        epochs=config.epochs, steps_per_epoch=config.steps_per_epoch, batch_size=config.batch_size
    )
    if not 0 < config.learning_rate <= 1:
        raise ValueError(f"learning_rate={config.learning_rate} is out of range; choose e.g. 0.001")
    if not 0 <= config.hold < 1:
        raise ValueError(f"hold={config.hold} is out of range; choose at least 0 and below 1")
    if not 0 <= config.oversample <= 1:
        raise ValueError(f"oversample={config.oversample} is out of range; choose 0 … 1")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed={config.seed} is out of range; choose 0 … 2^63 − 1")
    check_memory(config, device, parts)
    config.check_task()
    for split in SPLITS:
        config.draw(1, torch.Generator(), split)
    with torch.random.fork_rng(devices=[]):
        return config.model()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every Config setting except max_len; its help lists the default of each task."""
    option = parser.add_argument

    def setting(flag: str, help: str, name: str = "", **how) -> None:
        name = name or flag.strip("-").replace("-", "_")
        values = {"default": getattr(Config(), name)}
        for architecture in ARCHITECTURES:
            if (own := getattr(Config(architecture=architecture), name)) != values["default"]:
                values[architecture] = own
        for task_name, task in TASKS.items():
            if name in task.settings:
                values[task_name] = task.settings[name]
            for architecture in ARCHITECTURES:
                if name in task.settings.get(architecture, {}):
                    values[f"{task_name}, {architecture}"] = task.settings[architecture][name]
        if "choices" not in how:
            number = type(values["default"])
            how |= {"type": number, "metavar": "N" if number is int else "X"}
        words = [f"{whose}: {setting_text(name, value).split()[-1]}" for whose, value in values.items()]
        option(flag, help=f"{help} ({'; '.join(words)})", **how)

    setting("--epochs", "number of epochs; each draws fresh data and ends with an evaluation")
    setting("--steps-per-epoch", "optimiser steps per epoch")
    setting("--batch-size", "sequences per step")
    setting("--learning-rate", "peak learning rate of AdamW, reached after the warm-up")
    setting("--hold", "fraction of the steps (0 ≤ X < 1) before cosine decay to 0 begins")
    setting("--seq-len", "maximum number of symbols in a question")
    option("--fixed-length", action="store_true",
           help="use only sequences of exactly --seq-len symbols, not all lengths up to it")
    setting("--oversample",
            "fraction of training questions (0 to 1) sampled so that all kinds are equally frequent")
    setting("--vocab-size", "vocabulary size, including the special tokens PAD, START, END and MASK")
    setting("--d-model", "width of the residual stream")
    setting("--num-heads", "attention heads per layer; must divide --d-model")
    setting("--num-layers", "number of layers; an encoder-decoder has this many in each half")
    setting("--d-ff", "hidden width of the feed-forward network")
    setting("--dropout", "dropout probability (0 ≤ X < 1)")
    setting("--positional", "type of positional encoding", choices=POSITIONAL)
    setting("--position-base", "base of the sinusoidal encoding; the paper uses 10000")
    setting("--embedding-std", "standard deviation of the initial token embeddings")
    setting("--norm",
            "LayerNorm before (pre) or after (post) each sublayer",
            name="norm_first", choices=["pre", "post"])
    setting("--activation", "activation function of the feed-forward networks", choices=list(ACTIVATIONS))
    setting("--seed", "random seed for the initial weights and the training data")
