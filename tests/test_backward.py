"""Backward by hand: a head with one number per vector, two tokens, and each gradient by the chain rule."""

import math
import re

import pytest
import torch
from conftest import ROOT

from transformer import scaled_dot_product_attention

EXERCISES = (ROOT / "EXERCISES.md").read_text(encoding="utf-8")
EXERCISE = re.search(r"^## \d+\. Backward by hand.*?^## ", EXERCISES, re.DOTALL | re.MULTILINE)[0]
TOKENS, WEIGHTS = (-1.0, 1.0), (1.0, math.log(3) / 2, 2 * math.log(3))


def by_hand(x, wq, wk, wv):
    """Each value and gradient of the exercise's tables, for token 1 and 2 or once, in plain Python."""
    q, k, v = wq * x[1], [wk * each for each in x], [wv * each for each in x]
    s = [q * each for each in k]
    a = [math.exp(each) / sum(map(math.exp, s)) for each in s]
    o = a[0] * v[0] + a[1] * v[1]
    p = 1 / (1 + math.exp(-o))
    forward = {"query of token 2": [q], "keys": k, "values": v, "scores (√Dh = 1)": s, "weights": a,
               "output": [o], "probability of 1": [p], "loss": [-math.log(p)]}
    do = p - 1
    dv, da = [weight * do for weight in a], [value * do for value in v]
    mean = a[0] * da[0] + a[1] * da[1]
    ds = [weight * (each - mean) for weight, each in zip(a, da, strict=True)]
    dk, dq = [q * each for each in ds], k[0] * ds[0] + k[1] * ds[1]
    backward = {"output": [do], "values": dv, "weights": da, "scores": ds, "keys": dk, "query": [dq],
                "wv": [x[0] * dv[0] + x[1] * dv[1]], "wk": [x[0] * dk[0] + x[1] * dk[1]], "wq": [x[1] * dq]}
    return forward, backward


def loss_of(x, weights):
    """The same loss from scaled_dot_product_attention."""
    query, key, value = (weight * x.view(1, 1, 2, 1) for weight in weights)
    output, _ = scaled_dot_product_attention(query[:, :, 1:], key, value)
    return -output.sigmoid().log().sum()


@pytest.mark.parametrize("x, weights", [(TOKENS, WEIGHTS), ((0.3, -1.2), (0.7, -1.5, 0.4))])
def test_gradients_by_hand_equal_autograd(x, weights):
    forward, backward = by_hand(x, *weights)
    parameters = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    loss = loss_of(torch.tensor(x, dtype=torch.float64), parameters)
    loss.backward()
    assert forward["loss"] == pytest.approx([loss.item()], abs=1e-6)
    found = [backward[name][0] for name in ("wq", "wk", "wv")]
    assert found == pytest.approx(parameters.grad.tolist(), abs=1e-6)


def test_exercise_tables_show_these_values():
    tables = re.findall(r"^\| (?:for|back)ward \|.*?(?=\n\n|\n<)", EXERCISE, re.DOTALL | re.MULTILINE)
    for table, expected in zip(tables, by_hand(TOKENS, *WEIGHTS), strict=True):
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
        assert [name for name, *_ in rows] == [*expected]
        for name, _, *cells in rows:
            numbers = [eval(cell.replace("−", "-")) for cell in cells if cell]
            assert numbers == pytest.approx(expected[name], abs=5e-5), name


def test_one_step_lowers_the_loss_as_predicted():
    """Except for the curvature: half the learning rate leaves a quarter of the error."""
    errors = []
    for rate in 0.02, 0.01:
        before, gradients = by_hand(TOKENS, *WEIGHTS)
        slopes = [gradients[name][0] for name in ("wq", "wk", "wv")]
        moved = [weight - rate * slope for weight, slope in zip(WEIGHTS, slopes, strict=True)]
        after, _ = by_hand(TOKENS, *moved)
        fall = before["loss"][0] - after["loss"][0]
        predicted = rate * sum(slope**2 for slope in slopes)
        assert 0 < fall == pytest.approx(predicted, rel=0.02)
        errors.append(predicted - fall)
    assert errors[1] / errors[0] == pytest.approx(0.25, rel=0.02)
