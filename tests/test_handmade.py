"""The hand-built models are exact, and each part does what its name promises."""

import shutil
import sys

import pytest
import torch
from conftest import as_run, call_main, resize_handmade
from probes import patch_length_signal, probe_positions
from torch import Tensor

import handmade
import support.config
import train
from data import (
    FIRST_SYMBOL,
    add_special_tokens,
    make_inputs_and_targets,
    make_source_and_target,
    sample_batch,
)
from handmade import (
    BUILDERS,
    PAIRS,
    VOCAB_SIZE,
    copying_encoder,
    copying_encoder_decoder,
    exact_match_by_length,
    reversing_encoder,
    reversing_encoder_decoder,
)
from lab.ablation import ablate
from support.console import run_script
from support.puzzles import ZERO
from support.runs import run_folder
from train import load_run, predict
from transformer import PAD, EncoderDecoder, MiniTransformer


def add_digits(first: list[int], second: list[int]) -> list[int]:
    total = sum(int("".join(str(symbol - ZERO) for symbol in term)) for term in (first, second))
    return [ZERO + int(digit) for digit in f"{total:0{len(first) + 1}}"]


ANSWERS = {                                                 # of one question, in plain Python
    "copy": lambda symbols: symbols,
    "reverse": lambda symbols: symbols[::-1],
    "double": lambda symbols: symbols * 2,
    "sort": sorted,
    "add": lambda symbols: add_digits(symbols[: len(symbols) // 2], symbols[len(symbols) // 2 + 1 :]),
}
SYMBOLS = torch.arange(FIRST_SYMBOL, VOCAB_SIZE)


@pytest.fixture(autouse=True)
def large_batches(monkeypatch):
    """The answers are the same but arrive sooner."""
    monkeypatch.setattr(support.config, "EVALUATION_BATCH", 1_000)


@pytest.mark.parametrize("build", BUILDERS)
def test_hand_built_models_are_always_correct(build):
    config, model, _ = build()
    assert type(model) in (MiniTransformer, EncoderDecoder)         # nothing is overridden

    def answer(content: Tensor) -> Tensor:
        return torch.tensor([ANSWERS[config.task](symbols) for symbols in content.tolist()])

    assert exact_match_by_length(model, answer, config.task) == dict.fromkeys(config.lengths(), 1.0)
    generator = torch.Generator().manual_seed(0)
    source, target = sample_batch(config.task, 2_000, generator)        # of all lengths: PAD
    predictions = predict(model, source, target)
    assert torch.equal(predictions.where(target != PAD, PAD)[:, 1:], target[:, 1:])     # with END


@pytest.mark.parametrize("build", BUILDERS)
def test_hand_built_model_rejects_a_longer_sequence(build):
    config, model, _ = build()
    content = torch.arange(4, 13)[None]
    inputs, _ = make_inputs_and_targets(config.architecture, *make_source_and_target(config.task, content))
    with pytest.raises(ValueError, match="11 tokens exceed max_len=10|20 tokens exceed max_len=18"):
        model(*inputs)


def test_first_head_finds_the_end():
    _, model, purposes = reversing_encoder()
    assert purposes["layer 1, head 1"] == "finds END"
    inputs = add_special_tokens(torch.tensor([[5, 7, 9], [8, 4, 6]]), 5)
    ends, fetches = model.attention_layers()["encoder"]
    model(inputs)
    assert torch.equal(ends.attention_weights[:, 0], torch.eye(5)[[4] * 5].expand(2, 5, 5))
    assert torch.equal(fetches.attention_weights[:, 0, 1:], torch.eye(5)[[3, 2, 1, 4]].expand(2, 4, 5))
    with ablate(model, ("encoder", 0, 0)):
        logits = model(inputs)
    assert torch.allclose(fetches.attention_weights, torch.tensor(1 / 5))
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-4)       # same at each position


def test_second_head_fetches_the_symbol():
    for build, part in (
        (reversing_encoder, ("encoder", 1, 0)), (copying_encoder_decoder, ("cross", 0, 0)),
        (reversing_encoder_decoder, ("cross", 0, 0)),
    ):
        config, model, _ = build()
        sequence = add_special_tokens(torch.tensor([[5, 7, 9]]), 5)
        inputs, _ = make_inputs_and_targets(config.architecture, sequence, sequence)
        with ablate(model, part):
            logits = model(*inputs)
        assert torch.allclose(logits, logits[..., :1].expand_as(logits), atol=1e-4)


def test_cross_attention_reads_the_answers_position():
    source = add_special_tokens(torch.tensor([[5, 7, 9]]), 5)
    for build, order in (copying_encoder_decoder, [1, 2, 3, 4]), (reversing_encoder_decoder, [3, 2, 1, 4]):
        _, model, _ = build()
        model(source, source[:, :4])
        cross, = model.attention_layers()["cross"]
        assert torch.equal(cross.attention_weights[0, 0], torch.eye(5)[order])
        with ablate(model, ("decoder",)):
            model(source, source[:, :4])
        assert torch.equal(cross.attention_weights[0, 0], torch.eye(5)[order])


def test_copying_encoder_needs_no_attention():
    _, model, purposes = copying_encoder()
    assert purposes == {"layer 1, head 1": "does nothing"}
    with ablate(model, ()):
        assert set(exact_match_by_length(model, lambda content: content).values()) == {1.0}
    rows = model.output_projection.weight[FIRST_SYMBOL:]
    model.output_projection.weight[FIRST_SYMBOL:] = rows.roll(1, dims=0)
    correct = exact_match_by_length(model, lambda content: torch.where(content == 19, 4, content + 1))
    assert set(correct.values()) == {1.0}


@pytest.mark.parametrize("unit", range(len(PAIRS)))
def test_hidden_unit_serves_one_position_of_one_length(unit):
    _, model, _ = reversing_encoder()
    last, here = PAIRS[unit]
    model.blocks[0].feed_forward.expand.bias[unit] = -4             # 2 + 2 − 4: never on
    for length in range(1, 9):
        model(add_special_tokens(SYMBOLS[None, :length], length + 2))
        weights = model.attention_layers()["encoder"][1].attention_weights[0, 0]
        blind = (weights.amax(dim=1) < 0.99).nonzero().flatten().tolist()
        assert blind == ([here] if last == length + 1 else [])


def test_probes_find_the_end_then_the_mirror_position():
    run = as_run(reversing_encoder)
    read, control = probe_positions(run), probe_positions(run, shuffled=True)
    assert max(read["embedding"]) < 0.4
    assert read["layer 1 attention"][0] == 1 and read["layer 1 feed-forward"] == (1, 1)
    assert max(max(pair) for pair in control.values()) < 0.25       # one of seven lengths, by chance 0.14


def test_patched_length_moves_the_mirror_position():
    run = as_run(reversing_encoder)
    for length in range(1, 9):
        assert patch_length_signal(run, length, length) == (1, 1)
    for length, other in (8, 7), (7, 8), (5, 2), (6, 8):
        own, moved = patch_length_signal(run, length, other)
        assert moved == 1 and own < 0.2


def test_hand_built_models_survive_saving(saved):
    printed, folder = saved
    assert "visualize.py --models-dir models/handmade\n" in printed
    for build in BUILDERS:
        config, model, purposes = build()
        run = load_run(folder, config.task, config.architecture)
        assert run.config == config and run.purposes == purposes
        weights = run.model.state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
        assert run.history[-1]["solved"] and not (run.folder / "training.png").exists()


def test_visualize_draws_hand_built_next_to_trained(
    built, models_dir, tmp_path, monkeypatch, few_sequences, few_lengths, unpainted
):
    models, handmade_dir = tmp_path / "models", tmp_path / "models" / "handmade"
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), run_folder(models, "reverse", "encoder"))
    for task in "copy", "reverse":
        shutil.copytree(run_folder(built, task, "encoder"), run_folder(handmade_dir, task, "encoder"))
    call_main(monkeypatch, "--models-dir", handmade_dir)
    assert [path.parents[1].name for path in handmade_dir.rglob("beside_trained.png")] == ["reverse_task"]
    assert not [*handmade_dir.rglob("lengths*")]                # it was not trained on any
    call_main(monkeypatch, "--models-dir", handmade_dir, "--task", "reverse", "--sequence", "5", "9")
    beside = run_folder(handmade_dir, "reverse", "encoder") / "beside_trained_5-9.png"
    assert beside.exists()
    trained = run_folder(models, "reverse", "encoder")
    train.save_weights(torch.load(trained / "checkpoint.pt", weights_only=True), trained)   # of new weights
    assert not [*handmade_dir.rglob("beside_trained*")]
    assert (handmade_dir / "copy_task" / "encoder" / "layers.png").exists()


def test_handmade_sizes_are_set_in_one_line(tmp_path, monkeypatch):
    changed = resize_handmade(9, 11)
    for name, answer in ("reversing", lambda content: content.flip(1)), ("copying", lambda content: content):
        for architecture in "encoder", "encoder_decoder":
            _, model, _ = changed[f"{name}_{architecture}"]()
            assert changed["exact_match_by_length"](model, answer) == dict.fromkeys(range(1, 12), 1.0)


def test_handmade_reports_a_model_that_makes_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["handmade.py"])
    monkeypatch.setattr(support.config, "TEST_SEQUENCES", 500)
    monkeypatch.setattr(handmade, "ATTENTION_SHARPNESS", 1.0)
    monkeypatch.setattr(handmade, "BUILDERS", [copying_encoder, reversing_encoder])
    with pytest.raises(SystemExit, match="at least one of the models makes mistakes"):
        run_script(handmade.main)
