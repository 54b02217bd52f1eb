"""Plot where a trained model's heads attend, each time with evidence of whether it matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote. It saves PICTURES and a live page
for each run, and comparisons of all runs. A map shows where a head attends; only an intervention shows
whether the answer depends on it. Each picture's title states its finding, with the numbers measured in lab/.

Shapes: N sequences, H heads, T queries, S keys.
A map is (T, S): row = query (attends), column = key (attended to).
"""

import argparse
import errno
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

from support import console  # before matplotlib, see there

# isort: split
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tqdm import tqdm

import data
from lab import animation, maps, mistakes, side_by_side, what_matters
from lab.evidence import head_table
from lab.gallery import save_gallery
from lab.heads import first_symbol, heads_of, scores_of_query
from lab.live_page import save_page
from lab.view import (
    KINDS,
    NEVER_RIGHT,
    View,
    ask,
    change,
    how_to_read,
    look_at,
    most_focused,
    nothing_outlined,
    points_lost,
    run_text,
    sample,
)
from lab.weights import beside_picture, weights_picture
from support.figure import WIDTH, new_picture, panel, percent, picture_style, save_picture, two_decimals
from support.files import first_line, only_writer
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_FOLDER,
    DEFAULT_TASKS,
    Run,
    command_line,
    list_files,
    remove_stale,
    run_folder,
    runs_below,
    save_table,
    task_of,
)
from support.training_plot import training_picture
from train import load_run

# ---------------------------------------------------------------- pictures of one sequence


def instructive_query(view: View) -> int:
    """Pick the query of the best head to show in numbers: neither uniform nor all on one key."""
    kind, layer, index = view.best
    weights, cells = view.reading.maps[kind][layer, index], view.cells
    first, _ = first_symbol(view.run.architecture, kind, view.reading.length)
    queries = cells.any(dim=1).nonzero().flatten().tolist()
    return min(queries or range(min(first, len(weights) - 1), len(weights)), key=lambda query: (
        view.outlined and not cells[query, weights[query].argmax()], abs(weights[query].max().item() - 0.75)
    ))


def number(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.001 else f"{value:.3f}"


def softmax_of_row(view: View, query: int) -> tuple[dict[str, list[str]], float]:
    """Return the steps from scores to weights for one row of the best head, and the softmax denominator."""
    kind, layer, index = view.best
    weights = view.reading.maps[kind][layer, index, query]
    weights = weights[: query + 1] if kind == "decoder" else weights        # it can attend to no others
    size = view.run.config.d_model // view.run.config.num_heads
    scores = scores_of_query(view.run.model, view.reading.given, view.best, query)[: len(weights)]
    scaled = scores / math.sqrt(size)
    powers = (scaled - scaled.max()).exp()
    return {
        "q·k": list(map(two_decimals, scores.tolist())),
        f"x = q·k / √{size}": list(map(two_decimals, scaled.tolist())),
        "e^(x − largest x)": [number(power) for power in powers.tolist()],
        "weight": [number(weight) for weight in weights.tolist()],
    }, powers.sum().item()


def head_sentence(view: View) -> str:
    name, share = view.name(view.best), view.share(view.best)
    if not view.outlined:
        return f"{name} is the most focused head; {nothing_outlined(view)}"
    needed, chance = "the symbols the answer needs", f"(uniform: {percent(view.reading.chance)})"
    if share <= view.reading.enough:
        return f"no head attends mainly to {needed}: {name} comes closest, at {percent(share)} {chance}"
    return f"{name} spends {percent(share)} of its attention on {needed} {chance}"


def draw_table(table: Axes, rows: dict[str, list[str]], shown: maps.Map, columns: int) -> None:
    """Draw the steps from scores to weights as rows of numbers; the last row is coloured like the map."""
    _, keys = shown.weights.shape
    table.set(xlim=(0, columns), ylim=(len(rows), 0))
    maps.draw_map(table, shown, (0, len(rows) - 1, keys, 1))
    for row, texts in enumerate(rows.values()):
        for key, weight in enumerate(shown.weights[0]):
            colour = None if row < len(rows) - 1 else "white" if weight < 0.6 else "black"
            table.text(key + 0.5, row + 0.5, texts[key], ha="center", va="center", size=7, color=colour)
    table.add_patch(Rectangle((0, 0), columns, len(rows), **maps.FRAME))


def head_picture(view: View) -> Figure:
    """Draw the head that attends most to the answers, with one row in numbers to check on paper."""
    shown, query = maps.map_of(view, view.best), instructive_query(view)
    rows, total = softmax_of_row(view, query)
    keys = list(range(len(rows["weight"])))                 # that the query can attend to
    below = len(shown.keys) <= maps.MOST_KEYS               # numbers line up with their key's column
    if not below:
        keys = shown.weights[query, keys].topk(min(maps.MOST_KEYS, len(keys))).indices.sort().values.tolist()
    columns = shown.keys if below else [shown.keys[key] for key in keys]
    how = f" The framed row in numbers: each weight is its exponential divided by their sum, {total:.3f}."
    left = max(1.35, 0.5 + maps.inches(shown.queries))
    across = WIDTH - left - 0.95
    width, height = min(0.62 * len(shown.keys), across), min(0.3 * len(shown.queries), 4.6)
    table_width = width if below else across
    gap = maps.room_below(shown.keys, width) + (0 if below else 0.1 + maps.room_below(columns, table_width))
    figure, top = new_picture(
        height + gap + 1.4, head_sentence(view), run_text(view), how_to_read(view, [view.kind]) + how
    )
    axes = panel(figure, left, top, width, height)
    maps.draw_map(axes, shown)
    maps.name_ticks(axes, shown.queries, shown.keys)
    maps.name_axes(axes, key="")
    axes.add_patch(Rectangle((0, query), len(shown.keys), 1, **maps.FRAME))
    maps.colour_bar(figure, left + width + 0.2, top, height)
    table = panel(figure, left, top + height + gap, table_width, 1.08)
    row = maps.Map(shown.weights[query, keys][None], shown.cells[query, keys][None], [], [])
    draw_table(table, {name: [texts[key] for key in keys] for name, texts in rows.items()}, row, len(columns))
    maps.name_ticks(table, list(rows), [] if below else columns)
    table.xaxis.tick_top()
    table.set_xlabel("key (attended to)")
    return figure


def layer_picture(view: View) -> Figure:
    """Draw all heads of the layer that contains the head attending most to the answers."""
    kind, layer, _ = view.best
    heads = heads_of(view.run.model, (kind, layer))
    name, titles = view.name((kind, layer)), [f"head {index + 1}" for _, _, index in heads]
    sentence = f"{name}: {nothing_outlined(view)}"
    if view.outlined:
        chance = percent(view.reading.chance)
        readers = int((view.reading.shares[layer] > view.reading.enough).sum())
        if len(heads) == 1:
            sentence = f"the only head in {name} spends {percent(view.share(view.best))} of its attention"
        elif readers < 2:
            sentence = f"{'one' if readers else 'no'} head in {name} spends most of its attention"
        else:
            sentence = f"{readers} of {len(heads)} heads in {name} spend most of their attention"
        sentence += f" on the symbols the answer needs (uniform: {chance})"
        titles = [f"{title}: {percent(view.share(head))}" for title, head in zip(titles, heads, strict=True)]
    drawn = [maps.map_of(view, head, title) for head, title in zip(heads, titles, strict=True)]
    numbers = f"{run_text(view)} Accuracy without this layer: {percent(view.evidence.left((kind, layer)))}."
    how = f"{how_to_read(view, [kind])} Accuracy: exact match on {sample(view.evidence.source)}."
    rows = [drawn[first : first + 4] for first in range(0, len(drawn), 4)]
    return maps.grid_picture(sentence, numbers, how, rows, shared=True)


def model_picture(view: View) -> Figure:
    """Draw all layers of all kinds (rows) and heads (columns), each with the cost of removing it."""
    layers = [(kind, layer) for kind, found in view.reading.maps.items() for layer in range(len(found))]
    heads = view.run.config.num_heads
    lost = {head: points_lost(view, head) for head in heads_of(view.run.model)}
    sentence = f"any one of the {len(lost)} heads can be removed at no cost"
    if view.evidence.left() == 0:
        sentence = NEVER_RIGHT
    elif len(lost) == 1:
        (only,) = lost
        sentence = f"without its only head, {view.name(only)}: accuracy {change(view, only)}"
    elif view.costly:
        most = view.costly[0]
        matter = "matters on its own" if len(view.costly) == 1 else "matter on their own"
        sentence = (
            f"{len(view.costly)} of {len(lost)} heads {matter}; without {view.name(most)}: "
            f"accuracy {change(view, most)}"
        )
    left = 0.3 + maps.inches([view.name(layer) for layer in layers], 9)
    width = min((WIDTH - left - 0.1) / heads, 1.6)
    size = 0.88 * width
    shapes = [view.reading.maps[kind].shape[2:] for kind, _ in layers]
    shapes = [size * queries / keys for queries, keys in shapes]
    figure, top = new_picture(sum(shapes) + 0.28 * len(layers) + 0.25, sentence, run_text(view), (
        "Framed: removing the head costs the number of exact-match points shown. Pale: it costs nothing. "
        f"Measured by zero ablation on {sample(view.evidence.source)}."
    ))
    height = figure.get_figheight() - top
    axes = panel(figure, 0, top, WIDTH, height)             # one for all maps, in inches
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    paper, bottom = matplotlib.rcParams["axes.facecolor"], 0
    for place, shape in zip(layers, shapes, strict=True):
        at, bottom = bottom + 0.28, bottom + 0.28 + shape
        axes.text(left - 0.1, at + shape / 2, view.name(place), ha="right", va="center")
        for head in range(heads):
            box = left + head * width, at, size, shape
            maps.draw_map(axes, maps.map_of(view, (*place, head)), box)
            points = lost[(*place, head)]
            if points and size > 0.25:                      # else there is no room for a number
                change_there = f"{-points:+}".replace("-", "−")
                axes.text(box[0] + size / 2, at - 0.05, change_there, ha="center", va="bottom", weight="bold")
            if not points:
                axes.add_patch(Rectangle(box[:2], *box[2:], color=paper, alpha=0.6, linewidth=0, zorder=3))
            edge = {"edgecolor": "tab:orange", "linewidth": 2.5}
            if points <= 0:
                edge = {"edgecolor": "grey", "linewidth": 0.5}
            axes.add_patch(Rectangle(box[:2], *box[2:], fill=False, zorder=4, **edge))
    for head in range(0, heads, math.ceil(0.2 / width)):
        text = f"head {head + 1}" if heads <= 10 else head + 1
        axes.text(left + head * width + size / 2, bottom + 0.06, text, ha="center", va="top")
    return figure


def kinds_picture(view: View) -> Figure:
    """Draw one head of each kind of attention, with the accuracy left without that kind."""
    found, evidence, row = view.reading.maps, view.evidence, []
    for kind in found:
        head = view.best if kind == view.kind else most_focused(kind, found[kind])
        row.append(maps.map_of(view, head, f"{KINDS[kind]}\nlayer {head[1] + 1}, head {head[2] + 1}"))
    left = ", ".join(f"{percent(evidence.left((kind,)))} without {view.name((kind,))}" for kind in found)
    by_mean = ", ".join(percent(evidence.mean_ablation[kind,]) for kind in found)
    return maps.grid_picture(f"accuracy: {left}", run_text(view), (
        f"{how_to_read(view, found)} Accuracy: exact match after zero ablation on {sample(evidence.source)}. "
        f"After mean ablation: {by_mean}."
    ), [row])


# ---------------------------------------------------------------- all files of a run


def training_view(view: View) -> Figure:
    """Draw the training curves exactly as train.py does."""
    return training_picture(view.run.config, view.run.history)


def mistakes_view(view: View) -> Figure:
    """Draw which kinds of questions are answered incorrectly."""
    return mistakes.mistakes_picture(view.run.config, mistakes.by_kind(view.mistakes))


OF_ONE_SEQUENCE = {                                         # these show one sequence, …
    "attention_head": head_picture, "attention_layer": layer_picture, "attention_model": model_picture,
    "attention_kinds": kinds_picture,
}
PICTURES = OF_ONE_SEQUENCE | {                              # … the others what was measured on many
    "influence": what_matters.influence_picture, "ablation": what_matters.ablation_picture,
    "layers": what_matters.layers_picture, "training": training_view, "mistakes": mistakes_view,
    "film": animation.film_picture, "weights": weights_picture,
}


@dataclass
class Output:
    """A file to save: the folders of the runs it shows, and what writes it and returns its title."""

    path: Path
    runs: list[Path]
    write: Callable[[Path], str]


def save(draw: Callable[[], Figure], path: Path) -> str:
    """Draw and save a picture; return its title."""
    figure = draw()
    save_picture(figure, path)
    return figure.get_suptitle().replace("\n", " ")


def picture(path: Path, views: list[View], draw: Callable[..., Figure], drawn: object) -> Output:
    """Return the picture draw(drawn), which shows the runs of these views."""
    return Output(path, [view.run.folder for view in views], partial(save, partial(draw, drawn)))


def command_of(options: argparse.Namespace) -> str:
    """Return the command with these options."""
    words = ["python", "visualize.py"]
    for name in "task", "architecture", "sequence", "compare":
        if values := getattr(options, name):
            words += [f"--{name}", *map(str, values)]
    if options.format != "png":
        words += ["--format", options.format]
    if options.dark:
        words.append("--dark")
    if options.models_dir != DEFAULT_FOLDER:
        words += ["--models-dir", str(options.models_dir)]
    if options.output_dir != options.models_dir:
        words += ["--output-dir", str(options.output_dir)]
    return shlex.join(words)


def save_all(outputs: Iterable[Output], options: argparse.Namespace) -> list[Path]:
    """Save the outputs, print the title of each and list them for the gallery; return those that failed."""
    saved, failed = {}, []
    for output in outputs:
        try:
            title = output.write(output.path)
        except OSError:                                     # a full disk would spoil all the others as well
            raise
        except Exception as error:                          # a bug of ours, or of the reader's own code
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            reason = f"{type(error).__name__}: {first_line(error)} ({place})"
            tqdm.write(f"error: {output.path} is missing: {reason}", file=sys.stderr)
            failed.append(output.path)
            continue
        if title:
            tqdm.write(f"{output.path}: {title}", file=sys.stdout)
        runs = [Path(os.path.relpath(run, options.output_dir)).as_posix() for run in output.runs]
        saved[output.path] = {"runs": runs, "title": title, "command": command_of(options)}
    list_files(options.output_dir, saved)
    return failed


def is_trained(view: View) -> bool:
    """Return True if the weights come from training and were not set by hand."""
    return view.run.history[-1]["step"] > 0


def says_nothing(name: str, view: View) -> bool:
    """Return whether this picture would be uninformative for the run."""
    if name in ("training", "mistakes", "film") and view.run.changed:       # stored when the code was another
        return True
    if name == "training":
        return not is_trained(view)
    if name == "mistakes":
        return view.mistakes is None
    if name == "film":
        return not is_trained(view) or view.record is None
    if name == "weights":
        return not view.run.stream                          # the parts of a learned stream have no names
    return name == "attention_kinds" and len(view.reading.maps) == 1


def save_live_page(view: View, path: Path) -> str:
    try:
        save_page(view.run, path)
    except ValueError as error:
        print(f"no live page for {view.run.config.name}: {error}", file=sys.stderr)
        return ""
    return "an interactive page: question this model, cut its heads and see what breaks"


def save_mistakes(view: View, path: Path) -> str:
    save_table(mistakes.by_kind(view.mistakes), path)
    return f"kinds of questions that are answered incorrectly\n{mistakes.mistakes_text(view.mistakes)}\n"


def save_heads(view: View, path: Path) -> str:
    save_table(head_table(view.evidence), path)
    return ""


def name_in_file(words: Iterable[str]) -> str:
    """Turn words into part of a file name: 5 9 12 becomes 5-9-12. Encode or cut whatever does not fit."""
    name = quote("-".join(" ".join(words).split()), safe="+")
    return name if len(name) <= 80 else f"{name[:70]}-{crc32(name.encode()):08x}"


def drawn_into(run: Run, options: argparse.Namespace) -> Path:
    """Return the folder of a run's pictures."""
    return options.output_dir / run.folder.relative_to(options.models_dir)


def trained_beside(view: View, models_dir: Path) -> View | None:
    """Return the trained counterpart of a hand-built model: same task, parent folder."""
    run, question = view.run, data.to_text(view.reading.source[0, 1:-1], view.run.config.task)
    try:
        trained = load_run(models_dir.resolve().parent, run.config.task, run.architecture)
        return look_at(trained, question.split())
    except ValueError:                                      # it does not exist, or lacks these symbols
        return None


def outputs_of_run(view: View, options: argparse.Namespace) -> Iterator[Output]:
    """Yield the pictures of a run; unless a sequence is given, also its live page, animation and tables."""
    folder, pictures, ending = drawn_into(view.run, options), PICTURES, f".{options.format}"
    if options.sequence:
        pictures, ending = OF_ONE_SEQUENCE, f"_{name_in_file(options.sequence)}{ending}"
    for name, draw in pictures.items():
        if not says_nothing(name, view):
            yield picture(folder / f"{name}{ending}", [view], draw, view)
    if view.run.stream and (trained := trained_beside(view, options.models_dir)):
        draw = partial(beside_picture, view)
        yield picture(folder / f"beside_trained{ending}", [view, trained], draw, trained)
    if options.sequence:
        return
    others = {
        "film.gif": animation.save_film, "explorer.html": save_live_page, "heads.csv": save_heads,
        "mistakes.csv": save_mistakes,
    }
    for name, write in others.items():
        if not says_nothing(Path(name).stem, view):
            yield Output(folder / name, [view.run.folder], partial(write, view))


# ---------------------------------------------------------------- command line


def parse() -> argparse.Namespace:
    parser = console.new_parser(
        "Draw where the heads of trained models attend, and how accurate the models are without them.\n"
        "Without options, every run found is drawn.",
        "python visualize.py", "python visualize.py --sequence 5 9 12 14",
        "python visualize.py --task add --architecture encoder --sequence 4 2 + 1 9",
        "python visualize.py --format svg --dark --output-dir slides",
    )
    console.add_choice(parser, "--task", data.task_names())
    console.add_choice(parser, "--architecture", data.ARCHITECTURES)
    option = parser.add_argument
    option("--sequence", nargs="+", metavar="SYMBOL",
           help="a question in the notation of data.py, e.g. 5 7 9, 4 2 + 1 9 or 5 _ 5 7")
    option("--compare", nargs="+", type=console.folder_name, metavar="FOLDER",
           help="draw only the training curves of all runs in these folders, in one picture")
    option("--models-dir", type=console.folder_name, default=DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which train.py saved the runs (default: models)")
    option("--output-dir", type=console.folder_name, metavar="FOLDER",
           help="folder in which to save the pictures (default: next to each run)")
    option("--format", choices=["png", "svg", "pdf"], default="png",
           help="format of the pictures (default: png)")
    option("--dark", action="store_true", help="draw on a dark background")
    options = console.parse_options(parser)
    if options.compare and (options.task or options.architecture or options.sequence):
        console.fail("--compare draws all runs in its folders; drop --task, --architecture and --sequence")
    options.output_dir = options.output_dir or options.models_dir
    return options


def find_runs(options: argparse.Namespace) -> tuple[list[Run], list[str]]:
    """Load the runs found that --task and --architecture select; return them, and problems with others.

    A run that cannot take the given sequence is skipped, unless its task was named.
    """
    architectures, tasks = options.architecture or data.ARCHITECTURES, options.task or data.TASKS
    found, runs, problems, skipped = runs_below(options.models_dir), [], [], []
    folders = [run_folder(options.models_dir, task, of) for of in architectures for task in tasks]
    for folder in folders:
        task = task_of(folder)
        if folder not in found:
            continue
        try:
            run = load_run(options.models_dir, task, folder.name)
        except ValueError as error:
            problems.append(str(error))
            continue
        try:
            ask(run, options.sequence)                      # fail before measuring anything
            runs.append(run)
        except ValueError as error:
            (problems if options.task else skipped).append(f"{run.config.name}: {error}")
    for task in options.task or [""]:
        if not any(task in ("", task_of(folder)) for folder in folders if folder in found):
            missing = f"no run {f'of {task} ' if task else ''}found in {options.models_dir}"
            wanted = [task] if task else DEFAULT_TASKS, options.architecture or DEFAULT_ARCHITECTURES
            problems.append(f"{missing}; train it: {command_line('train.py', *wanted, options.models_dir)}")
    if not runs:
        console.fail(*[*problems, *skipped][:1])
    for text in skipped:
        print(f"skipped: {text}", file=sys.stderr)
    return runs, problems


def lock_runs(runs: list[Run], options: argparse.Namespace, locks: ExitStack) -> list[Run]:
    """Lock the folders of the pictures; return the runs that are not being trained or drawn already."""
    free = []
    for run in runs:
        folder = drawn_into(run, options)
        if folder != run.folder and (folder / "checkpoint.pt").exists():
            console.fail(f"{folder} holds another run; choose another --output-dir")
        try:
            locks.enter_context(only_writer(folder))
            free.append(run)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            print(f"skipped: {folder}: {error.strerror}", file=sys.stderr)
    return free


def side_by_side_outputs(views: list[View], options: argparse.Namespace) -> Iterator[Output]:
    """Yield comparisons of the named tasks, or else of copy and reverse, with one row per architecture.

    An architecture that lacks a task is left out. The runs of python train.py give copy_vs_reverse.
    """
    tasks = list(dict.fromkeys(options.task or DEFAULT_TASKS))
    architectures = options.architecture or (data.ARCHITECTURES if options.task else DEFAULT_ARCHITECTURES)
    of_run = {(view.run.architecture, view.run.config.task): view for view in views}
    rows = [[of_run.get((architecture, task)) for task in tasks] for architecture in architectures]
    rows = [row for row in rows if all(row)]
    if len(rows) * len(tasks) > 1:
        name, names = "_vs_".join(tasks), [row[0].run.architecture for row in rows]
        if len(tasks) == 1 or names != DEFAULT_ARCHITECTURES:
            name += f"_{'_vs_'.join(names)}"
        shown = [view for row in rows for view in row]
        output, ending = options.output_dir, f".{options.format}"
        if options.sequence:
            ending = f"_{name_in_file(options.sequence)}{ending}"
        yield picture(output / f"{name}{ending}", shown, side_by_side.lines_picture, rows)
        yield picture(output / f"{name}_maps{ending}", shown, side_by_side.comparison_picture, rows)


def lengths_outputs(views: list[View], options: argparse.Namespace) -> Iterator[Output]:
    """Yield for each task the picture of its trained runs on longer questions, in the task's folder."""
    trained = [view for view in views if is_trained(view)]
    for task in dict.fromkeys(view.run.config.task for view in trained):
        drawn = [view for view in trained if view.run.config.task == task]
        name = "_".join(["lengths", *(options.architecture or [])])
        path = options.output_dir / f"{task}_task" / f"{name}.{options.format}"
        yield picture(path, drawn, what_matters.lengths_picture, drawn)


def draw_runs(options: argparse.Namespace, runs: list[Run]) -> list[Path]:
    """Measure and draw each run, then the runs side by side; return what failed."""
    print("drawing " + "; ".join(run.config.name for run in runs))
    views, failed = [], []
    for run in tqdm(runs, unit="run", disable=None):
        views.append(look_at(run, options.sequence))
        failed += save_all(outputs_of_run(views[-1], options), options)
    if not options.sequence:
        failed += save_all(lengths_outputs(views, options), options)
    return failed + save_all(side_by_side_outputs(views, options), options)


def draw_curves(options: argparse.Namespace) -> list[Path]:
    """Draw the training curves of all runs in the folders of --compare; return what failed."""
    try:
        curves = side_by_side.runs_in(options.compare)
    except ValueError as error:
        console.fail(str(error))
    paths = [Path(os.path.relpath(folder, options.models_dir)) for folder in options.compare]
    names = [name_in_file([part for part in path.parts if part != ".."]) for path in paths]
    name = "_vs_".join(name or options.models_dir.name for name in names)
    path = options.output_dir / f"training_{name}.{options.format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = partial(side_by_side.training_curves_picture, curves)
    return save_all([Output(path, list(curves), partial(save, draw))], options)


def main() -> None:
    options, problems = parse(), []
    console.set_threads(None)                               # as for training
    with ExitStack() as locks, picture_style(options.dark, data.letters_in_names()):
        if options.compare:
            failed = draw_curves(options)
        else:
            runs, problems = find_runs(options)
            runs = lock_runs(runs, options, locks)
            removed = sum(remove_stale(options.output_dir, run.folder) for run in runs)
            if removed:
                print(f"{options.output_dir}: {removed} files based on earlier weights removed")
            failed = draw_runs(options, runs)
        try:
            path = save_gallery(options.output_dir)
            print(f"To browse all pictures, animations and live pages, open:\n{path}")
        except ValueError as error:
            print(f"no gallery: {error}", file=sys.stderr)
    if problems:
        console.fail(*problems)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    console.run_script(main, status_if_left=130)            # interrupted
