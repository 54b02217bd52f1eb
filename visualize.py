"""Plot where a trained model's heads attend, each time with evidence of whether it matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote. It saves PICTURES and a live page
for each run, and comparisons of all runs. A map shows where a head attends; only an intervention shows
whether the answer depends on it. Each picture's title states its finding, with the numbers measured in lab/.

A map is (T, S): row = query (attends), column = key (attended to).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from support import console  # before all others, see there

# isort: split
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import data
from lab import animation, maps, mistakes, outputs, side_by_side, what_matters
from lab import view as wording
from lab.evidence import make_head_table
from lab.gallery import save_gallery
from lab.heads import KINDS, list_heads
from lab.live_page import save_page
from lab.view import View, make_view
from lab.weights import draw_next_to_trained
from support import files, parallel, runs
from support.figure import new_figure, percent, picture_style
from support.puzzles import strip_special_tokens
from train import load_run

# ---------------------------------------------------------------- pictures of one sequence


def head_title(view: View) -> str:
    name, mass = view.describe_part(view.top_head), view.mass(view.top_head)
    if not view.has_outline:
        return f"{name} is the most focused head; {wording.explain_no_outline(view)}"
    chance = f"(chance: {percent(view.attention.chance)})"
    if not view.looks_at_answer(view.top_head):
        return f"no head looks at the answer: even {name} spends only {percent(mass)} there {chance}"
    return f"{name} looks at the answer: {percent(mass)} of its attention is there {chance}"


def draw_head(view: View) -> Figure:
    """Draw the head that looks most at the answer, one row of it in numbers, and its neighbours."""
    kind, layer, head = view.top_head
    shown, query = maps.make_map(view, view.top_head), maps.pick_query(view)
    others = [other for other in list_heads(view.run.model, (kind, layer)) if other[2] != head]
    neighbours = {f"head {other[2] + 1}": other for other in others[:7]}
    steps, explanation = maps.list_softmax_steps(view, query)
    caption = f"{wording.explain_marks(view, [kind])} {explanation}"
    strips = [[*neighbours]] if neighbours else []
    heights = [min(0.3 * len(shown.queries), 5.0), 0.275 * len(steps), 0.9][: 2 + len(strips)]
    figure = new_figure(sum(heights) + 1.2, head_title(view), wording.describe_run(view), caption)
    columns = max(1, len(neighbours))
    axes = figure.subplot_mosaic([["map"] * columns, ["table"] * columns, *strips], height_ratios=heights)
    answer, first, _ = wording.locate_answer(view)
    shown.queries[first : first + len(answer)] = map("{} → {}".format, shown.queries[first:], answer)
    mesh = maps.draw_named_map(axes["map"], shown)
    axes["map"].set_ylabel("query (attends) → output" if len(shown.queries) > 5 else "query")
    axes["map"].add_patch(Rectangle((0, query), len(shown.keys), 1, **maps.FRAME))
    maps.add_colour_bar(mesh, [axes["map"]])
    maps.draw_table(axes["table"], steps, shown, query)
    for name, other in neighbours.items():
        maps.draw_named_map(axes[name], maps.make_map(view, other))
        axes[name].set(xlabel=name, xticks=[], yticks=[], aspect="equal")
    return figure


def layer_title(view: View, layer: tuple[str, int]) -> str:
    """Count the heads of a layer that look at the answer."""
    every, name = list_heads(view.run.model, layer), view.describe_part(layer)
    if not view.has_outline:
        return f"{name}: {wording.explain_no_outline(view)}"
    looking = [head for head in every if view.looks_at_answer(head)]
    subject, verb = f"{wording.spell(len(looking))} of the {wording.spell(len(every))} heads", "look"
    if len(looking) <= 1:
        subject, verb = f"{wording.spell(len(looking))} head", "looks"
    elif len(looking) == len(every):
        subject = "both heads" if len(every) == 2 else f"all {wording.spell(len(every))} heads"
    title = f"{subject} of {name} {verb} at the answer"
    if len(looking) > 1 and not any(wording.cost_in_points(view, head) > 0 for head in looking):
        title += ", so the model can spare any one of them"
    return title


def draw_layer(view: View) -> Figure:
    """Draw all heads of the layer that contains the head looking most at the answer."""
    layer, drawn = view.top_head[:2], []
    for head in list_heads(view.run.model, layer):
        mass = f": {percent(view.mass(head))}" if view.has_outline else ""
        drawn.append(maps.make_map(view, head, f"head {head[2] + 1}{mass}"))
    caption = wording.explain_marks(view, layer[:1])
    if view.has_outline:
        chance = f"(chance: {percent(view.attention.chance)})"
        caption += f" The percentages say how much of its attention a head spends on them {chance}."
    accuracy = percent(view.evidence.accuracy_without(layer))
    sample = wording.describe_sample(view.evidence.source)
    subtitle = f"{wording.describe_run(view)} Without this layer: {accuracy} of {sample} correct."
    rows = [drawn[first : first + 4] for first in range(0, len(drawn), 4)]
    return maps.draw_grid(layer_title(view, layer), subtitle, caption, rows, shared=True)


def kinds_title(view: View) -> str:
    """Name the kinds of attention without which nothing is correct."""
    accuracies = {KINDS[kind]: view.evidence.accuracy_without((kind,)) for kind in view.attention.maps}
    needed = [name for name, accuracy in accuracies.items() if not accuracy]
    if not view.evidence.accuracy:
        return wording.NEVER_CORRECT
    if len(needed) == 1:
        return f"only {needed[0]} is indispensable: without it, no answer is correct"
    if needed:
        return f"no answer is correct without {' or without '.join(needed)}"
    worst = min(accuracies, key=accuracies.get)
    return f"{worst} matters most: without it, {percent(accuracies[worst])} of the answers are correct"


def draw_kinds(view: View) -> Figure | None:
    """Draw one head of each kind of attention, if there are several, with the accuracy without that kind."""
    if len(view.attention.maps) == 1:
        return None
    drawn = []
    for kind, weights in view.attention.maps.items():
        head = view.top_head if kind == view.kind else wording.most_focused_head(kind, weights)
        accuracy = percent(view.evidence.accuracy_without((kind,)))
        title = f"{KINDS[kind]}\nwithout it: {accuracy} correct\n\nlayer {head[1] + 1}, head {head[2] + 1}"
        drawn.append(maps.make_map(view, head, title))
    sample = wording.describe_sample(view.evidence.source)
    caption = f"{wording.explain_marks(view, view.attention.maps)} Accuracy by zero ablation on {sample}."
    return maps.draw_grid(kinds_title(view), wording.describe_run(view), caption, [drawn])


# ---------------------------------------------------------------- all files of a run


def is_trained(view: View) -> bool:
    """Return True if the weights come from training and were not set by hand."""
    return view.run.history[-1]["step"] > 0


def draw_own_training(view: View) -> Figure | None:
    """Draw the training curves as train.py does, below maps of how one head formed."""
    shown = is_trained(view) and not view.run.code_change       # else it was stored when the code was another
    return animation.draw_training_with_maps(view) if shown else None


SINGLE_SEQUENCE_PICTURES = {                                # these show one sequence, …
    "attention_head": draw_head, "attention_layer": draw_layer, "attention_kinds": draw_kinds,
}
PICTURES = SINGLE_SEQUENCE_PICTURES | {                     # … the others what was measured on many
    "influence": what_matters.draw_influence, "ablation": what_matters.draw_ablation,
    "layers": what_matters.draw_layers, "training": draw_own_training,
}


def load_trained_counterpart(view: View, models_dir: Path) -> View | None:
    """Return the trained counterpart of a hand-built model: same task, parent folder."""
    run, content = view.run, strip_special_tokens(view.attention.source)[0]
    question = data.format_tokens(content, run.config.task)
    try:
        trained = load_run(models_dir.resolve().parent, run.config.task, run.architecture)
        return make_view(trained, question.split())
    except ValueError:                                      # it does not exist, or lacks these symbols
        return None


def list_run_outputs(view: View, folder: Path, options: argparse.Namespace) -> Iterator[outputs.Output]:
    """Yield the pictures of a run; unless a sequence is given, also its live page, animation and tables."""
    pictures, ending = PICTURES, f".{options.format}"
    if options.sequence:
        pictures, ending = SINGLE_SEQUENCE_PICTURES, f"_{outputs.slugify(options.sequence)}{ending}"
    shown = [view.run.folder]
    for name, draw in pictures.items():
        yield outputs.Output(folder / f"{name}{ending}", shown, partial(draw, view))
    if not is_trained(view) and (trained := load_trained_counterpart(view, options.models_dir)):
        draw = partial(draw_next_to_trained, view, trained)
        yield outputs.Output(folder / f"beside_trained{ending}", [*shown, trained.run.folder], draw)
    if not options.sequence:
        animation_path, page = folder / "film.gif", folder / "explorer.html"
        yield outputs.Output(animation_path, shown, partial(animation.save_animation, view, animation_path))
        yield outputs.Output(page, shown, partial(save_page, view.evidence, page))
        yield outputs.Output(folder / "heads.csv", shown, partial(make_head_table, view.evidence))
        yield outputs.Output(folder / "mistakes.csv", shown, partial(mistakes.make_mistake_table, view.run))


# ---------------------------------------------------------------- command line


def parse_options() -> argparse.Namespace:
    parser = console.new_parser(
        "Draw where the heads of trained models attend, and how accurate the models are without them.\n"
        "Without options, every run found is drawn.",
        "python visualize.py", "python visualize.py --sequence 5 9 12 14",
        "python visualize.py --task add --architecture encoder --sequence 4 2 + 1 9",
        "python visualize.py --format svg --dark --output-dir slides",
    )
    data.add_task_options(parser)
    console.add_choice(parser, "--architecture", data.ARCHITECTURES)
    option = parser.add_argument
    option("--sequence", nargs="+", metavar="SYMBOL",
           help="a question in the notation of data.py, e.g. 5 7 9, 4 2 + 1 9 or 5 _ 5 7")
    option("--compare", nargs="+", type=console.folder_name, metavar="FOLDER",
           help="draw only the runs in these folders, side by side: training curves, heads and costs")
    option("--models-dir", type=console.folder_name, default=runs.DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which train.py saved the runs (default: models)")
    option("--output-dir", type=console.folder_name, metavar="FOLDER",
           help="folder in which to save the pictures (default: next to each run)")
    option("--format", choices=["png", "svg", "pdf"], default="png", help="format of the pictures")
    option("--dark", action="store_true", help="draw on a dark background")
    parallel.add_jobs(parser, "draw")
    options = parser.parse_args()
    if options.compare and (options.task or options.architecture or options.sequence):
        problem = "--compare draws all runs in its folders"
        console.exit_with_error(f"{problem}; drop --task, --architecture and --sequence")
    options.output_dir = options.output_dir or options.models_dir
    return options


def select_runs(options: argparse.Namespace) -> tuple[list[View], list[str]]:
    """Ask the runs found that --task and --architecture select; return them, and problems with others.

    A run that cannot take the given sequence is skipped, unless its task was named.
    """
    others = {runs.task_from_folder(folder) for folder in runs.find_runs(options.models_dir)}
    tasks = options.task or [*data.TASKS, *sorted(others - data.TASKS.keys())]
    architectures = options.architecture or data.ARCHITECTURES
    found = [
        (task, architecture) for architecture in architectures for task in tasks
        if (runs.run_folder(options.models_dir, task, architecture) / "checkpoint.pt").is_file()
    ]
    chosen, problems, wanted = [], [], options.task or ([] if found else runs.DEFAULT_TASKS)
    if missing := [task for task in wanted if task not in dict(found)]:
        architectures = options.architecture or runs.DEFAULT_ARCHITECTURES
        command = runs.format_command("train.py", missing, architectures, options.models_dir)
        text = f"no run of {' or '.join(missing)} found in {options.models_dir}"
        problems.append(f"{text}; train it: {command}")
    for run in found:
        try:
            loaded = load_run(options.models_dir, *run)
            loaded.checkpoint.clear()                       # only training needs the optimiser's state
            chosen.append(make_view(loaded, options.sequence))
        except ValueError as error:
            problems.append(str(error))
    if not chosen:
        console.exit_with_error(problems[0])
    if options.sequence and not options.task:
        for problem in problems:
            print(f"skipped: {problem}", file=sys.stderr)
        problems = []
    return chosen, problems


def lock_runs(chosen: list[View], options: argparse.Namespace, locks: ExitStack) -> dict[Path, View]:
    """Lock the folders of the pictures; return those whose runs are not being trained or drawn already."""
    free = {}
    for view in chosen:
        folder = options.output_dir / view.run.folder.relative_to(options.models_dir)
        if folder != view.run.folder and (folder / "checkpoint.pt").exists():
            console.exit_with_error(f"{folder} holds another run; choose another --output-dir")
        try:
            locks.enter_context(files.folder_lock(folder))
            free[folder] = view
        except BlockingIOError as error:
            print(f"skipped: {folder}: {error.strerror}", file=sys.stderr)
    return free


def list_comparison_outputs(views: list[View], options: argparse.Namespace) -> Iterator[outputs.Output]:
    """Yield each task's picture of longer questions, and the named tasks, or copy and reverse, side by side.

    Side by side, there is one row per architecture that has all these tasks.
    """
    trained = [view for view in views if is_trained(view) and not options.sequence]
    for task in dict.fromkeys(view.run.config.task for view in trained):
        drawn = [view for view in trained if view.run.config.task == task]
        name = "_".join(["lengths", *(options.architecture or [])])
        path = options.output_dir / f"{task}_task" / f"{name}.{options.format}"
        shown = [view.run.folder for view in drawn]
        yield outputs.Output(path, shown, partial(what_matters.draw_lengths, drawn))
    tasks = list(dict.fromkeys(options.task or runs.DEFAULT_TASKS))
    architectures = data.ARCHITECTURES if options.task else runs.DEFAULT_ARCHITECTURES
    of_run = {(view.run.architecture, view.run.config.task): view for view in views}
    rows = [[of_run.get((name, task)) for task in tasks] for name in options.architecture or architectures]
    rows = [row for row in rows if all(row)]
    if len(rows) * len(tasks) > 1:
        name, names = "_vs_".join(tasks), [row[0].run.architecture for row in rows]
        if len(tasks) == 1 or names != runs.DEFAULT_ARCHITECTURES:
            name += f"_{'_vs_'.join(names)}"
        if options.sequence:
            name += f"_{outputs.slugify(options.sequence)}"
        path = options.output_dir / f"{name}.{options.format}"
        shown = [view.run.folder for row in rows for view in row]
        yield outputs.Output(path, shown, partial(side_by_side.draw_comparison, rows))


def save_run(
    folder: Path, view: View, options: argparse.Namespace, show: Callable[..., None]
) -> tuple[list[Path], View]:
    """Measure and draw a run into a folder; return what failed, and the view with its measurements."""
    console.set_threads(None)                               # as for training
    data.load_tasks(options.tasks)                          # it may run in a process of its own
    with picture_style(options.dark):
        failed = outputs.save_outputs(list_run_outputs(view, folder, options), options, show)
    with suppress(Exception):                               # reported by the comparison, which needs them
        _ = is_trained(view) and not options.sequence and view.evidence.length_results
    return failed, view


def save_runs(options: argparse.Namespace, chosen: dict[Path, View], jobs: int) -> list[Path]:
    """Draw each run, several at once, then the runs side by side; return what failed."""
    named = {view.run.config.name: (folder, view, options) for folder, view in chosen.items()}
    print("drawing " + "; ".join(named), flush=True)
    drawn = parallel.run_all(save_run, named, jobs, "file")
    failed, views = [path for paths, _ in drawn for path in paths], [view for _, view in drawn]
    comparisons = list_comparison_outputs(views, options)
    return failed + outputs.save_outputs(comparisons, options, parallel.print_lines)


def save_compared_runs(options: argparse.Namespace) -> list[Path]:
    """Draw training curves and heads of all runs in the folders of --compare; return what failed."""
    try:
        curves = side_by_side.read_curves(options.compare)
    except ValueError as error:
        console.exit_with_error(str(error))
    name = outputs.slugify(["_vs_".join(folder.resolve().name for folder in options.compare)])
    views, errors = side_by_side.read_views(curves)
    for error in errors:
        print(f"skipped: {error}", file=sys.stderr)
    training, heads = side_by_side.draw_training_curves, side_by_side.draw_heads
    folder, ending = options.output_dir, f"{name}.{options.format}"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [
        outputs.Output(folder / f"{kind}_{ending}", list(shown), partial(draw, shown))
        for kind, draw, shown in [("training", training, curves), ("heads", heads, views)] if shown
    ]
    return outputs.save_outputs(pictures, options, parallel.print_lines)


def main() -> None:
    options, problems = parse_options(), []
    console.set_threads(None)                               # as for training
    try:
        jobs = parallel.choose_jobs(options.jobs)
    except ValueError as error:
        console.exit_with_error(str(error))
    with ExitStack() as locks, picture_style(options.dark):
        if options.compare:
            failed = save_compared_runs(options)
        else:
            chosen, problems = select_runs(options)
            free = lock_runs(chosen, options, locks)
            removed = sum(runs.remove_stale(options.output_dir, view.run.folder) for view in free.values())
            if removed:
                print(f"{options.output_dir}: {removed} files based on earlier weights removed")
            failed = save_runs(options, free, jobs)
        try:
            path = save_gallery(options.output_dir)
            print(f"To browse all pictures, animations and live pages, open:\n{path}")
        except ValueError as error:
            print(f"no gallery: {error}", file=sys.stderr)
    if problems:
        console.exit_with_error(*problems)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    console.run_script(main)
