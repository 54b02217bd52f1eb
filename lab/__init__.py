"""Tools that take a trained model apart.

    heads.py            where heads attend: maps, and attention mass on what an answer needs
    influence.py        what an answer depends on
    ablation.py         what is lost without a head, a layer or all attention
    patching.py         answering one question with activations from another
    probes.py           the logit lens: what a model would predict after each sublayer
    evidence.py         all of these for one run, measured when first needed
    mistakes.py         which questions are answered incorrectly
    view.py             a run and a question, ready to be drawn
    maps.py             attention maps and their frames
    what_matters.py     pictures of ablation, influence, lengths and layers
    side_by_side.py     several runs in one picture
    animation.py        how attention forms during training
    weights.py          hand-built models, drawn
    architecture.py     the drawing of what transformer.py builds
    text.py             a language model: the decoder-only model, trained on text
    experiments.py      the live page's experiments, worded from measurements
    live_page.py        explorer.html, assembled from page/ (HTML, CSS, JavaScript)
    outputs.py          how files are named, saved and listed for the gallery
    gallery.py          index.html, which leads to all pictures and pages
"""
