"""Every setting of a run, once: its default, its range, its help, and what each task trains best with."""

import argparse
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from inspect import signature

import torch
from torch import Tensor

from data import ARCHITECTURES, TASKS, answer_length, check_task, draw, usable_lengths
from transformer import ACTIVATIONS, POSITIONAL, EncoderDecoder, MiniTransformer, check_known

VALIDATION_SEQUENCES, TEST_SEQUENCES = 2_000, 10_000
EVALUATION_BATCH = 100                                      # rows per forward pass; also scored every epoch
LONGEST_PROBE = 16                                          # the maximum length of a recorded question
OF_MODEL = signature(EncoderDecoder).parameters             # the names of its settings
SEEDS = {"validation": 1, "test": 2, "examples": 3, "analysis": 4, "influence": 5}      # the same in all runs


def number(default: float | None, least: float, most: float, text: str) -> float:
    """Return a field for a number in this range; text is its help."""
    return field(default=default, metadata={"range": (least, most), "help": text})


def choice(default: str, choices: Collection[str], text: str = "") -> str:
    """Return a field for one of these words; text is its help, if it is an option."""
    return field(default=default, metadata={"choices": choices, "help": text})


def switch(default: bool, text: str) -> bool:
    """Return a field that is True or False; text is its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class Config:
    """Everything that determines a run; saved in checkpoints as a dict. Model settings are transformer.py's.

    Raises ValueError for unknown names and numbers out of range.
    """

    task: str = choice("reverse", TASKS)
    architecture: str = choice("encoder", ARCHITECTURES)
    epochs: int = number(50, 1, 1_000_000, "epochs, each with fresh data and an evaluation at its end")
    steps_per_epoch: int = number(8, 1, 10_000, "optimiser steps per epoch")
    batch_size: int = number(32, 1, 10_000, "sequences per step")
    learning_rate: float = number(1e-3, 1e-9, 1.0, "peak learning rate of AdamW, reached after the warm-up")
    hold: float = number(0.0, 0.0, 0.99, "fraction of the steps before cosine decay to 0 begins")
    seq_len: int = number(8, 1, 4_096, "maximum number of symbols in a question")
    fixed_length: bool = switch(False, "use only questions of exactly --seq-len symbols")
    oversample: float = number(0.0, 0.0, 1.0, "fraction of training questions with all kinds equally common")
    vocab_size: int = number(20, 5, 100_000, "vocabulary size, including PAD, START, END and MASK")
    d_model: int = number(128, 1, 8_192, "width of the residual stream")
    num_heads: int = number(8, 1, 256, "attention heads per layer; must divide --d-model")
    num_layers: int | None = number(None, 1, 128, "layers (default: 4; encoder-decoder: 2 in each half)")
    d_ff: int = number(512, 1, 65_536, "hidden width of the feed-forward network")
    dropout: float = number(0.0, 0.0, 0.99, "dropout probability")
    positional: str = choice("sinusoidal", POSITIONAL, "type of positional encoding")
    position_base: float = number(50.0, 1.0, 1e9, "base of the sinusoidal encoding; the paper uses 10000")
    embedding_std: float = number(0.25, 1e-6, 100.0, "standard deviation of the initial token embeddings")
    norm_first: bool = switch(True, "LayerNorm before (pre) or after (post) each sublayer")
    activation: str = choice("gelu", tuple(ACTIVATIONS), "activation function of the feed-forward networks")
    max_len: int | None = None                              # None: the model's own, or what the task needs
    seed: int = number(0, 0, 2**63 - 1, "random seed for the initial weights and the training data")

    def __post_init__(self):
        if self.num_layers is None:
            self.num_layers = 2 if self.architecture == "encoder-decoder" else 4
        for setting in fields(self):
            value = getattr(self, setting.name)
            if "choices" in setting.metadata:
                check_known(setting.metadata["choices"], **{setting.name: value})
            if "range" in setting.metadata:
                least, most = setting.metadata["range"]
                if not least <= value <= most:              # also refuses NaN
                    raise ValueError(f"{setting.name}={value} is out of range; choose {least} … {most}")

    @property
    def name(self) -> str:
        """Return the run's display name, e.g. "reverse, encoder"."""
        return f"{self.task}, {self.architecture}"

    def model(self) -> MiniTransformer | EncoderDecoder:
        """Return a new model; its weights come from torch's global generator."""
        settings = {name: value for name, value in asdict(self).items() if name in OF_MODEL}
        settings["max_len"] = self.max_len or max(64, self.longest_row())
        if self.architecture == "encoder-decoder":
            return EncoderDecoder(**settings)
        return MiniTransformer(**settings, causal=self.architecture == "decoder")

    def lengths(self) -> list[int]:
        """Return the question lengths; for sums with seq_len 8, these are 3, 5 and 7."""
        return usable_lengths(self.task, self.seq_len, self.vocab_size, self.fixed_length)

    def longest_row(self) -> int:
        """Return the longest possible input: a decoder's prompt and answer, with START and END."""
        lengths = self.lengths()
        return max(length + answer_length(self.task, length, self.vocab_size) for length in lengths) + 3

    def check(self) -> None:
        """Raise ValueError if the task's function fails at these sizes, or the model cannot be built."""
        check_task(self.task, self.seq_len, self.vocab_size, self.fixed_length)
        with torch.random.fork_rng(devices=[]):
            self.model()

    def draw(self, count: int, generator: torch.Generator, split: str = "train") -> tuple[Tensor, Tensor]:
        """Draw fresh questions (count, S) and targets (count, T) of this run's task."""
        oversample = self.oversample if split == "train" else 0.0
        sizes = self.seq_len, self.vocab_size, self.fixed_length
        return draw(self.task, count, generator, split, *sizes, oversample)


def recipe(task: str, architecture: str, **settings) -> Config:
    """Return a Config with these settings; the rest come from the task, or else from the defaults.

    A task's settings under an architecture's name apply only to it.
    """
    check_known(TASKS, task=task)
    own = TASKS[task].settings
    own = {name: own[name] for name in own if name not in ARCHITECTURES} | own.get(architecture, {})
    for name in own:
        check_known([setting.name for setting in fields(Config)], setting=name)
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


def fixed_generator(purpose: str) -> torch.Generator:
    """Return a generator for sequences shared by all runs, whatever their seed; see SEEDS."""
    return torch.Generator().manual_seed(SEEDS[purpose])


def tests_text(config: Config, count: int) -> str:
    """Format the size of a test: 10,000 test sequences (6,584 distinct)."""
    source, _ = config.draw(count, fixed_generator("test"), "test")
    distinct = len(source.unique(dim=0))
    return f"{count:,} test sequences" + (f" ({distinct:,} distinct)" if distinct < count else "")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting that has a help text."""
    parser.description += "\nThe settings that data.py gives a task replace the defaults shown here."
    for setting in fields(Config):
        flag, metadata = f"--{setting.name.replace('_', '-')}", setting.metadata
        if not metadata.get("help"):
            continue
        text = metadata["help"]
        if setting.name == "norm_first":
            parser.add_argument("--norm", choices=["pre", "post"], help=f"{text} (default: pre)")
        elif setting.type is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            text += f" (default: {setting.default})" if setting.default is not None else ""
            kind = {"choices": metadata["choices"]} if "choices" in metadata else {"metavar": "NUMBER"}
            as_type = setting.type if setting.type in (str, float) else int
            parser.add_argument(flag, type=as_type, help=text, **kind)
