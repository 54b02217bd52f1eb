"""A model with a fused projection, rotary positions and RMSNorm is measured and drawn like our own."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import texts_of, title_of
from torch import nn

from lab import what_matters
from lab.ablation import ablate
from lab.evidence import Evidence, make_head_table
from lab.patching import record
from lab.view import make_view
from support.config import Config
from support.runs import Run
from visualize import draw_head, draw_layer

WIDTH, HEADS = 32, 4


class FusedAttention(nn.Module):
    num_heads = HEADS

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)
        self.output_projection = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, is_token):
        query, key, value = self.projection(x).unflatten(-1, (3, HEADS, -1)).unbind(-3)     # (B, S, H, Dh)
        angle = torch.arange(x.size(1))[:, None, None] / 2.0 ** torch.arange(WIDTH // HEADS // 2)
        query, key = (
            torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
            for a, b in (query.chunk(2, dim=-1), key.chunk(2, dim=-1))
        )
        scores = torch.einsum("bthd, bshd -> bhts", query, key)
        weights = scores.masked_fill(~is_token[:, None, None], -torch.inf).softmax(dim=-1)
        self.attention_weights = weights.detach()
        return self.output_projection(torch.einsum("bhts, bshd -> bthd", weights, value).flatten(2))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.norm = FusedAttention(), nn.RMSNorm(WIDTH)
        self.think = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 64), nn.SiLU(), nn.Linear(64, WIDTH))

    def forward(self, x, is_token):
        x = x + self.attend(self.norm(x), is_token)
        return x + self.think(x)


class Foreign(nn.Module):
    architecture = "encoder"

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, WIDTH)
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(WIDTH, 20)

    def attention_layers(self):
        return {"encoder": [block.attend for block in self.blocks]}

    def forward(self, tokens):
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x, tokens != 0)
        return self.head(x)


@pytest.fixture(scope="module")
def foreign():
    """A foreign model that has learned a little of reversing, in two seconds."""
    torch.manual_seed(0)
    config, model = Config(task="reverse", num_layers=2, num_heads=HEADS, d_model=WIDTH), Foreign()
    optimizer, generator = torch.optim.AdamW(model.parameters(), 5e-3), torch.Generator().manual_seed(0)
    for _ in range(150):
        source, target = config.sample_batch(64, generator)
        F.cross_entropy(model(source).flatten(0, 1), target.flatten(), ignore_index=0).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Run(model.eval(), config, [{"epoch": 1, "step": 150}], Path("nowhere"))


def test_foreign_model_is_measured(foreign):
    evidence = Evidence(foreign, 100)
    rows = make_head_table(evidence)
    assert len(rows) == 2 * HEADS and 0 < evidence.token_accuracy_without("nothing") <= 1
    tokens = torch.tensor([[1, 5, 7, 9, 2]])
    zeroed = dict(foreign.model.named_parameters())["blocks.1.attend.output_projection.weight"]
    with ablate(foreign.model, ("encoder", 1)):
        ablated = foreign.model(tokens)
    before = zeroed.detach().clone()
    zeroed.data.zero_()
    torch.testing.assert_close(ablated, foreign.model(tokens))
    zeroed.data.copy_(before)
    assert [result.length for result in evidence.length_results] == list(range(1, 17))
    assert evidence.influence.isfinite().any()


def test_foreign_model_is_drawn(foreign):
    view = make_view(foreign, ["5", "9", "12", "14"])
    pictures = [head := draw_head(view), draw_layer(view), what_matters.draw_influence(view)]
    words = " ".join(text for text, _ in texts_of(head)).split()
    assert "not worked out: this model does not call scaled_dot_product_attention." in " ".join(words)
    pictures += [what_matters.draw_ablation(view), what_matters.draw_lengths([view])]
    assert all(title_of(figure) for figure in pictures)


def test_foreign_model_lacks_what_the_error_names(foreign):
    view = make_view(foreign, ["5", "9"])
    with pytest.raises(AttributeError, match="'Foreign' object has no attribute 'final_norm'"):
        what_matters.draw_layers(view)
    with pytest.raises(AttributeError, match="'Layer' object has no attribute 'apply_sublayer'"):
        record(foreign.model, (torch.tensor([[1, 5, 2]]),))
