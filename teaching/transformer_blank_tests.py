"""Tests of the blanks in transformer.py, three to six points each."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer
from teaching.checks import (
    SOURCE,
    TARGET,
    expect,
    expect_shape,
    pytorch_attention,
    pytorch_layer,
    random,
    randomize,
)
from transformer import END, PAD, START

YES, NO = True, False


def test_softmax_turns_scores_into_weights(student):
    scores = torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])
    expect("softmax of [0, 0] and [1, 3]", student.masked_softmax(scores), [[[[0.5, 0.5], [0.1192, 0.8808]]]])


def test_softmax_shares_the_weight_among_visible_keys(student):
    scores, mask = torch.zeros(1, 1, 1, 4), torch.tensor([YES, YES, NO, YES])
    weights = student.masked_softmax(scores, mask)
    expect("equal scores, the third key hidden", weights, [[[[1 / 3, 1 / 3, 0.0, 1 / 3]]]])


def test_softmax_ignores_the_scores_of_hidden_keys(student):
    scores, mask = torch.tensor([[[[1.0, 100.0, 3.0]]]]), torch.tensor([YES, NO, YES])
    weights = student.masked_softmax(scores, mask)
    first, last = torch.softmax(torch.tensor([1.0, 3.0]), dim=0).tolist()
    expect("scores [1, 100, 3], the second key hidden", weights, [[[[first, 0.0, last]]]])


def test_softmax_of_nothing_is_zero(student):
    scores, mask = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.tensor([[NO, NO], [YES, NO]])
    weights = student.masked_softmax(scores, mask)
    expect("a row in which all keys are hidden, and another", weights, [[[[0.0, 0.0], [1.0, 0.0]]]])
    weights.square().sum().backward()
    expect("the gradient of these scores", scores.grad, torch.zeros(1, 1, 2, 2))


def test_attention_averages_the_values(student):
    query, key, value = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 5], [3, 7]]]])
    mixture, weights = student.scaled_dot_product_attention(query, key, value)
    expect("the average of [1, 5] and [3, 7] if all scores are equal", mixture, [[[[2.0, 6.0]]]])
    expect("its weights", weights, [[[[0.5, 0.5]]]])


def test_attention_divides_scores_by_the_root_of_their_length(student):
    query, key = torch.full((1, 1, 1, 16), 0.5), torch.stack([torch.zeros(16), torch.ones(16)])[None, None]
    _, weights = student.scaled_dot_product_attention(query, key, torch.zeros(1, 1, 2, 1))
    expect("weights for the products 0 and 8 of vectors with 16 numbers", weights, [[[[0.1192, 0.8808]]]])


def test_attention_equals_that_of_pytorch(student):
    query, key, value = (random(2, 3, length, 4) for length in (5, 7, 7))
    mask = random(2, 1, 5, 7) > 0
    mask[..., 0] = True
    mixture, _ = student.scaled_dot_product_attention(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expect("random queries, keys, values and mask", mixture, expected)


def test_attention_applies_dropout_to_the_average_alone(student):
    query, key, value = (torch.ones(1, 1, 2, 2) for _ in range(3))
    mixture, weights = student.scaled_dot_product_attention(query, key, value, dropout=1.0)
    expect("the average with a dropout of 1", mixture, torch.zeros(1, 1, 2, 2))
    expect("the weights returned with a dropout of 1", weights, torch.full((1, 1, 2, 2), 0.5))


def test_heads_split_vectors(student):
    x = torch.arange(8.0).view(1, 2, 4)                     # two tokens, [0, 1, 2, 3] and [4, 5, 6, 7]
    heads = student.MultiHeadAttention(4, 2).split_heads(x)
    expect("[0, 1, 2, 3] and [4, 5, 6, 7] in two heads", heads, [[[[0.0, 1], [4, 5]], [[2, 3], [6, 7]]]])


def test_heads_are_a_batch_dimension(student):
    heads = student.MultiHeadAttention(12, 3).split_heads(torch.zeros(2, 5, 12))
    expect_shape("2 rows of 5 tokens in 3 heads", heads, 2, 3, 5, 4)


def test_heads_together_equal_those_of_pytorch(student):
    attention = randomize(student.MultiHeadAttention(12, 3))
    x, mask = random(2, 5, 12), torch.tensor([[YES] * 5, [YES, YES, YES, NO, NO]])
    options = {"key_padding_mask": ~mask, "average_attn_weights": False}
    expected, weights = pytorch_attention(attention)(x, x, x, **options)
    expect("self-attention", attention(x, mask=mask[:, None, None, :]), expected)
    expect("self.attention_weights", attention.attention_weights, weights)


def test_heads_attend_to_another_sequence(student):
    attention = randomize(student.MultiHeadAttention(12, 3))
    x, memory = random(2, 5, 12), random(2, 7, 12)
    expected, _ = pytorch_attention(attention)(x, memory, memory)
    expect("cross-attention", attention(x, memory=memory), expected)


def test_heads_keep_their_weights_detached(student):
    attention = student.MultiHeadAttention(4, 2)
    attention(torch.ones(1, 3, 4))
    expect("self.attention_weights", attention.attention_weights, torch.full((1, 2, 3, 3), 1 / 3))
    assert not attention.attention_weights.requires_grad, "self.last_weights: expected detached weights"


def test_heads_drop_weights_only_during_training(student):
    attention, x = randomize(student.MultiHeadAttention(4, 2, dropout=1.0)), random(1, 3, 4)
    expect("training with a dropout of 1", attention(x), attention.output_projection.bias.expand(1, 3, 4))
    undropped = student.MultiHeadAttention(4, 2)
    undropped.load_state_dict(attention.state_dict())
    expect("evaluation with a dropout of 1", attention.eval()(x), undropped(x))


def test_sinusoids_begin_with_zeros_and_ones(student):
    expect("position 0", student.sinusoidal_encoding(3, 6)[0], [0.0, 1, 0, 1, 0, 1])


def test_sinusoids_turn_at_different_speeds(student):
    expected = [[math.sin(2), math.cos(2), math.sin(0.2), math.cos(0.2)]]
    expect("position 2 of 4 columns with base 100", student.sinusoidal_encoding(3, 4, 100.0)[2:], expected)


def test_sinusoids_allow_an_odd_number_of_columns(student):
    table = student.sinusoidal_encoding(4, 5)
    expect_shape("4 positions in 5 columns", table, 4, 5)
    expect("the last of 5 columns at position 3", table[3, 4], math.sin(3 / 50 ** (4 / 5)))


def test_sinusoids_shift_by_rotation(student):
    table = student.sinusoidal_encoding(9, 8)
    products = table @ table.T                              # these depend only on the distance
    expect("products of positions 0 … 7 and 1 … 8", products.diagonal(1), products[0, 1].expand(8))


def test_norm_has_mean_zero_and_variance_one(student):
    expect("[1, 2, 3]", student.LayerNorm(3)(torch.tensor([[[1.0, 2, 3]]])), [[[-1.2247, 0, 1.2247]]])


def test_norm_then_scales_and_shifts(student):
    norm = student.LayerNorm(2)
    norm.load_state_dict({"weight": torch.tensor([2.0, 3]), "bias": torch.tensor([10.0, 20])})
    expect("[1, 3] with weight [2, 3] and bias [10, 20]", norm(torch.tensor([[[1.0, 3]]])), [[[8.0, 23]]])


def test_norm_treats_each_token_alone(student):
    x = torch.tensor([[[1.0, 3], [100, 300]], [[0, 8], [-5, 5]]])
    expect("four tokens", student.LayerNorm(2)(x), torch.tensor([-1.0, 1]).expand(2, 2, 2))


def test_norm_of_equal_numbers_is_zero(student):
    expect("[7, 7, 7]", student.LayerNorm(3)(torch.full((1, 1, 3), 7.0)), torch.zeros(1, 1, 3))


def test_norm_equals_that_of_pytorch(student):
    norm, reference, x = randomize(student.LayerNorm(6)), nn.LayerNorm(6), 0.01 * random(2, 3, 6)
    reference.load_state_dict(norm.state_dict())
    expect("small random numbers", norm(x), reference(x))


def test_norm_is_written_out(student, monkeypatch):
    for module in F, torch:
        monkeypatch.setattr(module, "layer_norm", lambda *_: pytest.fail("expected the formula written out"))
    expect("[1, 3]", student.LayerNorm(2)(torch.tensor([1.0, 3])), [-1.0, 1])


def test_feedforward_with_small_numbers(student):
    network = student.FeedForward(1, 2, activation="relu")
    network.expand.load_state_dict({"weight": torch.tensor([[1.0], [-1]]), "bias": torch.tensor([0.0, 5])})
    network.contract.load_state_dict({"weight": torch.tensor([[1.0, 10]]), "bias": torch.tensor([0.5])})
    output = network(torch.tensor([[[2.0], [8]]]))
    expect("max(0, x) + 10 · max(0, 5 − x) + 0.5 for 2 and 8", output, [[[32.5], [8.5]]])


def test_feedforward_equals_that_of_pytorch(student):
    network, x = randomize(student.FeedForward(4, 6)), random(2, 3, 4)
    reference = nn.Sequential(network.expand, nn.GELU(), network.contract)
    expect("GELU between two linear layers", network(x), reference(x))


def test_feedforward_drops_hidden_units(student):
    network = randomize(student.FeedForward(4, 6, dropout=1.0))
    expect("training with a dropout of 1", network(random(1, 2, 4)), network.contract.bias.expand(1, 2, 4))


def add_one(x: Tensor, more: float = 0.0) -> Tensor:
    return x + 1 + more


def times_ten(x: Tensor) -> Tensor:
    return 10 * x


def test_residual_norms_what_the_sublayer_reads(student):
    block = student.TransformerBlock(2, 1, 2)
    expect("2 + sublayer(norm(2)); norm: times 10, sublayer: + 1",
           block.apply_sublayer(torch.full((1, 1, 2), 2.0), times_ten, add_one), torch.full((1, 1, 2), 23.0))


def test_residual_norms_the_sum_after_the_paper(student):
    block = student.TransformerBlock(2, 1, 2, norm_first=False)
    expect("norm(2 + sublayer(2)); norm: times 10, sublayer: + 1",
           block.apply_sublayer(torch.full((1, 1, 2), 2.0), times_ten, add_one), torch.full((1, 1, 2), 50.0))


@pytest.mark.parametrize("norm_first", [True, False])
def test_residual_passes_arguments_to_the_sublayer(student, norm_first):
    block = student.TransformerBlock(2, 1, 2, norm_first=norm_first)
    got = block.apply_sublayer(torch.zeros(1, 1, 2), times_ten, add_one, more=6.0)
    expect("sublayer(0, more=6)", got, torch.full((1, 1, 2), 7.0 if norm_first else 70.0))


def test_residual_drops_only_what_is_added(student):
    block = student.TransformerBlock(2, 1, 2, dropout=1.0)
    got = block.apply_sublayer(torch.full((1, 1, 2), 2.0), times_ten, add_one)
    expect("2 + dropout of everything", got, torch.full((1, 1, 2), 2.0))


@pytest.mark.parametrize("norm_first", [True, False])
def test_block_equals_that_of_pytorch(student, norm_first):
    block = randomize(student.TransformerBlock(12, 3, 20, norm_first=norm_first))
    x, mask = random(2, 5, 12), torch.ones(5, 5).tril() > 0
    expect(f"norm_first={norm_first}", block(x, mask=mask), pytorch_layer(block)(x, src_mask=~mask))


def test_block_equals_the_decoder_block_of_pytorch(student):
    block = randomize(student.TransformerBlock(12, 3, 20, cross=True))
    x, memory = random(2, 5, 12), random(2, 7, 12)
    mask, padding = torch.ones(5, 5).tril() > 0, torch.tensor([[YES] * 7, [YES] * 4 + [NO] * 3])
    got = block(x, mask=mask, memory=memory, memory_mask=padding[:, None, None, :])
    expected = pytorch_layer(block)(x, memory, tgt_mask=~mask, memory_key_padding_mask=~padding)
    expect("cross=True", got, expected)


def test_block_rejects_a_missing_memory(student):
    with pytest.raises(ValueError):
        student.TransformerBlock(4, 2, 4, cross=True)(torch.zeros(1, 2, 4))


def test_mask_hides_padding(student):
    mask = student.attention_mask(torch.tensor([[START, 7, END, PAD], [START, 7, 7, END]]))
    expect("START 7 END PAD and START 7 7 END", mask, [[[[YES, YES, YES, NO]]], [[[YES, YES, YES, YES]]]])


def test_mask_hides_later_tokens_if_causal(student):
    mask = student.attention_mask(torch.tensor([[START, 7, 8]]), causal=True)
    expect("START 7 8, causal", mask, [[[[YES, NO, NO], [YES, YES, NO], [YES, YES, YES]]]])
    mask = student.attention_mask(torch.ones(2, 6, dtype=torch.long), causal=True)
    expected = nn.Transformer.generate_square_subsequent_mask(6) == 0
    expect("2 rows of 6 tokens, causal", mask, expected.expand(2, 1, 6, 6))


def test_mask_hides_both_if_causal(student):
    mask = student.attention_mask(torch.tensor([[START, END, PAD]]), causal=True)
    expect("START END PAD, causal", mask, [[[[YES, NO, NO], [YES, YES, NO], [YES, YES, NO]]]])


def test_mask_is_boolean(student):
    mask = student.attention_mask(torch.tensor([[START, END]]), causal=True)
    assert mask.dtype == torch.bool, f"the mask's dtype: expected torch.bool, got {mask.dtype}"


SIZES = {"vocab_size": 11, "d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32}


def test_encoder_returns_logits(student):
    logits = student.MiniTransformer(**SIZES)(SOURCE)
    expect_shape("2 rows of 5 tokens, 11 in the vocabulary", logits, 2, 5, 11)


@pytest.mark.parametrize("causal", [False, True])
def test_encoder_equals_stacked_layers_of_pytorch(student, causal):
    model = randomize(student.MiniTransformer(**SIZES, causal=causal))
    x, hidden = model.positional_encoding(model.embedding(SOURCE)), torch.ones(5, 5).triu(1) > 0
    for block in model.blocks:
        masks = {"src_mask": hidden if causal else None, "src_key_padding_mask": SOURCE == PAD}
        x = pytorch_layer(block)(x, **masks)
    expected = model.output_projection(model.final_norm(x))
    expect(f"causal={causal}", model(SOURCE)[SOURCE != PAD], expected[SOURCE != PAD])


def test_encoder_ignores_padding(student):
    model = randomize(student.MiniTransformer(**SIZES))
    expect("the row START 4 END, alone and padded", model(SOURCE[1:, :3]), model(SOURCE)[1:, :3])


def test_encoder_rejects_unknown_tokens(student):
    with pytest.raises(ValueError):
        student.MiniTransformer(vocab_size=9)(SOURCE)


def test_encoder_of_two_encodes_the_source(student):
    theirs, ours = (randomize(module.EncoderDecoder(**SIZES)) for module in (student, transformer))
    expect("EncoderDecoder.encode", theirs.encode(SOURCE), ours.encode(SOURCE))


def test_decode_returns_logits(student):
    logits = student.EncoderDecoder(**SIZES).decode(TARGET, random(2, 5, 16), SOURCE)
    expect_shape("2 rows of 4 target tokens, 11 in the vocabulary", logits, 2, 4, 11)


def test_decode_equals_stacked_layers_of_pytorch(student):
    model = randomize(student.EncoderDecoder(**SIZES))
    x, memory = model.positional_encoding(model.embedding(TARGET)), random(2, 5, 16)
    for block in model.decoder_blocks:
        masks = {"tgt_mask": torch.ones(4, 4).triu(1) > 0, "tgt_key_padding_mask": TARGET == PAD}
        x = pytorch_layer(block)(x, memory, memory_key_padding_mask=SOURCE == PAD, **masks)
    expected = model.output_projection(model.decoder_norm(x))
    expect("decode", model.decode(TARGET, memory, SOURCE)[TARGET != PAD], expected[TARGET != PAD])


def test_decode_does_not_read_ahead(student):
    model = randomize(student.EncoderDecoder(**SIZES))
    memory, changed = random(2, 5, 16), TARGET.clone()
    changed[0, 3] = 10
    logits, others = (model.decode(tokens, memory, SOURCE)[:, :3] for tokens in (TARGET, changed))
    expect("the first three logits if the fourth token changes", others, logits)


def test_decode_ignores_padding_of_the_source(student):
    model = randomize(student.EncoderDecoder(**SIZES))
    memory = random(2, 5, 16)
    changed = memory.masked_fill((SOURCE == PAD)[:, :, None], 9.0)
    logits, others = (model.decode(TARGET, each, SOURCE) for each in (memory, changed))
    expect("logits if the memory of PAD changes", others, logits)


class CountDown(nn.Module):
    """A model that answers 7 with 7 6 5 4 END, and never stops if it reads beyond that END."""

    def __init__(self, architecture: str = "decoder"):
        super().__init__()
        self.architecture, self.embedding, self.modes = architecture, nn.Embedding(20, 1), []

    def forward(self, source: Tensor, target: Tensor | None = None) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        assert len(self.modes) < 50, "expected at most max_new_tokens passes per row, got 50"
        tokens = source if target is None else target
        following = torch.where(tokens == 4, END, (tokens - 1).clamp(min=0))
        starts = tokens == (END if target is None else START)
        return F.one_hot(torch.where(starts, source[:, 1:2], following), 20).float()

    def encode(self, source: Tensor) -> Tensor:
        return source

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return self(memory, target)


def test_generate_writes_until_the_end(student):
    answer = student.generate(CountDown(), torch.tensor([[START, 6, END]]), 9)
    expect("the answer to START 6 END, which counts down", answer, [[6, 5, 4, END]])


def test_generate_answers_rows_of_any_length(student):
    source = torch.tensor([[START, 6, END, PAD], [START, 4, 9, END]])
    answers = student.generate(CountDown(), source, 9)
    expect("counting down from 6 and from 4", answers, [[6, 5, 4, END], [4, END, PAD, PAD]])


def test_generate_stops_at_the_maximum(student):
    answer = student.generate(CountDown(), torch.tensor([[START, 19, END]]), 3)
    expect("at most 3 tokens, counting down from 19", answer, [[19, 18, 17]])


def test_generate_reads_the_source_through_an_encoder(student):
    source = torch.tensor([[START, 6, END], [START, 4, END]])
    answer = student.generate(CountDown("encoder-decoder"), source, 9)
    expect("an encoder–decoder that counts down", answer, [[6, 5, 4, END], [4, END, PAD, PAD]])


def test_generate_evaluates_without_gradients(student):
    model = CountDown()
    student.generate(model, torch.tensor([[START, 6, END]]), 9)
    assert set(model.modes) == {(False, False)}, "expected evaluation mode, without gradients: use eval_mode"
    assert model.training, "expected the model to be back in training mode"
