"""Linear probes of the residual stream, and the balance of token and position, for tests/benchmark.py.

Shapes: N sequences, H heads, T queries, S keys, D d_model.
"""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from data import batches_by_length
from lab.heads import SEQUENCES_PER_LENGTH, capture_activations, max_test_length, sample_unseen
from lab.patching import list_sites, record
from support.config import EVALUATION_BATCH, Config, fixed_generator
from support.figure import new_figure, percent
from support.runs import Run
from transformer import PAD, MultiHeadAttention, TransformerBlock, attention_mask, eval_mode, unwrap_model


def score_parts(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Split the scores q·k / √Dh of the first attention by source, each (B, H, T, S).

    Its input is a symbol vector plus a position vector. With the norm's divisor held fixed, norm and
    projections are linear. So each score is a sum of three terms: positions only, symbols only, and cross
    terms. Anything equal for all keys is left out, because softmax ignores it.
    """
    model = unwrap_model(model)
    block = next(module for module in model.modules() if isinstance(module, TransformerBlock))
    attention, norm = block.attention, block.attention_norm
    symbols = model.embedding(tokens)
    positions = model.positional_encoding(torch.zeros_like(symbols))
    deviation = (symbols + positions).var(dim=-1, unbiased=False, keepdim=True).add(norm.epsilon).sqrt()

    def projected(x: Tensor, projection: nn.Linear) -> Tensor:
        """Return this term's contribution to the queries or keys, (B, H, length, Dh)."""
        if block.norm_first:
            x = (x - x.mean(dim=-1, keepdim=True)) / deviation * norm.weight
        return attention.split_heads(linear(x, projection.weight))

    bias = norm.bias if block.norm_first and norm.bias is not None else torch.zeros_like(norm.weight)
    constant = attention.split_heads(attention.query_projection(bias).expand_as(symbols))
    (query_symbols, key_symbols), (query_positions, key_positions) = (
        [projected(x, projection) for projection in (attention.query_projection, attention.key_projection)]
        for x in (symbols, positions)
    )
    parts = {
        "positions": (query_positions + constant) @ key_positions.mT,
        "symbols": (query_symbols + constant) @ key_symbols.mT,
        "both": query_symbols @ key_positions.mT + query_positions @ key_symbols.mT,
    }
    return {name: part / math.sqrt(constant.size(-1)) for name, part in parts.items()}


def score_std(model: nn.Module, source: Tensor) -> dict[str, float]:
    """Return the standard deviation of each score term over the keys a query may attend to.

    This is the root mean square over all queries, heads and questions. source (N, S) holds questions of one
    length. Raises ValueError if the terms do not add up, as in a modified model.
    """
    result = {}
    with eval_mode(model) as model:
        mask = attention_mask(source[:1], causal=model.architecture == "decoder")
        parts = score_parts(model, source)
        expected = sum(parts.values()).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        first = next(module for module in model.modules() if isinstance(module, MultiHeadAttention))
        model(*[source] * (2 if model.architecture == "encoder-decoder" else 1))
        if (error := (first.attention_weights - expected).abs().max()) > 1e-3:
            raise ValueError(
                f"the balance cannot be measured: the terms differ from the attention scores by {error:.2g}, "
                "so norm, positions or projections are not those of transformer.py"
            )
        fraction = mask / mask.sum(dim=-1, keepdim=True)                                # of each key
        for name, part in parts.items():
            centred = part - (part * fraction).sum(dim=-1, keepdim=True)
            result[name] = (centred.square() * fraction).sum(dim=-1).mean().sqrt().item()
    return result


Balance = tuple[dict[str, float], float]                    # of a trained model: score_std, and exact match


def name_embeddings(config: Config) -> str:
    """Name the scale of a run's embeddings."""
    names = {Config.embedding_std: "as here", round(config.d_model**0.5, 2): "as in the paper (× √D)"}
    return f"embeddings {names.get(config.embedding_std, f'of standard deviation {config.embedding_std:g}')}"


def compare_spread(spread: dict[str, float]) -> tuple[str, str, str]:
    """Return the stronger of positions and symbols, the weaker, and how many times as strong it is."""
    weak, strong = sorted(("positions", "symbols"), key=spread.get)
    return strong, weak, f"{spread[strong] / spread[weak]:.0f} times as strong"


def draw_balance(balances: dict[str, Balance]) -> Figure:
    """Plot how strongly positions and symbols drive the first attention of some models, by their labels."""
    worst = min(balances, key=lambda label: balances[label][1])
    (strong, weak, ratio), accuracy = compare_spread(balances[worst][0]), percent(balances[worst][1])
    title = f"with {worst}, {strong} are {ratio} as {weak}, and {accuracy} of the answers are correct"
    subtitle = "Spread of layer 1's scores after training."
    caption = "The spread is the standard deviation, over the keys, of the part of q·k / √Dh due to either."
    figure = new_figure(0.9 * len(balances) + 0.6, title, subtitle, caption)
    axes = figure.subplots()
    for row, (spread, _) in enumerate(balances.values()):
        strong, _, ratio = compare_spread(spread)
        for offset, name, colour in (-0.2, "positions", "tab:blue"), (0.2, "symbols", "tab:orange"):
            bar = axes.barh(row + offset, spread[name], 0.38, color=colour)
            axes.bar_label(bar, [f"{name}: {ratio}" if name == strong else name], padding=4)
    axes.set(xscale="log", ylim=(len(balances) - 0.5, -0.5), xlim=(None, 30 * axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter("{x:g}")
    labels = [f"{label}:\n{percent(accuracy)} correct" for label, (_, accuracy) in balances.items()]
    axes.set_yticks(range(len(balances)), labels)
    return figure


def linear_probe(states: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """Return a logistic regression's accuracy for labels (N,) from states (N, D), on held-out rows (N,).

    A successful probe (Alain & Bengio 2016, arXiv:1610.01644) does not show that the model uses the
    information, nor that it was learned. So probe an untrained model too (Hewitt & Liang 2019,
    arXiv:1909.03368).
    """
    classes, labels = labels.unique(return_inverse=True)
    fitted = states[~held_out]
    states = (states - fitted.mean(dim=0)) / (fitted.std(dim=0) + 1e-6)
    weight, bias = states.new_zeros(len(classes), states.size(1)), states.new_zeros(len(classes))
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = linear(states[~held_out], weight, bias)
        loss = cross_entropy(logits, labels[~held_out]) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    predictions = linear(states[held_out], weight, bias).argmax(dim=1)
    return (predictions == labels[held_out]).double().mean().item()


def probe_dataset(
    run: Run, sublayers: int, shuffled: bool = False
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Return the inputs of an encoder's first sublayers at each symbol (n, D), named by sublayer.

    Also return, each (n,), END's position in the symbol's sequence, the symbol's own position, and whether it
    is held out. Sequences of one symbol are left out, because there are too few to hold some out. As a
    control, shuffled=True gives each sequence the END of another.
    """
    source, inputs, _ = sample_unseen(run, count=min(1_000, 10_000 // max_test_length(run) + 1))
    last, here = (source != PAD).sum(dim=1, keepdim=True) - 1, torch.arange(source.size(1))
    is_symbol = (here > 0) & (here < last) & (last > 2)
    held_out = source.unique(dim=0, return_inverse=True)[1] % 2 == 1        # every other distinct sequence
    if shuffled:
        last = last[torch.randperm(len(last), generator=fixed_generator("analysis"))]
    shape = *source.shape, run.config.d_model
    states = {site: torch.zeros(shape, dtype=torch.float32) for site in list_sites(run.model)[:sublayers]}
    for rows, tokens in batches_by_length(inputs, EVALUATION_BATCH):
        activations = record(run.model, tokens)
        for site, kept in states.items():
            width = min(source.size(1), activations[site].size(1))          # without MASKs after it
            kept[rows, :width] = activations[site][:, :width]
    end, place, is_held_out = (x.expand_as(source)[is_symbol] for x in (last, here, held_out[:, None]))
    return {name: kept[is_symbol] for name, kept in states.items()}, end, place, is_held_out


def probe_positions(run: Run, shuffled: bool = False) -> dict[str, tuple[float, float]]:
    """Return a linear probe's accuracy for END's position and a symbol's own mirror position.

    The encoder's states are taken before layer 1, after its attention and after its feed-forward network.
    As a control, shuffled=True gives each sequence the END of another.
    """
    states, end, place, held_out = probe_dataset(run, 3, shuffled)
    return {
        name: (linear_probe(each, end, held_out), linear_probe(each, end - place, held_out))
        for name, each in states.items()
    }


def patch_length_signal(run: Run, length: int, other_length: int) -> tuple[float, float]:
    """Patch a reversing encoder's first attention output with that of sequences of another length.

    Return two fractions of the predicted symbols: those from the mirror position for its own length, and
    those from the one for the other length. Positions where either is not a symbol are left out. This is an
    interchange intervention (Geiger et al. 2021, arXiv:2106.02997). Unlike a probe, it shows what the model
    uses.
    """
    source, other = (sample_unseen(run, each, SEQUENCES_PER_LENGTH)[0] for each in (length, other_length))
    attention, here = run.model.blocks[0].attention, torch.arange(1, min(length, other_length) + 1)
    (_, written), = capture_activations(run.model, [attention], (other,))

    def swap(attention: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_copy(1, here, written[:, here])

    with eval_mode(run.model) as model, attention.register_forward_hook(swap):
        predictions = model(source).argmax(dim=-1)
    here = here[other_length + 1 - here <= length]          # where both mirror positions are symbols
    own, moved = source[:, length + 1 - here], source[:, other_length + 1 - here]
    return tuple((predictions[:, here] == positions).double().mean().item() for positions in (own, moved))


def initial_model(config: Config) -> nn.Module:
    """Return the initial, untrained model of a run with these settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.build_model().eval()
