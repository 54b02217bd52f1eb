"""The Transformer, from scratch, in reading order.

Attention → heads → positions → layer norm → feed-forward → block → three models → generate. PyTorch provides
linear layers, embedding tables, dropout, softmax, ReLU, GELU and autograd. The rest is written out here, and
the code you read is the code that runs, in training, generation and plotting. Only LayerNorm calls PyTorch's
fused function. tests/test_transformer.py compares each part with PyTorch's own layers.
`python transformer.py` passes one small batch through a model.

Every sequence is [START, content …, END], then PAD. END shows where it stops, also in questions.

Shapes, batch first everywhere:
    B batch   S source length   T target length   D d_model   H heads   Dh = D/H   V vocabulary
Attention weights are (B, H, T, S): row = query (attends), column = key (attended to).
True in a mask means "may attend". Section and equation numbers are those of Vaswani et al. 2017,
"Attention Is All You Need" (arXiv:1706.03762).
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, START, END = 0, 1, 2                                   # PAD fills short rows; no token attends to it
POSITION_BASE = 50.0                                        # of the sinusoids; the paper uses 10,000
ACTIVATION = "gelu"                                         # of the feed-forward; the paper uses "relu"
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
POSITIONAL_ENCODINGS = "sinusoidal", "learned"


def check_positive(**sizes: float) -> None:
    """Raise ValueError for the first size below one."""
    for name, size in sizes.items():
        if not size >= 1:                                   # also rejects NaN
            raise ValueError(f"{name}={size} is too small; choose 1 or more")


def check_choice(choices: Iterable, **chosen: object) -> None:
    """Raise ValueError for the first value that is not among the choices."""
    for name, value in chosen.items():
        if value not in list(choices):
            choice = ", ".join(map(repr, choices))
            raise ValueError(f"{name}={value!r} is not a valid choice; choose from {choice}")


def check_mask(mask: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless a mask is boolean and broadcasts to the shape of the scores, (B, H, T, S)."""
    sizes = (1,) * (len(shape) - mask.dim()) + tuple(mask.shape)
    fits = len(sizes) == len(shape) and all(x in (1, y) for x, y in zip(sizes, shape, strict=True))
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"mask is {mask.dtype} {tuple(mask.shape)}; expected booleans, True = may attend, that broadcast "
            f"to (B, H, T, S) = {tuple(shape)}; pass one of shape (B, S) as mask[:, None, None, :]"
        )


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Turn scores (B, H, T, S) into weights: each row sums to one, and what the mask hides gets exactly 0.

    mask is broadcastable to (B, H, T, S), True = may attend. A row with nothing to attend to is all zeros.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    check_mask(mask, scores.shape)
    empty = ~mask.any(dim=-1, keepdim=True)                 # rows with nothing: a softmax of only −∞ is NaN
    scores = scores.masked_fill(~(mask | empty), -math.inf)                 # e^−∞ = 0: exactly no weight
    return scores.softmax(dim=-1).masked_fill(empty, 0.0)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mix the values by how well each query matches each key: softmax(QKᵀ/√Dh)·V (eq. 1).

    query (B, H, T, Dh), key and value (B, H, S, Dh), mask broadcastable to (B, H, T, S), True = may attend.
    Returns the weighted average (B, H, T, Dh) and the weights (B, H, T, S). Against memorising, dropout
    zeroes some weights, not those returned.

    A sum of Dh random products, as at the start of training, has a standard deviation proportional to √Dh.
    Undivided, wide heads begin saturated; the gradient vanishes (`python tests/benchmark.py --what-decides`).
    """
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)      # (B, H, T, S)
    weights = masked_softmax(scores, mask)
    return F.dropout(weights, dropout) @ value, weights


class MultiHeadAttention(nn.Module):
    """H parallel attention heads, each in its own Dh dimensions: Concat(head₁ … head_H)·Wᴼ (section 3.2.2).

    Each head has its own attention weights, so several heads can look at several positions at once. Reversing
    needs only one (tests/benchmark.py --what-decides). Raises ValueError if H does not divide D.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        check_positive(d_model=d_model, num_heads=num_heads)
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not divisible by num_heads={num_heads}; choose a divisor")
        self.num_heads, self.dropout = num_heads, dropout
        self.query_projection = nn.Linear(d_model, d_model)
        self.key_projection = nn.Linear(d_model, d_model)
        self.value_projection = nn.Linear(d_model, d_model)
        self.output_projection = nn.Linear(d_model, d_model)
        self.last_weights: Tensor | None = None

    @property
    def attention_weights(self) -> Tensor:
        """The attention weights (B, H, T, S) of the last pass, before dropout and detached."""
        if self.last_weights is None:
            raise ValueError("there are no attention weights yet; call the model first")
        return self.last_weights

    def forward(self, x: Tensor, *, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Let each position of x (B, T, D) attend to memory (B, S, D); in self-attention, memory is x itself.

        mask is broadcastable to (B, H, T, S). Returns (B, T, D); detached weights stay in self.last_weights.
        """
        memory = x if memory is None else memory
        query = self.split_heads(self.query_projection(x))                  # (B, H, T, Dh)
        key = self.split_heads(self.key_projection(memory))                 # (B, H, S, Dh)
        value = self.split_heads(self.value_projection(memory))             # (B, H, S, Dh)
        dropout = self.dropout if self.training else 0.0
        mixture, weights = scaled_dot_product_attention(query, key, value, mask, dropout)
        if not torch.compiler.is_exporting():               # an exported graph cannot store anything
            self.last_weights = weights.detach()
        return self.output_projection(mixture.transpose(1, 2).flatten(2))   # (B, T, H·Dh) → (B, T, D)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, length, D) → (B, H, length, Dh): split vectors, then make H a batch dimension."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def sinusoidal_encoding(max_len: int, d_model: int, base: float = POSITION_BASE) -> Tensor:
    """Return the paper's encoding, (max_len, D): column 2i is sin(pos/base^(2i/D)), column 2i+1 its cosine.

    Each pair of columns is a clock hand: with sine and cosine, a shift by k tokens is the same rotation at
    every position. The fastest hand turns by one radian per token, the slowest by about 1/base. Over ten
    tokens, each turns by 0.2 radians or more; with the paper's base of 10,000, most do not (section 3.5).
    """
    position = torch.arange(max_len, dtype=torch.float64).unsqueeze(1)                      # (max_len, 1)
    frequency = base ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)    # (⌈D/2⌉,)
    encoding = torch.empty(max_len, d_model)
    encoding[:, 0::2] = torch.sin(position * frequency)
    encoding[:, 1::2] = torch.cos(position * frequency)[:, : d_model // 2]  # an odd D has one cosine fewer
    return encoding


class PositionalEncoding(nn.Module):
    """Add to each token a vector for its position: attention alone cannot tell [5, 7] from [7, 5].

    "sinusoidal" is the paper's fixed encoding, "learned" a trainable one of the same shape, (max_len, D).
    Raises ValueError for any other name or a base below one, and in forward for more than max_len tokens.
    """

    def __init__(
        self, d_model: int, max_len: int = 64, positional: str = "sinusoidal",
        position_base: float = POSITION_BASE,
    ):
        super().__init__()
        check_positive(d_model=d_model, max_len=max_len, position_base=position_base)
        check_choice(POSITIONAL_ENCODINGS, positional=positional)
        if positional == "sinusoidal":
            encoding = sinusoidal_encoding(max_len, d_model, position_base)
            self.register_buffer("encoding", encoding)
        else:
            self.encoding = nn.Parameter(torch.randn(max_len, d_model) * math.sqrt(0.5))    # RMS of a sine

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, D) → (B, S, D)."""
        length, max_len = x.size(1), len(self.encoding)
        if length > max_len:
            raise ValueError(f"{length} tokens exceed max_len={max_len}; shorten them or raise max_len")
        return x + self.encoding[:length]


class LayerNorm(nn.Module):
    """Normalise each token vector to mean 0 and variance 1, then scale and shift it (Ba et al. 2016, eq. 4):

        y = (x − mean) / √(variance + ε) · weight + bias      over the D features, variance divided by D
    """

    def __init__(self, d_model: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)     # fused: faster


class FeedForward(nn.Module):
    """Two linear layers applied to each position: max(0, xW₁ + b₁)W₂ + b₂ (eq. 2), or GELU in place of max.

    Attention moves information between positions; this network processes it.
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0, activation: str = ACTIVATION):
        super().__init__()
        check_positive(d_ff=d_ff)
        check_choice(ACTIVATIONS, activation=activation)
        self.expand = nn.Linear(d_model, d_ff)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(self.activation(self.expand(x))))                 # D → d_ff → D


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each adding its output to the stream (see assets/architecture.png).

    cross=True gives the paper's decoder block: between the two, each token also attends to another sequence.
    norm_first=True gives x + sublayer(norm(x)). Nothing rescales the stream, so deep models need no long
    warm-up (Xiong et al. 2020, arXiv:2002.04745). The paper's norm(x + sublayer(x)) also learns to reverse.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.0,
        norm_first: bool = True, activation: str = ACTIVATION, cross: bool = False,
    ):
        super().__init__()
        check_choice([True, False], norm_first=norm_first, cross=cross)
        self.norm_first, self.cross = norm_first, cross
        self.attention = MultiHeadAttention(d_model, num_heads, dropout)
        self.attention_norm = LayerNorm(d_model)
        if cross:
            self.cross_attention = MultiHeadAttention(d_model, num_heads, dropout)
            self.cross_attention_norm = LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout, activation)
        self.feed_forward_norm = LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None,
        memory: Tensor | None = None, memory_mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, D) → (B, T, D); mask broadcastable to (B, H, T, T).

        With cross=True also memory (B, S, D), the other sequence; memory_mask broadcastable to (B, H, T, S).
        """
        if self.cross != (memory is not None):
            raise ValueError(f"cross={self.cross}: pass memory if and only if cross=True")
        x = self.apply_sublayer(x, self.attention_norm, self.attention, mask=mask)
        if self.cross:
            arguments = {"memory": memory, "mask": memory_mask}
            x = self.apply_sublayer(x, self.cross_attention_norm, self.cross_attention, **arguments)
        return self.apply_sublayer(x, self.feed_forward_norm, self.feed_forward)

    def apply_sublayer(self, x: Tensor, norm: LayerNorm, sublayer: nn.Module, **arguments) -> Tensor:
        """Return x plus the sublayer's output for it; both (B, T, D)."""
        if self.norm_first:
            return x + self.dropout(sublayer(norm(x), **arguments))
        return norm(x + self.dropout(sublayer(x, **arguments)))             # the paper's (section 3.1)


def build_token_embedding(vocab_size: int, d_model: int, std: float) -> nn.Embedding:
    """Return an embedding vector for each token id, initialised from a normal distribution."""
    check_positive(vocab_size=vocab_size, d_model=d_model)
    embedding = nn.Embedding(vocab_size, d_model)
    nn.init.normal_(embedding.weight, std=std)              # the paper scales them up by √D (section 3.4)
    return embedding


def build_layer_stack(num_layers: int, **settings) -> nn.ModuleList:
    """Return a stack of blocks with the same settings."""
    check_positive(num_layers=num_layers)
    return nn.ModuleList(TransformerBlock(**settings) for _ in range(num_layers))


def check_tokens(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return tokens (B, S) as int64; raise ValueError for an unknown id, or PAD before another token.

    The ids are checked only on the CPU, because a GPU would have to synchronise at every step, and not while
    torch.compile captures a graph.
    """
    if not isinstance(tokens, Tensor):
        raise ValueError(f"tokens are a {type(tokens).__name__}; give torch.tensor([[START, …, END]])")
    if tokens.dim() != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        got = f"shape {tuple(tokens.shape)} of {tokens.dtype}"
        raise ValueError(f"tokens have {got}; expected integers of shape (batch, length)")
    tokens = tokens.long()
    if not tokens.is_cpu or torch.compiler.is_compiling():
        return tokens
    if len(bad := tokens[(tokens < 0) | (tokens >= vocab_size)]):
        raise ValueError(f"token id {bad[0]} is outside 0 … {vocab_size - 1}; change it or raise vocab_size")
    if ((tokens[:, :-1] == PAD) & (tokens[:, 1:] != PAD)).any():
        raise ValueError(f"PAD ({PAD}) comes before another token; padding must be at the end of each row")
    return tokens


def attention_mask(tokens: Tensor, causal: bool = False) -> Tensor:
    """Return which tokens may attend to which: none to PAD and, if causal, none to later tokens.

    tokens (B, S) → (B, 1, 1, S), or with causal (B, 1, S, S); True = may attend (section 3.2.3).
    """
    mask = (tokens != PAD)[:, None, None, :]
    if causal:
        mask = mask & mask.new_ones(tokens.size(1), tokens.size(1)).tril()
    return mask


class MiniTransformer(nn.Module):
    """Embedding, a stack of blocks, and a projection back to the vocabulary.

    causal=False is an encoder (like BERT): each token sees all others, and all outputs are predicted at once.
    causal=True is a decoder-only model (like GPT): each token sees only itself and earlier tokens.

    The paper scales token embeddings up by √D (section 3.4). In tasks about positions, such as reversing,
    this drowns out the positional encoding. So here they start out with standard deviation embedding_std.
    Raises ValueError for inconsistent sizes or unknown names; in forward, for ids outside the vocabulary.
    """

    def __init__(
        self, vocab_size: int = 20, d_model: int = 128, num_heads: int = 8, num_layers: int = 4,
        d_ff: int = 512, max_len: int = 64, dropout: float = 0.0, positional: str = "sinusoidal",
        norm_first: bool = True, activation: str = ACTIVATION, causal: bool = False,
        position_base: float = POSITION_BASE, embedding_std: float = 0.25,
    ):
        super().__init__()
        check_choice([True, False], causal=causal)
        self.causal = causal
        self.embedding = build_token_embedding(vocab_size, d_model, embedding_std)
        self.positional_encoding = PositionalEncoding(d_model, max_len, positional, position_base)
        self.dropout = nn.Dropout(dropout)
        self.blocks = build_layer_stack(
            num_layers, d_model=d_model, num_heads=num_heads, d_ff=d_ff, dropout=dropout,
            norm_first=norm_first, activation=activation,
        )
        self.final_norm = LayerNorm(d_model) if norm_first else nn.Identity()   # post-norm ends with a norm
        self.output_projection = nn.Linear(d_model, vocab_size)

    @property
    def architecture(self) -> str:
        return "decoder" if self.causal else "encoder"

    def attention_layers(self) -> dict[str, list[MultiHeadAttention]]:
        """Return the attention modules, first layer first, under this model's only kind."""
        return {self.architecture: [block.attention for block in self.blocks]}

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, S) → logits (B, S, V)."""
        tokens = check_tokens(tokens, self.embedding.num_embeddings)
        mask = attention_mask(tokens, self.causal)
        x = self.dropout(self.positional_encoding(self.embedding(tokens)))                  # (B, S, D)
        for block in self.blocks:
            x = block(x, mask=mask)                                                         # (B, S, D)
        return self.output_projection(self.final_norm(x))                                   # (B, S, V)


class EncoderDecoder(nn.Module):
    """The paper's model: an encoder reads the source, a decoder writes the target (assets/architecture.png).

    The decoder is causal and sees the source only through cross-attention. num_layers applies to each half.
    Both halves share one embedding (section 3.4). Raises ValueError like MiniTransformer.
    """

    architecture = "encoder-decoder"

    def __init__(
        self, vocab_size: int = 20, d_model: int = 128, num_heads: int = 8, num_layers: int = 2,
        d_ff: int = 512, max_len: int = 64, dropout: float = 0.0, positional: str = "sinusoidal",
        norm_first: bool = True, activation: str = ACTIVATION, position_base: float = POSITION_BASE,
        embedding_std: float = 0.25,
    ):
        super().__init__()
        settings = {"d_model": d_model, "num_heads": num_heads, "d_ff": d_ff, "dropout": dropout}
        settings |= {"norm_first": norm_first, "activation": activation}
        self.embedding = build_token_embedding(vocab_size, d_model, embedding_std)
        self.positional_encoding = PositionalEncoding(d_model, max_len, positional, position_base)
        self.dropout = nn.Dropout(dropout)
        self.encoder_blocks = build_layer_stack(num_layers, **settings)
        self.encoder_norm = LayerNorm(d_model) if norm_first else nn.Identity()
        self.decoder_blocks = build_layer_stack(num_layers, **settings, cross=True)
        self.decoder_norm = LayerNorm(d_model) if norm_first else nn.Identity()
        self.output_projection = nn.Linear(d_model, vocab_size)             # the paper ties these two

    def attention_layers(self) -> dict[str, list[MultiHeadAttention]]:
        """Return the attention modules of each kind, first layer first."""
        return {
            "encoder": [block.attention for block in self.encoder_blocks],
            "decoder": [block.attention for block in self.decoder_blocks],
            "cross": [block.cross_attention for block in self.decoder_blocks],
        }

    def encode(self, source: Tensor) -> Tensor:
        """source (B, S) → the encoder's output, (B, S, D), for the decoder to attend to."""
        source = check_tokens(source, self.embedding.num_embeddings)
        mask = attention_mask(source)
        x = self.dropout(self.positional_encoding(self.embedding(source)))
        for block in self.encoder_blocks:
            x = block(x, mask=mask)
        return self.encoder_norm(x)

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """target (B, T), memory = encode(source) → logits (B, T, V)."""
        target = check_tokens(target, self.embedding.num_embeddings)
        mask, memory_mask = attention_mask(target, causal=True), attention_mask(source)
        x = self.dropout(self.positional_encoding(self.embedding(target)))
        for block in self.decoder_blocks:
            x = block(x, mask=mask, memory=memory, memory_mask=memory_mask)
        return self.output_projection(self.decoder_norm(x))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (B, S), target (B, T) → logits (B, T, V); position t predicts target token t + 1."""
        return self.decode(target, self.encode(source), source)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the underlying model if torch.compile, AveragedModel or DistributedDataParallel wraps it."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the unwrapped model in evaluation mode, without gradients; then restore its mode."""
    model = unwrap_model(model)
    training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train(training)


def generate(model: nn.Module, source: Tensor, max_new_tokens: int) -> Tensor:
    """Greedy decoding: keep appending the most likely next token until every row has an END.

    source (B, S) must be [START, …, END], then PAD. Returns the answers alone, (B, N), N ≤ max_new_tokens.
    A row is PAD after its END, or from a PAD the model writes. The encoder–decoder starts from its own START,
    the decoder-only model from each prompt's END. Raises ValueError for an encoder or a row without START.
    """
    check_positive(max_new_tokens=max_new_tokens)
    with eval_mode(model) as model:
        device = next(model.parameters()).device
        source = check_tokens(source, model.embedding.num_embeddings).to(device)
        if model.architecture == "encoder":
            raise ValueError("an encoder predicts all tokens at once; use causal=True or EncoderDecoder")
        if source.size(1) == 0 or (source[:, 0] != START).any():
            raise ValueError(f"a row of source does not begin with START ({START}); pass [START, …, END]")
        is_encoder_decoder = model.architecture == "encoder-decoder"
        memory = model.encode(source) if is_encoder_decoder else None
        tokens = source[:, :1] if is_encoder_decoder else source        # the first is always START
        start, width = (tokens != PAD).sum(dim=1), tokens.size(1)       # (B,) where each row's answer begins
        rows = torch.arange(len(source), device=source.device)
        tokens = F.pad(tokens, (0, max_new_tokens), value=PAD)
        done, num_generated = torch.zeros_like(start, dtype=torch.bool), 0
        while num_generated < max_new_tokens and not done.all():
            prefix, position = tokens[:, : width + num_generated], start + num_generated
            logits = model.decode(prefix, memory, source) if is_encoder_decoder else model(prefix)
            next_tokens = logits[rows, position - 1].argmax(dim=-1).masked_fill(done, PAD)
            tokens[rows, position] = next_tokens
            done, num_generated = (next_tokens == END) | (next_tokens == PAD), num_generated + 1
        return tokens.gather(1, start[:, None] + torch.arange(num_generated, device=source.device))


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_forward_pass(model: MiniTransformer, tokens: Tensor) -> None:
    """Run model(tokens); print each part's name, the meaning and shape of its output, and its parameters."""
    meanings = {
        "embedding": "what each token is",
        "positional_encoding": "+ where each token is",
        "blocks.0.attention": "what its heads bring from other tokens",
        "blocks.0.feed_forward": "what each token makes of it",
    }
    meanings |= {f"blocks.{layer}": "the residual stream, + both" for layer in range(len(model.blocks))}
    meanings["output_projection"] = "logits: one score per vocabulary token"
    print(f"  {'':<24}{'':<42}{'shape':<16}{'parameters':>10}")
    for name, meaning in meanings.items():
        def show(part: nn.Module, _: tuple, output: Tensor, line: str = f"  {name:<24}{meaning:<42}") -> None:
            print(f"{line}{tuple(output.shape)!s:<16}{count_parameters(part):>10,}")

        model.get_submodule(name).register_forward_hook(show)
    model(tokens)
    print(f"  {'in all':<82}{count_parameters(model):>10,}")


def main() -> None:
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return
    if sys.argv[1:]:
        print("error: python transformer.py takes no arguments", file=sys.stderr)
        raise SystemExit(2)
    print("Two sequences pass through the default MiniTransformer:\n")
    print_forward_pass(MiniTransformer(), torch.tensor([[START, 5, 7, 9, END], [START, 8, END, PAD, PAD]]))


if __name__ == "__main__":
    main()
