"""Plot where a trained model's heads attend, each time with evidence of whether it matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote. It saves PICTURES and a live page
for each run, and comparisons of all runs. A map shows where a head attends; only an intervention shows
whether the answer depends on it. Each picture's title states its finding, with the numbers measured in lab/.

Shapes: N sequences, H heads, T queries, S keys.
A map is (T, S): row = query (attends), column = key (attended to).
"""

import argparse
import errno
import itertools
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
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
from lab import animation, maps, mistakes, probes, side_by_side, what_matters
from lab.evidence import head_table
from lab.gallery import save_gallery
from lab.heads import first_symbol, heads_of
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
    remove_stale,
    runs_below,
    save_table,
    task_of,
)
from support.training_plot import training_picture
from train import load_run, read_run

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
    scores = probes.scores_of_query(view.run.model, view.reading.given, view.best, query)[: len(weights)]
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


Files = Iterator[tuple[Path | str, Callable[[Path], str]]]  # with what writes each and returns its sentence


def save(draw: Callable[[], Figure], command: str, path: Path) -> str:
    """Draw a picture and save it with the command that made it; return its title."""
    figure = draw()
    save_picture(figure, path, command)
    return figure.get_suptitle().replace("\n", " ")


@contextmanager
def reported(what: object, failed: list[object]) -> Iterator[None]:
    """Report an error within the block in one line and note what failed, so that the rest is still drawn."""
    try:
        yield
    except OSError:                                         # a full disk would spoil all the others as well
        raise
    except Exception as error:                              # a bug of ours, or of the reader's own code
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        tqdm.write(f"error: {what} is missing: {type(error).__name__}: {first_line(error)} ({place})",
                   file=sys.stderr)
        failed.append(what)


def write_all(files: Files, failed: list[object]) -> None:
    """Write these files one after the other and print what each shows; note those that failed."""
    for path, write in files:
        with reported(path, failed):
            if said := write(path):
                tqdm.write(f"{path}: {said}", file=sys.stdout)


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


def save_heads(view: View, path: Path) -> str:
    save_table([
        {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}
        for row in head_table(view.evidence)
    ], path)
    return ""


def probe_text(view: View) -> str:
    """Report how well a linear probe decodes the sequence length before and after layer 1's attention, or "".

    The untrained model is included for comparison: untrained attention averages the positions, and their mean
    depends on the length.
    """
    run = view.run
    if run.architecture != "encoder" or sum(length > 1 for length in run.config.lengths("test")) < 2:
        return ""
    before, after = probes.probe_length(run)
    _, control = probes.probe_length(replace(run, model=probes.untrained(run.config)))
    return (
        "a linear probe on a symbol's residual stream decodes the sequence length with "
        f"{percent(before)} accuracy before layer 1, {percent(after)} after its attention "
        f"(untrained model: {percent(control)})"
    )


def files_of_run(
    view: View, folder: Path, ending: str, pictures: dict[str, Callable[[View], Figure]], command: str
) -> Files:
    """Yield these pictures of a run; with those of many sequences also its live page and a table of heads."""
    for name, picture in pictures.items():
        if not says_nothing(name, view):
            yield folder / f"{name}{ending}", partial(save, partial(picture, view), command)
    if pictures is PICTURES:
        if not says_nothing("film", view):
            yield folder / "film.gif", partial(animation.save_film, view, command)
        elif is_trained(view) and not view.run.changed:
            path = view.run.folder / "attention.npz"
            reason = "does not cover the whole run" if path.exists() else "does not exist"
            reason = f"{path} {reason}; train again to record it"
            print(f"no animation for {view.run.config.name}: {reason}", file=sys.stderr)
        yield folder / "explorer.html", partial(save_live_page, view)
        yield folder / "heads.csv", partial(save_heads, view)
        if not says_nothing("mistakes", view):
            yield folder / "mistakes.csv", partial(mistakes.save_mistakes, view.mistakes)
        yield f"{view}", lambda _: probe_text(view)


# ---------------------------------------------------------------- command line


def name_in_file(text: str) -> str:
    """Turn words into part of a file name: 5 9 12 becomes 5-9-12. Encode or cut whatever does not fit."""
    name = quote("-".join(text.split()), safe="+")
    return name if len(name) <= 80 else f"{name[:70]}-{crc32(name.encode()):08x}"


def command_of(options: argparse.Namespace) -> str:
    """Return the command for these options, without the folders that are read and written."""
    words = ["python", "visualize.py"]
    for name in "task", "architecture", "sequence", "compare", "balance":
        if given := getattr(options, name):
            words += [f"--{name}", *map(str, given)]
    if options.format != "png":
        words += ["--format", options.format]
    return shlex.join(words + ["--dark"] * options.dark)


def changes(options: argparse.Namespace, read: Iterable[Run]) -> dict[Path, str]:
    """Describe for each run how the current code differs; "" if it does not. Some are already loaded."""
    found = {run.folder: run.changed for run in read}
    for folder in runs_below(options.models_dir):
        if folder in found:
            continue
        with suppress(ValueError):                          # it cannot be read, which was reported
            found[folder] = read_run(folder, task_of(folder), folder.name, quiet=True).changed
    return found


def save_gallery_of(options: argparse.Namespace, runs: Iterable[Run]) -> None:
    """Save a gallery of everything in the picture folder; its path is the last line printed.

    runs are those already loaded.
    """
    words = []
    if options.models_dir != DEFAULT_FOLDER:
        words += ["--models-dir", str(options.models_dir)]
    if options.output_dir != options.models_dir:
        words += ["--output-dir", str(options.output_dir)]
    try:
        folders = f" {shlex.join(words)}" if words else ""
        path = save_gallery(options.output_dir, options.models_dir, folders, changes(options, runs))
        print(f"To browse all pictures, animations and live pages, open:\n{path}")
    except ValueError as error:
        print(f"no gallery: {error}", file=sys.stderr)


def file_of_folders(
    draw: Callable[[], Figure], what: str, folders: list[Path], options: argparse.Namespace
) -> Files:
    """Yield a picture of the runs in several folders, in a file named after them."""
    names = [
        " ".join(part for part in Path(os.path.relpath(folder, options.models_dir)).parts if part != "..")
        for folder in folders
    ]
    name = "_vs_".join(name_in_file(name) or options.models_dir.name for name in names)
    yield options.output_dir / f"{what}_{name}.{options.format}", partial(save, draw, command_of(options))


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
    only = parser.add_mutually_exclusive_group().add_argument
    only("--compare", nargs="+", type=console.folder_name, metavar="FOLDER",
         help="draw only the training curves of all runs in these folders, in one picture")
    only("--balance", nargs="+", type=console.folder_name, metavar="FOLDER",
         help="draw only how strongly positions and symbols drive the layer 1 scores of these runs")
    option("--models-dir", type=console.folder_name, default=DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which train.py saved the runs (default: models)")
    option("--output-dir", type=console.folder_name, metavar="FOLDER",
           help="folder in which to save the pictures (default: next to each run)")
    option("--format", choices=["png", "svg", "pdf"], default="png",
           help="format of the pictures (default: png)")
    option("--dark", action="store_true", help="draw on a dark background")
    options = console.parse_options(parser)
    if options.compare or options.balance:
        for name in "task", "architecture", "sequence":
            if getattr(options, name):
                console.fail(f"--compare and --balance draw all runs in their folders; drop --{name}")
    options.output_dir = options.output_dir or options.models_dir
    return options


def wanted_runs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return architecture and task of the runs to draw: all that are found, or those named.

    Runs named but not found are included, so that loading them reports how to train them. Raises ValueError
    if nothing is named and nothing found.
    """
    found = [(folder.name, task_of(folder)) for folder in runs_below(options.models_dir)]
    wanted = [
        (architecture, task) for architecture in options.architecture or data.ARCHITECTURES
        for task in options.task or data.TASKS if (architecture, task) in found
    ]
    if not options.task and not options.architecture:
        for architecture, task in found:
            if (architecture, task) not in wanted:
                print(f"skipped: {task}, {architecture}: data.py defines no such task", file=sys.stderr)
        if not wanted:
            command = command_line("train.py", DEFAULT_TASKS, DEFAULT_ARCHITECTURES, options.models_dir)
            raise ValueError(f"no run found in {options.models_dir}; train one first: {command}")
    for architecture, task in itertools.product(options.architecture or [""], options.task or [""]):
        if not any(architecture in ("", one) and task in ("", other) for one, other in wanted):
            wanted.append((architecture or DEFAULT_ARCHITECTURES[0], task or DEFAULT_TASKS[0]))
    return list(dict.fromkeys(wanted))


def load_runs(options: argparse.Namespace) -> tuple[dict[tuple[str, str], Run], list[str]]:
    """Return the runs that can be drawn, by architecture and task, and the problems with the others.

    Runs that cannot take the given sequence are merely reported, unless their task was named. Raises
    ValueError if no run is left.
    """
    runs, problems, refused = {}, [], {}
    for architecture, task in wanted_runs(options):
        try:
            run = load_run(options.models_dir, task, architecture)
        except ValueError as error:
            problems.append(str(error))
            continue
        try:
            ask(run, options.sequence)                      # fail before measuring anything
            runs[architecture, task] = run
        except ValueError as error:
            if options.task:
                problems.append(str(error))
            else:
                refused[f"{task}, {architecture}"] = error
    if not runs:
        raise ValueError([*problems, *refused.values()][0])
    for name, error in refused.items():
        print(f"skipped: {name}: {error}", file=sys.stderr)
    return runs, problems


def files_of_comparison(
    views: dict[tuple[str, str], View], options: argparse.Namespace, output: Path, ending: str
) -> Files:
    """Yield comparisons of the named runs, or else of copy and reverse, with one row per architecture.

    An architecture that lacks a task is left out. The runs of python train.py give copy_vs_reverse.
    """
    tasks = list(dict.fromkeys(options.task or DEFAULT_TASKS))
    architectures = options.architecture or (data.ARCHITECTURES if options.task else DEFAULT_ARCHITECTURES)
    rows = {
        architecture: [views[architecture, task] for task in tasks] for architecture in architectures
        if all((architecture, task) in views for task in tasks)
    }
    if len(rows) * len(tasks) > 1:
        name = "_vs_".join(tasks)
        if len(tasks) == 1 or [*rows] != DEFAULT_ARCHITECTURES:
            name += f"_{'_vs_'.join(rows)}"
        for picture, what in (side_by_side.lines_picture, ""), (side_by_side.comparison_picture, "_maps"):
            draw = partial(picture, [*rows.values()])
            yield output / f"{name}{what}{ending}", partial(save, draw, command_of(options))


def files_of_lengths(
    views: dict[tuple[str, str], View], options: argparse.Namespace, output: Path, ending: str
) -> Files:
    """Yield for each task the picture of its runs on longer questions, in the task's folder.

    If not all of its runs are drawn, the file name lists those that are.
    """
    for task in dict.fromkeys(task for _, task in views):
        drawn = [view for (_, other), view in views.items() if other == task]
        drawn = [view for view in drawn if is_trained(view)]
        names = [view.run.architecture for view in drawn]
        found = [folder.name for folder in runs_below(options.models_dir) if task_of(folder) == task]
        name = "lengths" if set(names) == set(found) else f"lengths_{'_'.join(names)}"
        if drawn:
            draw = partial(what_matters.lengths_picture, drawn)
            yield output / f"{task}_task" / f"{name}{ending}", partial(save, draw, command_of(options))


def trained_beside(view: View, models_dir: Path) -> View | None:
    """Return the trained counterpart of a hand-built model: same task, parent folder."""
    run, question = view.run, data.to_text(view.reading.source[0, 1:-1], view.run.config.task)
    try:
        trained = load_run(models_dir.resolve().parent, run.config.task, run.architecture)
        return look_at(trained, question.split())
    except ValueError:                                      # it does not exist, or lacks these symbols
        return None


def drawn_into(run: Run, options: argparse.Namespace) -> Path:
    """Return the folder of a run's pictures."""
    return options.output_dir / run.folder.relative_to(options.models_dir)


def draw_all(options: argparse.Namespace, runs: dict[tuple[str, str], Run]) -> list[object]:
    """Measure and draw each run, then the runs side by side; return what failed."""
    output, ending, pictures = options.output_dir, f".{options.format}", PICTURES
    if options.sequence:
        pictures, ending = OF_ONE_SEQUENCE, f"_{name_in_file(' '.join(options.sequence))}{ending}"
    print("drawing " + "; ".join(f"{task}, {architecture}" for architecture, task in runs))
    views, failed, command = {}, [], command_of(options)
    for key, run in tqdm(runs.items(), unit="run", disable=None):
        with reported(run.config.name, failed):
            view, folder = look_at(run, options.sequence), drawn_into(run, options)
            views[key] = view
            write_all(files_of_run(view, folder, ending, pictures, command), failed)
            if run.stream and (trained := trained_beside(view, options.models_dir)):
                draw = partial(save, partial(beside_picture, view, trained), command)
                write_all([(folder / f"beside_trained{ending}", draw)], failed)
    if not options.sequence:
        write_all(files_of_lengths(views, options, output, ending), failed)
    write_all(files_of_comparison(views, options, output, ending), failed)
    return failed


def is_of_another(folder: Path, options: argparse.Namespace) -> bool:
    """Return True if a separate picture folder contains a run other than the one shown."""
    elsewhere = options.output_dir.resolve() != options.models_dir.resolve()
    return elsewhere and (folder / "checkpoint.pt").exists()


def check_output(folders: Iterable[Path], options: argparse.Namespace) -> None:
    """Raise ValueError if pictures would be saved next to a run that they do not show."""
    for folder in folders:
        if is_of_another(folder, options):
            raise ValueError(f"{folder} holds another run; choose another --output-dir")


def remove_older_pictures(options: argparse.Namespace) -> None:
    """Remove pictures of changed weights from a separate picture folder; see support.runs.remove_stale."""
    if options.output_dir.resolve() == options.models_dir.resolve():
        return                                              # train.py has removed them
    removed = 0
    for folder in runs_below(options.models_dir):
        output = options.output_dir / folder.relative_to(options.models_dir)
        if not is_of_another(output, options):
            removed += remove_stale(output, (folder / "checkpoint.pt").stat().st_mtime)
    if removed:
        print(f"{options.output_dir}: {removed} files based on earlier weights removed")


def lock(runs: dict[tuple[str, str], Run], options: argparse.Namespace, locks: ExitStack) -> list[str]:
    """Lock the picture folders, and drop the runs that are being trained.

    Return the problems with those among them that were named; report the others.
    """
    folders = {options.output_dir, *(drawn_into(run, options).parent for run in runs.values())}
    for folder in sorted(folders):
        locks.enter_context(only_writer(folder))
    problems = []
    for key, run in list(runs.items()):
        try:
            locks.enter_context(only_writer(drawn_into(run, options)))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            del runs[key]
            busy = f"{error.filename}: {error.strerror}"
            problems += [busy] if options.task or not runs else []
            if not problems:
                print(f"skipped: {busy}", file=sys.stderr)
    return problems


def read_and_draw(options: argparse.Namespace) -> None:
    """Read everything first, then draw; report at the end what could not be read.

    Exit status 2 if a run could not be read, or else 1 if a picture could not be drawn.
    """
    with ExitStack() as locks, picture_style(options.dark, data.letters_in_names()):
        try:
            runs, problems, failed = {}, [], []
            if options.compare:
                curves = side_by_side.runs_in(options.compare)
            elif options.balance:
                balanced = side_by_side.evidence_in(options.balance)
            else:
                runs, problems = load_runs(options)
            check_output((drawn_into(run, options) for run in runs.values()), options)
        except ValueError as error:
            console.fail(str(error))
        problems += lock(runs, options, locks)
        if problems and not runs:
            console.fail(*problems)
        remove_older_pictures(options)
        if options.compare:
            draw = partial(side_by_side.training_curves_picture, curves)
            write_all(file_of_folders(draw, "training", options.compare, options), failed)
        elif options.balance:
            draw = partial(side_by_side.balance_picture, balanced)
            write_all(file_of_folders(draw, "balance", options.balance, options), failed)
        else:
            failed = draw_all(options, runs)
        save_gallery_of(options, runs.values())
    if problems:
        console.fail(*problems)
    if failed:
        raise SystemExit(1)


def main() -> None:
    options = parse()
    console.set_threads(None)                               # as for training
    read_and_draw(options)


if __name__ == "__main__":
    console.run_script(main, status_if_left=130)            # interrupted
