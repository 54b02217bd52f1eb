"""The drawing of the architecture shows what transformer.py builds."""

import re
from collections import Counter

import torch
from conftest import assert_readable

from lab.architecture import draw_architecture
from lab.heads import capture_activations
from support.figure import picture_style
from transformer import EncoderDecoder, MiniTransformer

SIZES = {2: "B", 5: "S", 3: "T", 16: "D", 20: "V"}


def parts_with_shapes(model, blocks, length, outside):
    """Count the names of a stack's modules, each with the shape of its output in letters."""
    block = getattr(model, blocks)[0]
    named = {name: getattr(model, name) for name in ("embedding", "positional_encoding", *outside)}
    named |= {name: part for name, part in block.named_children() if name != "dropout"}
    inputs = [torch.full((2, size), 7) for size in (5, 3)][: 1 if isinstance(model, MiniTransformer) else 2]
    outputs = capture_activations(model, list(named.values()), inputs)
    shapes = {name: [*output.shape] for name, (_, output) in zip(named, outputs, strict=True)}
    for name in "embedding", "positional_encoding":             # a decoder's are called after the encoder's
        shapes[name][1] = length
    letters = {name: ", ".join(SIZES[size] for size in shape) for name, shape in shapes.items()}
    return Counter((name, f"({shape})") for name, shape in letters.items())


def test_drawing_shows_the_modules_and_shapes_of_the_code():
    with picture_style():
        figure = draw_architecture()
    assert_readable(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    drawn = Counter(
        (name, shape) for name, shape in zip(texts, texts[1:], strict=False)
        if shape.startswith("(") and re.fullmatch(r"[a-z_]+", name)
    )
    one, both = MiniTransformer(d_model=16), EncoderDecoder(d_model=16)
    expected = parts_with_shapes(one, "blocks", 5, ["final_norm", "output_projection"])
    expected += parts_with_shapes(both, "encoder_blocks", 5, ["encoder_norm"])
    expected += parts_with_shapes(both, "decoder_blocks", 3, ["decoder_norm", "output_projection"])
    assert drawn == expected
    counts = {name: int(count) for text in texts for name, count in re.findall(r"(\w*blocks) × (\d+)", text)}
    assert counts == {
        "blocks": len(one.blocks), "encoder_blocks": len(both.encoder_blocks),
        "decoder_blocks": len(both.decoder_blocks),
    }
