"""Every setting of a run, once: its default, its range, its help, and what each task trains best with."""

import argparse
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from inspect import signature

import torch
from torch import Tensor

from data import ARCHITECTURES, TASKS, answer_length, check_task, sample_batch, valid_lengths
from transformer import ACTIVATIONS, POSITIONAL_ENCODINGS, EncoderDecoder, MiniTransformer, check_choice

VALIDATION_SEQUENCES, TEST_SEQUENCES = 2_000, 10_000
EVALUATION_BATCH = 100                                      # rows per forward pass; also scored every epoch
MAX_RECORDED_LENGTH = 16                                    # the maximum length of a recorded question
MODEL_SETTINGS = signature(EncoderDecoder).parameters       # the names of its settings
SEEDS = {"validation": 1, "test": 2, "examples": 3, "analysis": 4, "influence": 5}      # the same in all runs


def setting(default: object, allowed: Collection, text: str = "") -> object:
    """Return a field for one of these words, or for a number in (minimum, maximum); text is its help."""
    key = "choices" if isinstance(default, str) else "range"
    return field(default=default, metadata={key: allowed, "help": text})


@dataclass
class Config:
    """Everything that determines a run; saved in checkpoints as a dict. Model settings are transformer.py's.

    Raises ValueError for unknown names and numbers out of range.
    """

    task: str = setting("reverse", TASKS)
    architecture: str = setting("encoder", ARCHITECTURES)
    epochs: int = setting(50, (1, 1_000_000), "epochs, each with fresh data and an evaluation at its end")
    steps_per_epoch: int = setting(8, (1, 10_000), "optimiser steps per epoch")
    batch_size: int = setting(32, (1, 10_000), "sequences per step")
    learning_rate: float = setting(1e-3, (1e-9, 1.0), "peak learning rate of AdamW, after the warm-up")
    constant_fraction: float = setting(0.0, (0.0, 1.0), "fraction of the steps before the cosine decay")
    weight_decay: float = setting(0.01, (0.0, 10.0), "weight decay of AdamW")
    seq_len: int = setting(8, (1, 4_096), "maximum number of symbols in a question")
    fixed_length: bool = setting(False, (False, True), "use only questions of exactly --seq-len symbols")
    oversample: float = setting(0.0, (0.0, 1.0), "fraction of training data balanced over all categories")
    vocab_size: int = setting(20, (5, 100_000), "vocabulary size, including PAD, START, END and MASK")
    d_model: int = setting(128, (1, 8_192), "width of the residual stream")
    num_heads: int = setting(8, (1, 256), "attention heads per layer; must divide --d-model")
    num_layers: int | None = setting(None, (1, 128), "layers (default: 4; encoder-decoder: 2 in each half)")
    d_ff: int = setting(512, (1, 65_536), "hidden width of the feed-forward network")
    dropout: float = setting(0.0, (0.0, 0.99), "dropout probability")
    positional: str = setting("sinusoidal", POSITIONAL_ENCODINGS, "type of positional encoding")
    position_base: float = setting(50.0, (1.0, 1e9), "base of the sinusoidal encoding; the paper uses 10000")
    embedding_std: float = setting(0.25, (1e-6, 100.0), "standard deviation of the initial token embeddings")
    norm_first: bool = setting(True, (False, True), "LayerNorm before (pre) or after (post) each sublayer")
    activation: str = setting("gelu", ACTIVATIONS, "activation function of the feed-forward networks")
    max_len: int | None = None                              # None: the model's own, or what the task needs
    seed: int = setting(0, (0, 2**63 - 1), "random seed for the initial weights and the training data")
    task_file: str = ""                                     # that defines the task; "": data.py

    def __post_init__(self):
        if self.num_layers is None:
            self.num_layers = 2 if self.architecture == "encoder-decoder" else 4
        for each in fields(self):
            value = getattr(self, each.name)
            if "choices" in each.metadata:
                check_choice(each.metadata["choices"], **{each.name: value})
            if "range" in each.metadata:
                minimum, maximum = each.metadata["range"]
                if not minimum <= value <= maximum:         # also refuses NaN
                    raise ValueError(f"{each.name}={value} is out of range; choose {minimum} … {maximum}")
        self.task_file = TASKS[self.task].file

    @property
    def name(self) -> str:
        """Return the run's display name, e.g. "reverse, encoder"."""
        return f"{self.task}, {self.architecture}"

    @property
    def sizes(self) -> tuple[int, int, bool]:
        """The settings on which the task's questions depend, in the order of data.py's arguments."""
        return self.seq_len, self.vocab_size, self.fixed_length

    def build_model(self) -> MiniTransformer | EncoderDecoder:
        """Return a new model; its weights come from torch's global generator."""
        settings = {name: value for name, value in asdict(self).items() if name in MODEL_SETTINGS}
        settings["max_len"] = self.max_len or max(64, self.longest_row())
        if self.architecture == "encoder-decoder":
            return EncoderDecoder(**settings)
        return MiniTransformer(**settings, causal=self.architecture == "decoder")

    def lengths(self) -> list[int]:
        """Return the question lengths; for sums with seq_len 8, these are 3, 5 and 7."""
        return valid_lengths(self.task, *self.sizes)

    def longest_row(self) -> int:
        """Return the longest possible input: a decoder's prompt and answer, with START and END."""
        lengths = self.lengths()
        return max(length + answer_length(self.task, length, self.vocab_size) for length in lengths) + 3

    def check(self) -> None:
        """Raise ValueError if the task's function fails at these sizes, or the model cannot be built."""
        if TASKS[self.task].next_token and self.architecture != "decoder":
            raise ValueError(f"task {self.task} predicts each next token; choose --architecture decoder")
        check_task(self.task, *self.sizes)
        with torch.random.fork_rng(devices=[]):
            self.build_model()

    def sample_batch(
        self, count: int, generator: torch.Generator, split: str = "train"
    ) -> tuple[Tensor, Tensor]:
        """Sample questions (count, S) and answers (count, T) of this run's task."""
        oversample = self.oversample if split == "train" else 0.0
        return sample_batch(self.task, count, generator, split, *self.sizes, oversample)


def default_config(task: str, architecture: str, **settings) -> Config:
    """Return a Config with these settings; the rest come from the task, or else from the defaults.

    A task's settings under an architecture's name apply only to it.
    """
    check_choice(TASKS, task=task)
    settings_of_task = TASKS[task].settings
    overrides = {name: value for name, value in settings_of_task.items() if name not in ARCHITECTURES}
    overrides |= settings_of_task.get(architecture, {})
    for name in overrides:
        check_choice([each.name for each in fields(Config)], setting=name)
    return Config(task=task, architecture=architecture, **overrides | settings)


def format_setting(name: str, value: object) -> str:
    """Format a setting for display: num_layers 1, fixed_length, no fixed_length."""
    if name == "norm_first":
        return "norm pre" if value else "norm post"
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def non_default_settings(config: Config) -> str:
    """Format all settings that differ from the task's own or, failing that, the defaults."""
    settings, defaults = asdict(config), asdict(default_config(config.task, config.architecture))
    differing = [name for name in settings if settings[name] != defaults[name]]
    return ", ".join(format_setting(name, settings[name]) for name in differing)


def fixed_generator(purpose: str) -> torch.Generator:
    """Return a generator for sequences shared by all runs, whatever their seed; see SEEDS."""
    return torch.Generator().manual_seed(SEEDS[purpose])


def format_test_size(config: Config, count: int) -> str:
    """Format the size of a test: 10,000 test sequences (6,584 distinct)."""
    source, _ = config.sample_batch(count, fixed_generator("test"), "test")
    distinct = len(source.unique(dim=0))
    return f"{count:,} test sequences" + (f" ({distinct:,} distinct)" if distinct < count else "")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting that has a help text."""
    parser.description += "\nThe settings that data.py gives a task replace the defaults shown here."
    for each in fields(Config):
        flag, text = f"--{each.name.replace('_', '-')}", each.metadata.get("help")
        if not text:
            continue
        if each.name == "norm_first":
            parser.add_argument("--norm", choices=["pre", "post"], help=f"{text} (default: pre)")
        elif each.type is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            text += f" (default: {each.default})" if each.default is not None else ""
            words = each.metadata.get("choices")
            value = {"choices": words} if words else {"metavar": "NUMBER"}
            as_type = each.type if each.type in (str, float) else int
            parser.add_argument(flag, type=as_type, help=text, **value)
