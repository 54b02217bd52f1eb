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
    prove.py            whether all answers are correct: proved, refuted or sampled
    dependencies.py     the symbols on which each output depends, exactly
    rounding.py         bounds on what float32 rounding can do to an answer
    longer.py           training on 20 symbols, testing on 1,000
    text.py             a language model: the decoder-only model, trained on text
    verify.py           every number of our texts, measured again
    claims.py           what the README claims, and how each number is measured
    exercise_claims.py  the same for the exercises and teaching/
    reader.py           runs the commands and code of the texts, as a reader would
    experiments.py      the live page's experiments, worded from measurements
    live_page.py        explorer.html, assembled from page/ (HTML, CSS, JavaScript)
    outputs.py          how files are named, saved and listed for the gallery
    gallery.py          index.html, which leads to all pictures and pages

Other models can be taken apart as well: Run(model, config, history=[], folder=Path()). A model must have:

    always          architecture: "encoder", "decoder" or "encoder-decoder", whose inputs it takes
                    attention_layers(): for each kind, modules with num_heads and, after a pass,
                    attention_weights (B, H, T, S)
    ablation        blocks, or encoder_blocks and decoder_blocks, in the order in which they run
                    in each attention, output_projection, applied to all heads' outputs (B, T, D)
    numbers         it calls transformer.scaled_dot_product_attention; otherwise maps have no numbers
    patching        in each block, a norm for each sublayer, such as attention_norm for attention, and
                    apply_sublayer(x, norm, sublayer, **arguments)
    logit lens      the same; final_norm or decoder_norm, and the model's own output_projection
    lengths         nothing else; positional_encoding.encoding limits them, if there is one
    live page       all modules of transformer.py, computing what they compute there
"""
