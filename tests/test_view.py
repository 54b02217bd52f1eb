"""A view picks the head that attends most to the answers."""

from conftest import title_of

from visualize import draw_head


def test_top_head_has_the_largest_mass(measured):
    view = measured
    (kind, layer, head), mass = view.top_head, view.evidence.attention.mass
    assert kind == view.kind and mass[layer, head] == mass.max()
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    weights = view.attention.maps[kind][layer, head]
    there = [weights[first + i, 3 - i] for i in range(3) if first + i < len(weights)]
    title, fraction = title_of(draw_head(view)), int(100 * sum(there) / len(there) + 0.5)
    assert f"layer {layer + 1}, head {head + 1} comes closest, at {fraction}%" in title
