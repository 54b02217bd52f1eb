"""Each part of transformer.py against PyTorch's own layer, a closed form or a brute-force loop."""

import inspect
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

import transformer
from support.config import Config
from teaching.checks import copy_weights, twins
from transformer import (
    EncoderDecoder,
    FeedForward,
    LayerNorm,
    MiniTransformer,
    MultiHeadAttention,
    PositionalEncoding,
    TransformerBlock,
    generate,
    print_forward_pass,
    scaled_dot_product_attention,
    sinusoidal_encoding,
)


def random_qkv(target=5, source=7, heads=2, head_size=4, batch=3):
    generator = torch.Generator().manual_seed(0)
    lengths = target, source, source
    return [torch.randn(batch, heads, n, head_size, generator=generator).requires_grad_() for n in lengths]


def random_mask(target=5, source=7, batch=3):
    mask = torch.rand(batch, 1, target, source, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True                                 # no row without anything to see
    return mask


def assert_same_gradients(ours, theirs):
    """ours and theirs: lists of tensors in the same order."""
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, atol=1e-5, rtol=0)


def test_attention_equals_its_formula_in_loops():
    query, key, value = (tensor.detach() for tensor in random_qkv())
    mask = random_mask()
    mixture, weights = scaled_dot_product_attention(query, key, value, mask)
    expected_weights, expected_mixture = torch.zeros_like(weights), torch.zeros_like(mixture)
    for b in range(3):
        for h in range(2):
            for t in range(5):
                scores = [query[b, h, t] @ key[b, h, s] / math.sqrt(4) for s in range(7)]
                odds = [math.exp(score) if mask[b, 0, t, s] else 0.0 for s, score in enumerate(scores)]
                row = [odd / sum(odds) for odd in odds]
                expected_weights[b, h, t] = torch.tensor(row)
                expected_mixture[b, h, t] = sum(weight * value[b, h, s] for s, weight in enumerate(row))
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(mixture, expected_mixture)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_pytorch_forward_and_backward(masked):
    mask = random_mask() if masked else None
    ours, theirs = random_qkv(), random_qkv()
    mixture, _ = scaled_dot_product_attention(*ours, mask)
    expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
    torch.testing.assert_close(mixture, expected, atol=1e-5, rtol=0)
    mixture.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, theirs)


def test_attention_of_an_empty_row_is_zero():
    query, key, value = random_qkv()
    mask = random_mask()
    mask[1, 0, 2] = False
    mixture, weights = scaled_dot_product_attention(query, key, value, mask)
    assert (weights[1, :, 2] == 0).all() and (mixture[1, :, 2] == 0).all()
    mixture.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad.isfinite().all()
    assert (query.grad[1, :, 2] == 0).all() and (query.grad[1, :, 1] != 0).any()


def test_masked_keys_get_zero_weight_in_half_precision():
    query, key, value = (tensor.detach().half() * 100 for tensor in random_qkv())
    mask = random_mask()
    _, weights = scaled_dot_product_attention(query, key, value, mask)
    assert (weights.masked_select(~mask.expand_as(weights)) == 0).all() and weights.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_products_stay_finite_in_half_precision(dtype):
    """64 products of 64 · 64 are 262,144; float16 ends at 65,504, and their score, 32,768, is below it."""
    query, key = torch.full((1, 1, 2, 64), 64.0), torch.full((1, 1, 3, 64), 64.0)
    key[0, 0, 1] = 32
    value = torch.tensor([[[[1.0], [2.0], [5.0]]]])
    mixture, weights = scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype))
    assert weights[0, 0, 0].tolist() == [0.5, 0, 0.5] and mixture.flatten().tolist() == [3, 3]


def test_attention_weights_sum_to_one_with_dropout():
    torch.manual_seed(0)
    mixture, weights = scaled_dot_product_attention(*random_qkv(), dropout=0.5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 5))
    undropped, _ = scaled_dot_product_attention(*random_qkv())
    assert not torch.allclose(mixture, undropped)


def give_weights(pairs):
    """Random values for all of our parameters, norms and biases too, and the same to PyTorch's."""
    pairs = list(pairs)
    with torch.no_grad():
        for parameter in itertools.chain(*(ours for ours, _ in pairs)):
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    copy_weights(pairs)


def assert_same_gradients_of(pairs):
    for ours, theirs in pairs:
        gradient = torch.cat([parameter.grad for parameter in ours])
        torch.testing.assert_close(gradient, theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cross", [False, True])
def test_multi_head_attention_equals_pytorch(cross):
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    give_weights(twins(ours, theirs))
    x = torch.randn(2, 5, 12, requires_grad=True)
    memory = torch.randn(2, 7, 12) if cross else x
    padding = torch.zeros(2, memory.size(1), dtype=torch.bool)
    padding[1, -2:] = True
    output = ours(x, memory=memory if cross else None, mask=~padding[:, None, None, :])
    our_gradient, = torch.autograd.grad(output.square().sum(), x)
    expected, weights = theirs(x, memory, memory, key_padding_mask=padding, average_attn_weights=False)
    their_gradient, = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.attention_weights, weights.detach(), atol=1e-6, rtol=0)
    assert not ours.attention_weights.requires_grad


PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])   # True = PAD: PyTorch's way


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("cross", [False, True])
def test_block_equals_pytorch_in_outputs_and_gradients(cross, norm_first, activation, causal):
    torch.manual_seed(0)
    ours = TransformerBlock(12, 3, 20, norm_first=norm_first, activation=activation, cross=cross)
    layer = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    theirs = layer(12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first)
    pairs = list(twins(ours, theirs))
    assert sum(len(parameters) for parameters, _ in pairs) == len(list(ours.parameters()))
    give_weights(pairs)
    inputs = [torch.randn(2, 5, 12, requires_grad=True)]
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if causal else None
    blocked = None if mask is None else ~mask
    if cross:
        inputs.append(torch.randn(2, 7, 12, requires_grad=True))
        output = ours(inputs[0], mask=mask, memory=inputs[1], memory_mask=~PADDING[:, None, None, :])
        expected = theirs(*inputs, tgt_mask=blocked, memory_key_padding_mask=PADDING)
    else:
        output, expected = ours(inputs[0], mask=mask), theirs(inputs[0], src_mask=blocked)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    our_gradients = torch.autograd.grad(output.square().mean(), inputs, retain_graph=True)
    their_gradients = torch.autograd.grad(expected.square().mean(), inputs, retain_graph=True)
    torch.testing.assert_close(our_gradients, their_gradients, atol=1e-5, rtol=0)
    output.square().mean().backward()
    expected.square().mean().backward()
    assert_same_gradients_of(pairs)


def test_attention_needs_positions_to_tell_order():
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(8, 2), torch.randn(1, 4, 8)
    swap = [1, 0, 2, 3]
    torch.testing.assert_close(attention(x[:, swap]), attention(x)[:, swap])
    place = PositionalEncoding(8)
    assert not torch.allclose(attention(place(x[:, swap])), attention(place(x))[:, swap], atol=1e-3)


@pytest.mark.parametrize("base", [10_000, 100])
@pytest.mark.parametrize("d_model", [1, 2, 7, 16])
def test_sinusoidal_encoding_equals_its_closed_form(d_model, base):
    table = sinusoidal_encoding(50, d_model, base)
    assert table.shape == (50, d_model)
    for position in (0, 1, 7, 49):
        for column in range(d_model):
            angle = position / base ** ((column - column % 2) / d_model)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_only_learned_positions_are_parameters():
    assert not list(PositionalEncoding(8).parameters())
    learned, x = PositionalEncoding(8, max_len=5, positional="learned"), torch.zeros(2, 3, 8)
    assert [parameter.shape for parameter in learned.parameters()] == [(5, 8)]
    torch.testing.assert_close(learned(x)[1], learned.encoding[:3])


def test_layer_norm_equals_its_formula():
    torch.manual_seed(0)
    norm, x = LayerNorm(6), torch.randn(2, 3, 6) * 4 + 1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias)


def masked(mask):
    """Attention of 3 queries to 5 keys, in 2 rows and 2 heads."""
    query, key = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 5, 4)
    return scaled_dot_product_attention(query, key, key, mask)


def small_model(**settings):
    torch.manual_seed(0)
    return MiniTransformer(**{"d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32, **settings})


KINDS = "encoder", "decoder", "encoder-decoder"
TOKENS = torch.tensor([[1, 7, 5, 9, 2], [1, 4, 2, 0, 0]])                   # the second row is padded


@pytest.mark.parametrize("architecture", KINDS)
def test_model_defaults_are_those_of_config(architecture):
    trained = Config(architecture=architecture).build_model().eval()
    model = EncoderDecoder() if architecture == "encoder-decoder" else MiniTransformer(
        causal=architecture == "decoder"
    )
    model.load_state_dict(trained.state_dict())
    inputs = (TOKENS,) * (1 + (architecture == "encoder-decoder"))
    assert torch.equal(model.eval()(*inputs), trained(*inputs))
    assert repr(model) == repr(trained)
    defaults, others = (
        {name: setting.default for name, setting in inspect.signature(model).parameters.items()}
        for model in (MiniTransformer, EncoderDecoder)
    )
    assert defaults | {"num_layers": 2} == others | {"causal": False}
    trained = vars(Config()) | {"max_len": 64, "causal": False}
    assert defaults == {name: trained[name] for name in defaults}


def test_default_model_has_the_expected_parameters():
    d_model, d_ff, vocabulary = 128, 512, 20
    attention = 4 * (d_model * d_model + d_model)
    feed_forward = (d_model * d_ff + d_ff) + (d_ff * d_model + d_model)
    norm = 2 * d_model
    expected = vocabulary * d_model + 4 * (attention + feed_forward + 2 * norm) + norm
    expected += d_model * vocabulary + vocabulary
    assert sum(parameter.numel() for parameter in MiniTransformer().parameters()) == expected == 798_484


@pytest.mark.parametrize("causal", [False, True])
def test_layers_keep_the_attention_of_the_last_pass(causal):
    model = small_model(causal=causal)
    assert model.architecture == ("decoder" if causal else "encoder")
    logits = model(TOKENS)
    assert logits.shape == (2, 5, 20)
    layers = model.attention_layers()
    assert list(layers) == [model.architecture]
    assert layers[model.architecture] == [block.attention for block in model.blocks]
    for attention in layers[model.architecture]:
        weights = attention.attention_weights
        assert weights.shape == (2, 2, 5, 5) and not weights.requires_grad
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 5))
        assert (weights[1, :, :, 3:] == 0).all()
        assert not causal or (weights.triu(1) == 0).all()
    model(TOKENS[:1, :3])
    assert weights.shape == (2, 2, 5, 5) and attention.attention_weights.shape == (1, 2, 3, 3)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")      # of nn.Transformer about itself
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_decoder_equals_pytorch_in_outputs_and_gradients(norm_first):
    torch.manual_seed(0)
    sizes = {"d_model": 12, "num_layers": 2, "num_heads": 3, "d_ff": 20}
    ours = EncoderDecoder(**sizes, norm_first=norm_first)
    theirs = nn.Transformer(
        12, 3, 2, 2, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    )
    pairs = []
    for blocks, stack in (ours.encoder_blocks, theirs.encoder), (ours.decoder_blocks, theirs.decoder):
        for block, layer in zip(blocks, stack.layers, strict=True):
            pairs += twins(block, layer)
    if norm_first:
        pairs += twins(ours.encoder_norm, theirs.encoder.norm)
        pairs += twins(ours.decoder_norm, theirs.decoder.norm)
    else:                                               # the paper has no norm after the last one
        theirs.encoder.norm = theirs.decoder.norm = None
    give_weights(pairs)
    source, target = TOKENS, torch.tensor([[1, 9, 5, 7, 4, 6, 2], [1, 4, 8, 2, 0, 0, 0]])
    logits = ours(source, target)
    assert ours.architecture == "encoder-decoder"
    attention = {
        kind: [attention.attention_weights for attention in layers]
        for kind, layers in ours.attention_layers().items()
    }
    embedded = [ours.positional_encoding(ours.embedding(tokens)) for tokens in (source, target)]
    output = theirs(
        *embedded, tgt_mask=torch.ones(7, 7, dtype=torch.bool).triu(1), src_key_padding_mask=source == 0,
        tgt_key_padding_mask=target == 0, memory_key_padding_mask=source == 0,
    )
    expected = ours.output_projection(output)
    torch.testing.assert_close(logits[target != 0], expected[target != 0], atol=1e-5, rtol=0)
    shared = ours.embedding.weight
    expected[target != 0].square().mean().backward()
    their_gradient, shared.grad = shared.grad, None
    logits[target != 0].square().mean().backward()
    torch.testing.assert_close(shared.grad, their_gradient, atol=1e-5, rtol=0)
    assert_same_gradients_of(pairs)
    shapes = {"encoder": (2, 3, 5, 5), "decoder": (2, 3, 7, 7), "cross": (2, 3, 7, 5)}
    assert {kind: [layer.shape for layer in layers] for kind, layers in attention.items()} == {
        kind: [shape] * 2 for kind, shape in shapes.items()
    }
    for weights in sum(attention.values(), []):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    for weights in attention["cross"]:
        assert (weights[1, :, :, 3:] == 0).all() and (weights[1, :, :, :3] > 0).all()
    assert all((weights.triu(1) == 0).all() for weights in attention["decoder"])


def test_causal_models_never_look_ahead():
    changed = TOKENS.clone()
    changed[:, 3] = 11
    for causal in (True, False):
        model = small_model(causal=causal)
        before, after = model(TOKENS)[0, :3], model(changed)[0, :3]
        assert torch.equal(before, after) if causal else not torch.allclose(before, after)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_never_changes_the_output(causal):
    model = small_model(causal=causal)
    padded = F.pad(TOKENS[1:, :3], (0, 6))
    torch.testing.assert_close(model(padded)[:, :3], model(TOKENS[1:, :3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(model(TOKENS)[1:, :3], model(TOKENS[1:, :3]), atol=1e-5, rtol=0)


def test_row_of_only_padding_gives_no_nan():
    model = small_model()
    logits = model(torch.zeros(2, 4, dtype=torch.long))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model, (source, target) = model_and_input("encoder-decoder")
    logits = model(torch.cat([source, source * 0]), torch.cat([target, target]))
    torch.testing.assert_close(logits[:2], model(source, target))   # next to rows without a source
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_attention_is_kept_before_dropout():
    model = small_model(dropout=0.5).train()
    model(TOKENS)
    for attention in model.attention_layers()["encoder"]:
        torch.testing.assert_close(attention.attention_weights.sum(dim=-1), torch.ones(2, 2, 5))
    assert not torch.equal(model(TOKENS), model(TOKENS))
    model.eval()
    assert torch.equal(model(TOKENS), model(TOKENS))


def small_generator(kind, seed=0, **settings):
    """A random model with varied answers: with the usual embeddings, symbols would alternate forever."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 8, "d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32, **settings}
    model = EncoderDecoder(**sizes) if kind == "encoder-decoder" else MiniTransformer(**sizes, causal=True)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter)
    return model.eval()


def ragged_source(seed, width=7):
    """Four rows of distinct lengths: [START, content, END, PAD …]."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, 8, (4, width), generator=generator)
    source[:, 0] = 1
    for row, length in enumerate(torch.randint(0, width - 1, (4,), generator=generator).tolist()):
        source[row, length + 1], source[row, length + 2 :] = 2, 0
    return source


def greedy(model, prompt, max_new_tokens):
    """One row without padding, one token at a time: what generate has to agree with."""
    answer, is_encoder_decoder = [], isinstance(model, EncoderDecoder)
    while len(answer) < max_new_tokens and 2 not in answer and 0 not in answer:
        if is_encoder_decoder:
            logits = model(torch.tensor([prompt]), torch.tensor([[1, *answer]]))
        else:
            logits = model(torch.tensor([prompt + answer]))
        answer.append(int(logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_generate_is_greedy_and_stops_at_end(kind):
    stopped = 0
    for seed in range(6):
        model, source = small_generator(kind, seed), ragged_source(seed)
        expected = [greedy(model, [token for token in row if token], 10) for row in source.tolist()]
        longest = max(map(len, expected))
        filled_up = [answer + [0] * (longest - len(answer)) for answer in expected]
        assert generate(model, source, 10).tolist() == filled_up
        stopped += sum(2 in answer for answer in expected)
    assert 3 < stopped < 21                             # of 24 rows: both ways to end are there


def test_generate_fills_max_len_and_no_more():
    source = torch.tensor([[1, 5, 6, 2], [1, 2, 0, 0]])
    model = small_generator("decoder", max_len=9)
    model.output_projection.bias.data[5] = 1e4          # never END
    assert generate(model, source, 6).tolist() == [[5] * 6] * 2
    with pytest.raises(ValueError, match="10 tokens exceed max_len=9;"):
        generate(model, source, 7)


def model_and_input(kind):
    """A model of that kind in evaluation mode, and its inputs."""
    if kind == "encoder-decoder":
        torch.manual_seed(0)
        return EncoderDecoder(d_model=16, num_heads=2, d_ff=32).eval(), (TOKENS, TOKENS)
    return small_model(causal=kind == "decoder").eval(), (TOKENS,)


@pytest.mark.parametrize("kind", KINDS)
def test_models_accept_every_integer_type_and_an_empty_batch(kind):
    model, inputs = model_and_input(kind)
    for dtype in torch.uint8, torch.int16, torch.int32:
        narrow = [tokens.to(dtype) for tokens in inputs]
        assert torch.equal(model(*narrow), model(*inputs))
        if kind != "encoder":
            assert torch.equal(generate(model, narrow[0], 4), generate(model, inputs[0], 4))
    assert model(*(tokens[:0] for tokens in inputs)).shape == (0, 5, 20)
    if kind != "encoder":
        assert generate(model, inputs[0][:0], 4).shape == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_compute_in_other_precisions(kind, dtype):
    model, inputs = model_and_input(kind)
    expected = model(*inputs)
    written = None if kind == "encoder" else generate(model, inputs[0], 4)
    model = model.to(dtype)
    logits = model(*inputs)
    assert logits.dtype == dtype
    tolerance = 40 * torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps
    torch.testing.assert_close(logits.float(), expected, atol=tolerance, rtol=tolerance)
    for attention in sum(model.attention_layers().values(), []):
        sums = attention.attention_weights.float().sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=tolerance, rtol=0)
    if written is not None:
        assert torch.equal(generate(model, inputs[0], 4)[:, 0], written[:, 0])


@pytest.mark.parametrize("assign", [False, True])
def test_models_can_be_created_on_the_meta_device(assign):
    model = small_model()
    with torch.device("meta"):
        empty = small_model()
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(empty(TOKENS), model(TOKENS))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_generate_unwraps_and_restores_the_mode(kind):
    model, source = small_generator(kind, dropout=0.5), ragged_source(0)
    expected = generate(model, source, 6)
    model.train()
    modes = [part.training for part in model.modules()]
    assert torch.equal(generate(AveragedModel(model), source, 6), expected)
    assert [part.training for part in model.modules()] == modes


def test_mask_may_have_any_shape_that_broadcasts():
    query, key, value = (tensor.detach() for tensor in random_qkv())
    mask = torch.tensor([True, False, True, True, False, True, True])
    _, weights = scaled_dot_product_attention(query, key, value, mask)
    whole = scaled_dot_product_attention(query, key, value, mask.expand(3, 2, 5, 7))[1]
    assert torch.equal(weights, whole) and (weights[..., [1, 4]] == 0).all()


X = torch.zeros(1, 5, 8)


def test_odd_d_model_works():
    assert small_model(d_model=15, num_heads=3)(TOKENS).shape == (2, 5, 20)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiHeadAttention(128, 7), "d_model=128 is not divisible by num_heads=7;"),
        (lambda: MultiHeadAttention(128, 0), "num_heads=0 .* 1 or more"),
        (lambda: PositionalEncoding(8, positional="rotary"), "'rotary' is not a valid choice; choose from"),
        (lambda: PositionalEncoding(8, max_len=4)(X), "5 tokens exceed max_len=4; shorten"),
        (lambda: FeedForward(8, 16, activation="tanh"), "'tanh' is not a valid choice; choose from 'relu',"),
        (lambda: FeedForward(8, 0), "d_ff=0 .* 1 or more"),
        (lambda: small_model(vocab_size=0), "vocab_size=0 .* 1 or more"),
        (lambda: small_model(num_layers=0), "num_layers=0 .* 1 or more"),
        (lambda: small_model(dropout=1.1), "dropout probability has to be between"),
        (lambda: small_model()(torch.tensor([[1, 20, 2]])), r"token id 20 .* 0 … 19; change it or"),
        (lambda: small_model()(torch.tensor([[1, -1, 2]])), r"token id -1 "),
        (lambda: small_model()(torch.tensor([1, 2])), r"shape \(2,\) .* \(batch, length\)"),
        (lambda: small_model()(torch.zeros(1, 2)), r"torch.float32; expected integers"),
        (lambda: generate(small_model(), TOKENS, 3), "an encoder predicts all tokens at once; .*"),
        (lambda: generate(small_model(causal=True), TOKENS.clamp(min=5), 3), "does not begin with START"),
        (lambda: generate(small_model(causal=True), [[1, 5, 2]], 3), "tokens are a list; give torch.tensor"),
        (lambda: small_model()([[1, 5, 2]]), r"tokens are a list; give torch.tensor\("),
        (lambda: MultiHeadAttention(4, 2).attention_weights, "no attention weights yet; call the"),
        (lambda: masked(torch.ones(3, 5)), "mask is torch.float32 .*; expected booleans"),
        (lambda: masked(torch.ones(2, 5) > 0), r"\(2, 5\); expected .* = \(2, 2, 3, 5\)"),
        (lambda: masked(torch.ones(2, 3, 5, 1, 5) > 0), r"\(2, 3, 5, 1, 5\); expected"),
        (lambda: generate(small_model(causal=True), TOKENS, 0), "max_new_tokens=0 .* 1 or more"),
        (lambda: generate(small_model(causal=True), TOKENS[0], 3), r"shape \(5,\) .* \(batch, length\)"),
        (lambda: generate(small_model(causal=True), TOKENS * 0, 3), "does not begin with START"),
        (lambda: generate(small_model(causal=True, max_len=4), TOKENS, 3), "5 tokens .* max_len=4"),
        (lambda: small_model(max_len=4)(torch.ones(1, 5, dtype=torch.long)), "5 tokens .* max_len=4"),
        (lambda: small_model(norm_first="post"), "norm_first='post' is not a valid choice; choose from"),
        (lambda: small_model(causal="yes"), "causal='yes' is not a valid choice; choose from True, False"),
        (lambda: small_model()(TOKENS.flip(1)), r"PAD \(0\) comes before another token; padding must be at"),
        (lambda: small_model()(TOKENS > 0), "torch.bool; expected integers"),
        (lambda: generate(small_model(causal=True), TOKENS.flip(1), 3), "PAD .* before another token"),
        (lambda: generate(small_generator("encoder-decoder"), TOKENS.flip(1) % 8, 3), "PAD .* before"),
        (lambda: generate(small_generator("encoder-decoder"), TOKENS[:, :0], 3), "does not begin with START"),
        (lambda: generate(small_generator("encoder-decoder"), TOKENS * 0, 3), "does not begin with START"),
        (lambda: TransformerBlock(8, 2, 16, cross=True)(X), "cross=True: pass memory"),
        (lambda: TransformerBlock(8, 2, 16)(X, memory=X), "cross=False: pass memory"),
    ],
)
def test_modules_reject_bad_sizes_with_a_suggested_fix(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "settings", [{"num_layers": 1}, {"num_layers": 2}, {"norm_first": False, "dropout": 0.5, "causal": True}]
)
def test_print_forward_pass_follows_any_model(settings, capsys):
    print_forward_pass(small_model(**settings), TOKENS)
    printed = capsys.readouterr().out
    assert "(2, 5, 20)" in printed and printed.count("the residual stream") == settings.get("num_layers", 2)
    model = small_model(**settings)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}\n" in printed


def test_transformer_rejects_arguments_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["transformer.py", "--layers"])
    with pytest.raises(SystemExit) as ended:
        transformer.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == ""
    assert printed.err == "error: python transformer.py takes no arguments\n"
