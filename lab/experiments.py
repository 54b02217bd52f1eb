"""The live page's experiments, each "predict, cut, look", worded from the measurements of a run."""

import html

from lab import ablation, heads
from lab.evidence import Evidence
from lab.heads import ALL_ATTENTION, Head, Part, describe_part
from support.figure import capitalise, format_points, percent, to_points
from support.runs import Run

ONE_POINT = 0.01                                            # of accuracy; less is "about the same"
EFFECTS = {                                                 # what a run may lack, and the task that shows it
    "a head that matters most without looking at the answer": "reverse",
    "two heads that replace each other": "reverse", "a model that needs no attention": "copy",
}


def name_part(run: Run, part: Part) -> str:
    """Return the name of a part that is cut: all attention, layer 1, or layer 1, head 1 (finds END)."""
    is_everything = not part or (len(part) == 1 and run.architecture != "encoder-decoder")
    return "all attention" if is_everything else describe_part(run, part)


def make_trial(evidence: Evidence, part: Part) -> dict:
    """Return a cut to try: its name, its parts, and the accuracy without them."""
    correct = f"{percent(evidence.accuracy_without(part))} correct"
    return {"name": name_part(evidence.run, part), "parts": [part], "correct": correct}


def most_important_other(evidence: Evidence) -> Head | None:
    """Return the most important head apart from the one that looks most; None if that is unknown."""
    others = [head for head in heads.list_heads(evidence.run.model) if head != evidence.top_head]
    return min(others, key=evidence.accuracy_without, default=None) if evidence.top_head else None


def compare_top_head(evidence: Evidence) -> dict | None:
    """Compare the head that looks most at the answer with the most important of the others."""
    run, attention, top_head = evidence.run, evidence.attention, evidence.top_head
    if not (other := most_important_other(evidence)):
        return None
    cost, other_cost = evidence.ablation_cost(top_head), evidence.ablation_cost(other)
    if max(cost, other_cost) < ONE_POINT:
        return None
    with ablation.ablate(run.model, other):
        without = heads.measure_attention(run, attention.source, attention.inputs, attention.targets)
    (_, layer, head), readers = top_head, int((attention.mass > attention.threshold).sum())
    mass, mass_without = attention.mass[layer, head].item(), without.mass[layer, head].item()
    name, other_name = name_part(run, top_head), name_part(run, other)
    answer = 1 if other_cost - cost > ONE_POINT else 0 if cost - other_cost > ONE_POINT else 2
    findings, tells_length = [], False
    if readers > 1 and cost <= ONE_POINT:
        findings.append(f"{readers} heads look at the answer, so the model can spare one.")
    if mass - mass_without >= 0.1:
        findings.append(
            f"Without {other_name}, {name} spends {percent(mass_without)} of its attention there instead of "
            f"{percent(mass)}: {other_name} helps it to find the position."
        )
        if tells_length := run.config.task == "reverse":
            findings.append(
                "That position depends on the length of the question: compare where "
                f"{other_name} attends in a longer and a shorter one."
            )
        if tells_length and run.architecture == "encoder":
            findings.append("To test whether layer 1 hands on anything else, run python -m lab.ablation.")
    elif answer == 1:
        findings.append(
            f"Without {other_name}, {name} attends as before, so {other_name} must do something else."
        )
    return {
        "title": "Does the head that looks most at the answer matter most?",
        "intro": f"{capitalise(name)} spends {percent(mass)} of its attention on the symbols that the answer "
                 f"depends on, more than any other head. Compare it with {other_name}.",
        "question": "Which cut causes more mistakes?",
        "options": [name, other_name, "both about the same"], "answer": answer,
        "trials": [make_trial(evidence, part) for part in (top_head, other)],
        "found": " ".join(findings), "look": [top_head, other], "tells_length": tells_length,
    }


def cut_all_attention(evidence: Evidence) -> dict:
    """Ask how many answers are still correct without any attention, or without one kind of attention."""
    run, accuracy = evidence.run, evidence.accuracy_without(ALL_ATTENTION)
    kinds = [(kind,) for kind in evidence.attention.maps] if run.architecture == "encoder-decoder" else []
    is_needed = accuracy < evidence.accuracy
    title, remaining = "Does it need attention at all?", percent(accuracy) if accuracy else "None"
    found = (
        "Nothing is lost: each position can produce its part of the answer without reading any other. "
        "Attention maps show what heads read, not what the model uses."
    )
    if is_needed:
        title = "Does anything work without attention?"
        found = f"{remaining} of the answers are correct: a position cannot output what it has not read."
    if is_needed and kinds:
        found += " Only cross-attention carries the question to the answer."
    return {
        "title": title,
        "intro": "Attention is the only way in which information can move between positions.",
        "question": "How many answers are still correct when all attention is cut?",
        "options": ["as many as before", "some", "none"],
        "answer": 0 if not is_needed else 1 if accuracy else 2,
        "trials": [make_trial(evidence, part) for part in (ALL_ATTENTION, *kinds)],
        "found": found, "look": [], "tells_length": False,
    }


def cut_redundant_pair(evidence: Evidence) -> dict | None:
    """Cut two heads that can each be spared, but not both."""
    if not evidence.redundant_pair:
        return None
    one, two, accuracy = evidence.redundant_pair
    costs = [evidence.ablation_cost(head) for head in (one, two)]
    cost_of_both = evidence.accuracy - accuracy
    if cost_of_both <= sum(costs):
        return None
    names = [name_part(evidence.run, head) for head in (one, two)]
    both = {"name": " and ".join(names), "parts": [one, two], "correct": f"{percent(accuracy)} correct"}
    return {
        "title": "Can two heads replace each other?",
        "intro": f"Cut {' alone or '.join(names)} alone, and next to nothing is lost.",
        "question": "What if both are cut?",
        "options": ["next to nothing is lost", "more is lost than by the two cuts taken separately"],
        "answer": 1,
        "trials": [make_trial(evidence, one), make_trial(evidence, two), both],
        "found": f"Cut alone, they cost {to_points(costs[0])} and {format_points(costs[1])}; cut together, "
                 f"{format_points(cost_of_both)}. Each can do part of the other's work: they are redundant. "
                 "So cutting one head alone understates what it does.",
        "look": [one, two], "tells_length": False,
    }


def make_guide(evidence: Evidence) -> dict:
    """Return the head to look at first, the experiments that show something, and what is seen elsewhere.

    Without a correct answer, no cut can make a model worse, so there are no experiments.
    """
    top, everything, pair = None, None, None
    if evidence.accuracy:
        top, everything = compare_top_head(evidence), cut_all_attention(evidence)
        pair = cut_redundant_pair(evidence)
    shown = [top and top["answer"] == 1, pair, everything and everything["answer"] == 0]
    elsewhere = {}
    for (effect, task), is_shown in zip(EFFECTS.items(), shown, strict=True):
        if not is_shown and (task, "encoder") != (evidence.run.config.task, evidence.run.architecture):
            elsewhere.setdefault(task, []).append(effect)
    return {
        "top_head": evidence.top_head, "elsewhere": elsewhere,
        "experiments": [experiment for experiment in (top, everything, pair) if experiment],
    }


def make_worksheet(experiments: list[dict]) -> tuple[str, str]:
    """Return the experiments as a worksheet to fill in, and their answers, both as HTML."""
    sheet, answers = "", ""
    for number, experiment in enumerate(experiments, 1):
        texts = {name: html.escape(experiment[name]) for name in ("title", "intro", "question", "found")}
        options = [html.escape(option) for option in experiment["options"]]
        trials = [(html.escape(trial["name"]), trial["correct"]) for trial in experiment["trials"]]
        heading = f"<h3>{number}. {texts['title']}</h3>"
        boxes = " ".join(f"<span>☐ {option}</span>" for option in options)
        blanks = " ".join(f"<span>Without {name}: _____ % correct.</span>" for name, _ in trials)
        measured = " ".join(f"Without {name}: {html.escape(correct)}." for name, correct in trials)
        sheet += (
            f"{heading}<p>{texts['intro']}</p><p><b>Predict.</b> {texts['question']}<br>{boxes}</p>"
            f"<p><b>Cut.</b> {blanks}</p><p><b>Look.</b> What I saw, and why I think it happened:</p>"
            f"{'<div class=line></div>' * 3}\n"
        )
        answers += (
            f"{heading}<p><b>Answer:</b> {options[experiment['answer']]}. <b>Measured:</b> {measured} "
            f"{texts['found']}</p>\n"
        )
    return sheet, answers
