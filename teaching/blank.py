"""Write a Transformer with blanks to fill in, and what grades them: python -m teaching.blank

The blanks are the bodies of functions in transformer.py and train.py. Their signatures and docstrings remain.
"""

import ast
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from support import console

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Blank:
    """Functions to write: their file, their qualified names, and a hint if the docstrings need one."""

    file: str
    functions: tuple[str, ...]
    hint: str = ""


BLANKS = {
    "softmax": Blank("transformer.py", ("masked_softmax",)),
    "attention": Blank("transformer.py", ("scaled_dot_product_attention",)),
    "heads": Blank("transformer.py", ("MultiHeadAttention.forward", "MultiHeadAttention.split_heads"),
                   "write split_heads first; apply dropout only if self.training"),
    "sinusoids": Blank("transformer.py", ("sinusoidal_encoding",)),
    "norm": Blank("transformer.py", ("LayerNorm.forward",), "write out the formula; no F.layer_norm"),
    "feedforward": Blank("transformer.py", ("FeedForward.forward",), "dropout after the activation"),
    "residual": Blank("transformer.py", ("TransformerBlock.apply_sublayer",),
                      "both cases of self.norm_first; dropout before adding"),
    "block": Blank("transformer.py", ("TransformerBlock.forward",), "use self.apply_sublayer"),
    "mask": Blank("transformer.py", ("attention_mask",)),
    "encoder": Blank("transformer.py", ("MiniTransformer.forward", "EncoderDecoder.encode"),
                     "check_tokens, attention_mask, then the parts in __init__, in order"),
    "decode": Blank("transformer.py", ("EncoderDecoder.decode",), "one mask per kind of attention"),
    "generate": Blank("transformer.py", ("generate",),
                      "check_tokens, eval_mode; with an encoder–decoder, model.encode and model.decode"),
    "loss": Blank("train.py", ("masked_cross_entropy",), "data.loss_mask marks the scored positions"),
    "schedule": Blank("train.py", ("lr_multiplier",)),
    "step": Blank("train.py", ("train_step",),
                  "for the loss, masked_cross_entropy; for the average, state.ema_model.update_parameters"),
}
FILES = tuple(dict.fromkeys(blank.file for blank in BLANKS.values()))
PYTEST_INI = """[pytest]
pythonpath = {root}
addopts = -q --no-header --tb=no -rN --import-mode=importlib -p no:cacheprovider
blanks = {blanks}
seed = {seed}
"""
GRADER = """# Grade the blanks: python -m pytest {folder}
from teaching.{module} import *  # noqa: F403
"""
HEADER = '''"""Your Transformer. Replace each `raise NotImplementedError` with code.

As soon as you like, check what you have: python -m pytest {folder}

'''
LAST_LINES = '''if __name__ == "__main__":
    options = "--task reverse --architecture encoder --seed {seed} --output-dir".split()
    sys.argv[1:1] = [*options, str(Path(sys.argv[0]).parent / "models")]    # yours override these
    console.run_script(main)
'''


def find_functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """Return a file's functions and methods by qualified name, such as LayerNorm.forward."""
    functions = {}
    for node in tree.body:
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for inner in node.body if owner else [node]:
            if isinstance(inner, ast.FunctionDef):
                functions[owner + inner.name] = inner
    return functions


def erase_bodies(source: str, hints: dict[str, str]) -> str:
    """Return a source file in which these functions only raise NotImplementedError, below their hints."""
    lines, functions = source.splitlines(), find_functions(ast.parse(source))
    for name in sorted(hints, key=lambda name: -functions[name].lineno):        # the last first
        function = functions[name]
        has_docstring = ast.get_docstring(function) is not None
        start = function.body[0].end_lineno if has_docstring else function.body[0].lineno - 1
        indent, hint = " " * function.body[0].col_offset, hints[name]
        lines[start : function.end_lineno] = [
            *([f"{indent}# Hint: {hint}"] if hint else []),
            f'{indent}raise NotImplementedError("{name} is not written yet")',
        ]
    return "\n".join(lines) + "\n"


def make_student_files(folder: Path, blanks: Collection[str], seed: int) -> dict[str, str]:
    """Return the names and texts of the files in a student's folder."""
    folder, root = folder.as_posix(), Path(os.path.relpath(ROOT, folder)).as_posix()
    files = {
        "conftest.py": GRADER.format(folder=folder, module="grading"),
        "pytest.ini": PYTEST_INI.format(root=root, blanks=" ".join(blanks), seed=seed),
    }
    for file in FILES:
        tests = file.replace(".py", "_blank_tests")
        files[f"test_{file}"] = GRADER.format(folder=folder, module=tests)
        chosen = [BLANKS[name] for name in blanks if BLANKS[name].file == file]
        hints = {name: "" for blank in chosen for name in blank.functions}
        hints |= {blank.functions[0]: blank.hint for blank in chosen}
        files[file] = erase_bodies((ROOT / file).read_text(encoding="utf-8"), hints)
    conventions = files["transformer.py"].index("Every sequence is [START")
    files["transformer.py"] = HEADER.format(folder=folder) + files["transformer.py"][conventions:]
    code, *_ = files["train.py"].partition('if __name__ == "__main__":')
    others = f'sys.path.append(str(Path(__file__).parent / "{root}"))      # all other files'
    code = code.replace("import math\n", "import math\nimport sys\n", 1)
    code = code.replace("\nfrom support", f"\n{others}\nfrom support", 1)
    files["train.py"] = code + LAST_LINES.format(seed=seed)
    return files


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write these files to a new folder."""
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")


def remove_answers(text: str) -> str:
    """Return the exercises without what is folded."""
    text = text.replace("Guess first, then open the answer.", "Guess first.")
    return re.sub(r"(?<=\n)\n?<details>.*?</details>\n", "", text, flags=re.DOTALL)


def main() -> None:
    parser = console.new_parser(
        "Write a Transformer with blanks to fill in, and what grades them.",
        "python -m teaching.blank", "python -m teaching.blank --only attention heads --seed 7",
        "python -m teaching.blank --exercises",
    )
    console.add_choice(parser, "--only", list(BLANKS))
    option = parser.add_argument
    option("--seed", type=int, default=0, help="seed for training; give each student another (default: 0)")
    option("--folder", type=console.folder_name, default=Path("my_transformer"), metavar="NAME",
           help="new folder to write (default: %(default)s)")
    option("--exercises", action="store_true", help="only write handout.md: EXERCISES.md without its answers")
    options = parser.parse_args()
    if options.exercises:
        text = remove_answers((ROOT / "EXERCISES.md").read_text(encoding="utf-8"))
        (ROOT / "handout.md").write_text(text, encoding="utf-8")
        print("handout.md: the exercises without their answers")
        return
    folder, blanks = options.folder, [name for name in BLANKS if name in (options.only or BLANKS)]
    if folder.exists():
        parser.error(f"{folder} exists; choose another --folder")
    write_folder(folder, make_student_files(folder, blanks, options.seed))
    functions = sum(len(BLANKS[name].functions) for name in blanks)
    print(f"{folder}/ has {len(blanks)} blanks: {functions} functions to write, in any order. "
          f"To grade what you have: python -m pytest {folder}")


if __name__ == "__main__":
    console.run_script(main)
