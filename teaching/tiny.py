"""An encoder that learns to reverse sequences, complete in 100 lines, with transformer.py's names."""

import torch
import torch.nn.functional as F
from torch import nn

PAD, START, END, FIRST_SYMBOL, VOCAB_SIZE = 0, 1, 2, 4, 20              # the symbols are 4 … 19
D, H, LAYERS, D_FF, LENGTH = 128, 8, 4, 512, 8              # LENGTH: the maximum number of symbols
STEPS, WARM_UP, BATCH_SIZE, LEARNING_RATE = 400, 15, 32, 1e-3
ANGLES = torch.arange(LENGTH + 2)[:, None] * 50 ** (-torch.arange(0, D, 2) / D)
POSITIONS = torch.stack([ANGLES.sin(), ANGLES.cos()], dim=-1).flatten(1)            # one row per position


class MultiHeadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_projection, self.key_projection = nn.Linear(D, D), nn.Linear(D, D)
        self.value_projection, self.output_projection = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x, mask):                             # (batch, tokens, D) → (batch, tokens, D)
        projections = self.query_projection, self.key_projection, self.value_projection
        query, key, value = (each(x).unflatten(-1, (H, D // H)).transpose(1, 2) for each in projections)
        scores = query @ key.transpose(-2, -1) / (D // H) ** 0.5            # (batch, H, tokens, tokens)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)      # each row sums to one
        return self.output_projection((weights @ value).transpose(1, 2).flatten(2))


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


class TransformerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiHeadAttention()
        self.feed_forward = nn.ModuleDict({"expand": nn.Linear(D, D_FF), "contract": nn.Linear(D_FF, D)})
        self.attention_norm, self.feed_forward_norm = LayerNorm(), LayerNorm()

    def forward(self, x, mask):
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feed_forward.contract(F.gelu(self.feed_forward.expand(self.feed_forward_norm(x))))


class MiniTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, D)
        nn.init.normal_(self.embedding.weight, std=0.25)    # if larger, symbols drown out positions
        self.blocks = nn.ModuleList(TransformerBlock() for _ in range(LAYERS))
        self.final_norm, self.output_projection = LayerNorm(), nn.Linear(D, VOCAB_SIZE)

    def forward(self, tokens):                              # (batch, tokens) → (batch, tokens, VOCAB_SIZE)
        x = self.embedding(tokens) + POSITIONS
        for block in self.blocks:
            x = block(x, mask=(tokens != PAD)[:, None, None, :])            # no token attends to PAD
        return self.output_projection(self.final_norm(x))


def sample_batch(count):                                    # questions START 5 7 9 END PAD … and their
    batch = torch.full((2, count, LENGTH + 2), PAD)         # answers START 9 7 5 END PAD …
    for row, length in enumerate(torch.randint(1, LENGTH + 1, (count,))):
        content = torch.randint(FIRST_SYMBOL, VOCAB_SIZE, (length,)).tolist()
        batch[:, row, : length + 2] = torch.tensor([[START, *content, END], [START, *content[::-1], END]])
    return batch


def train(model):                                           # yields the loss of each step
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.85, 0.99))
    step = torch.arange(STEPS)
    rates = LEARNING_RATE * ((step + 1) / WARM_UP).clamp(max=1) * (1 + (torch.pi * step / STEPS).cos()) / 2
    for rate in rates.tolist():                             # a warm-up, then cosine decay
        optimizer.param_groups[0]["lr"] = rate
        question, answer = sample_batch(BATCH_SIZE)
        scored = (answer != PAD) & (answer != START)
        loss = F.cross_entropy(model(question)[scored], answer[scored])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def exact_match(model, count):                              # the fraction of new questions without an error
    question, answer = sample_batch(count)
    wrong = (model(question).argmax(dim=-1) != answer) & (answer != PAD) & (answer != START)
    return 1 - wrong.any(dim=1).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    for step, loss in enumerate(train(model := MiniTransformer()), 1):
        if step % 40 == 0:
            print(f"step {step}: loss {loss:.4f}, exact match {exact_match(model, 1_000):.1%}")
