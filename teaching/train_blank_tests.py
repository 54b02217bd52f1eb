"""Tests of the blanks in train.py, three to six points each."""

import torch
import torch.nn.functional as F
from torch import Tensor

import data
import train
from support.config import Config
from teaching.checks import TARGET, expect, random
from transformer import END, PAD, START


def test_loss_of_guessing_is_the_logarithm_of_the_vocabulary(student):
    loss = student.masked_cross_entropy(torch.zeros(1, 3, 20), torch.tensor([[START, 7, END]]))
    expect("equal logits for 20 tokens: ln 20", loss, 2.9957)


def test_loss_ignores_padding(student):
    logits, targets = torch.zeros(1, 4, 20), torch.tensor([[START, 7, END, PAD]])
    logits[0, 3] = random(20) * 10
    loss = student.masked_cross_entropy(logits, targets)
    expect("equal logits, except where the target is PAD", loss, 2.9957)


def test_loss_ignores_the_start(student):
    logits, targets = torch.zeros(1, 3, 20), torch.tensor([[START, 7, END]])
    logits[0, 0] = random(20) * 10
    loss = student.masked_cross_entropy(logits, targets)
    expect("equal logits, except where the target is START", loss, 2.9957)


def test_loss_equals_that_of_pytorch(student):
    logits, targets = random(2, 4, 20), TARGET
    scored = (targets != PAD) & (targets != START)
    expected = F.cross_entropy(logits[scored], targets[scored])
    expect("random logits", student.masked_cross_entropy(logits, targets), expected)


def test_schedule_warms_up(student):
    got = torch.tensor([student.lr_multiplier(step, 10_000) for step in (0, 1, 14)])
    expect("steps 0, 1 and 14 of 10,000", got, torch.tensor([1, 2, 15]) / 15)


def test_schedule_decays_as_a_cosine(student):
    got = torch.tensor([student.lr_multiplier(step, 400) for step in (100, 200, 300, 399)])
    expect("steps 100, 200, 300 and 399 of 400", got, [0.85355, 0.5, 0.14645, 0.00002])


def test_schedule_equals_that_of_pytorch(student):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    expected = []
    for _ in range(400):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    got = torch.tensor([float(student.lr_multiplier(step, 400)) for step in range(400)])
    expect("steps 15 … 399 of 400, after the warm-up", got[15:], expected[15:])


def test_schedule_can_stay_constant(student):
    steps = (300, 1.0), (199, 0.5), (300, 0.5)
    got = torch.tensor([student.lr_multiplier(step, 400, fraction) for step, fraction in steps])
    expect("step 300, all constant; steps 199 and 300, half of them constant", got, [1.0, 1.0, 0.5])


def take_steps(train_step, count: int):
    """Return the training state of a small encoder after some steps, and their losses."""
    config = Config(task="reverse", d_model=16, num_heads=2, num_layers=1, d_ff=32)
    state, losses = train.TrainingState(config, torch.device("cpu")), []
    for _ in range(count):
        source, target = config.sample_batch(4, state.generator)
        losses.append(train_step(state, *data.make_inputs_and_targets("encoder", source, target)))
    return state, losses


def flat(parameters) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def test_step_returns_the_loss(student):
    (_, (got, *_)), (_, (loss, *_)) = (take_steps(module.train_step, 1) for module in (student, train))
    expect("the loss of the first step", got, loss)


def test_step_computes_fresh_gradients_and_clips_them(student):
    gradients = []
    for module in student, train:
        state, _ = take_steps(module.train_step, 2)
        gradients.append(flat(parameter.grad for parameter in state.model.parameters()))
    got, expected = (gradient.norm() for gradient in gradients)
    expect("the norm of the gradient after two steps", got, expected)
    expect("the gradient after two steps", *gradients)


def test_step_changes_the_weights(student):
    (state, _), (reference, _) = (take_steps(module.train_step, 3) for module in (student, train))
    got, expected = (flat(each.model.parameters()) for each in (state, reference))
    expect("the weights after three steps", got, expected)


def test_step_advances_the_schedule(student):
    state, _ = take_steps(student.train_step, 2)
    steps = state.schedule.last_epoch
    assert steps == 2, f"the schedule's steps after two batches: expected 2, got {steps}"


def test_step_updates_the_average(student):
    (state, _), (reference, _) = (take_steps(module.train_step, 3) for module in (student, train))
    got, expected = (flat(each.ema_model.parameters()) for each in (state, reference))
    expect("the average after three steps", got, expected)
