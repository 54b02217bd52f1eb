"""A view picks the head that looks most at the answer to its question."""

from conftest import title_of

from visualize import draw_head


def test_top_head_has_the_largest_mass(measured):
    view = measured
    kind, layer, head = view.top_head
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    masses = {
        (row, column): sum(there) / len(there)
        for row, heads in enumerate(view.attention.maps[kind]) for column, weights in enumerate(heads)
        if (there := [weights[first + i, 3 - i].item() for i in range(3) if first + i < len(weights)])
    }
    assert kind == view.kind and (layer, head) == max(masses, key=masses.get)
    fraction = int(100 * masses[layer, head] + 0.5)
    title = f"even layer {layer + 1}, head {head + 1} spends only {fraction}% there"
    assert title.split(", ")[1] in title_of(draw_head(view))
