"""Every text that a reader sees uses idiomatic English and the field's terms: one term for one thing."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
from conftest import ROOT, SOURCES

FILES = sorted({
    *SOURCES, *ROOT.glob("teaching/*.py"), *ROOT.glob("tests/*.py"),
    *ROOT.glob("*.md"), ROOT / "tests" / "BENCHMARKS.md", *ROOT.glob("teaching/*.md"),
    ROOT / "models" / "README.md", *ROOT.glob("lab/page/*.js"), *ROOT.glob("lab/page/*.html"),
} - {Path(__file__)})
REFUSED = {                                                 # a pattern, and what to write instead
    r"(Error|None|\b[Nn]a[Nn]) where\b|\bWhere (there|no|it|a|the|not)\b": "if",
    r"\bso many\b|\bas many as\b(?! (before|fit|PyTorch))": "this many, or the thing itself",
    r"\banew\b": "again, afresh",
    r"\bbeside\b": "next to",
    r"\bbehind\b(?! the page)": "after",
    r"\bgo(es)? on\b": "continue",
    r"\b(likeliest|costliest)\b(?![()])": "most likely, most important",
    r"\bwhole numbers?\b": "integers",
    r"\ball right\b|\bRight:|\btokens right\b|% right\b": "correct, accuracy",
    r"\b(right|wrong) (answers?|symbols?|tokens?|keys?|logits?)\b(?! in)": "correct, incorrect",
    r"\bstands?\b": "is, comes, appears",
    r"\bis told\b|(?<!cannot )\btells?\b|\bworth telling\b": "report, show, encode",
    r"\bfrom the ones on\b": "least significant digit first",
    r"^# (which|whose|who|of them)\b": "a sentence with its own subject",
    r"\bof (it|them)[.:,]": "repeat the noun",
    r"\ba (step|token|row|epoch) on\b|\b(tokens?|steps?|bytes) a (step|second|token|epoch)\b": "per",
    r"\bmirror places?\b|\bplace by place\b|\bposition signal\b": "position, positional encoding",
    r"\bbuilt by hand\b|\bthe model that\b": "hand-built, an adjective",
    r"\b(seen|trained|than|happens) in training\b": "during training",
    r"\bnobody\b|\bnot asked\b|\bis to say\b|\bsays right\b": "the literal verb",
    r"\b[Rr]eplac(e|es|ed|ing)( \w+){0,8} by\b": "replace with",
    r", too\b": "also, before the verb",
}
DIALECT = {                                                 # names that a reader would have to learn first
    "given": "inputs", "to_say": "targets", "said": "predictions", "how": "caption, or options",
    "sentence": "title", "place": "position", "places": "positions", "share": "fraction, or attention mass",
    "shares": "fractions", "brightest": "top_head", "costly": "important", "different": "distinct",
    "least": "minimum", "most": "maximum", "probe": "recorded_questions", "walk": "print_forward_pass",
    "hold": "constant_fraction", "recipe": "default_config", "table_of": "make_…", "written": "generated",
}
NOUNS = re.compile(                                         # how a function's docstring does not begin
    r"(The|A|An|Each|Every|All|Those|That|These|This|One|Two|Which|Where|What|Whether|How|If|Of|ValueError)\b"
)


def functions_in(tree):
    """Yield each function that is not a property."""
    for node in ast.walk(tree):
        decorators = [ast.unparse(x) for x in getattr(node, "decorator_list", [])]
        if isinstance(node, ast.FunctionDef) and not any("property" in x for x in decorators):
            yield node


def texts_in(path):
    """Yield the line and the text of each docstring, comment and message in a file, or of each line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    inner = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inner |= set(map(id, node.values))
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(parts)
        elif id(node) not in inner and isinstance(getattr(node, "value", None), str) and " " in node.value:
            yield node.lineno, " ".join(node.value.split())


def unidiomatic(text):
    """Yield each refused turn in a text, with what to write instead."""
    for pattern, better in REFUSED.items():
        for match in re.finditer(pattern, text):
            yield match[0], better


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_texts_have_no_unidiomatic_turns(path):
    found = [(line, *turn, text) for line, text in texts_in(path) for turn in unidiomatic(text)]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_function_docstrings_begin_with_a_verb(path):
    functions = functions_in(ast.parse(path.read_text(encoding="utf-8")))
    summaries = [(ast.get_docstring(function) or "").split("\n")[0] for function in functions]
    assert [text for text in summaries if NOUNS.match(text)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_names_are_the_fields_terms(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "arg", "name")}
    assert {name: better for name, better in DIALECT.items() if name in names} == {}


def test_tests_are_named_after_a_unit_and_its_behaviour():
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES if path.name.startswith("test_"))
    names = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    assert len(names) > 300 and max(map(len, names)) <= 70
    assert [name for name in names if re.match("test_(an?|the|each|no|what|who|where|it)_", name)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: path.name)
def test_file_docstrings_name_the_thing(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert not re.match(r"(Which|Where|What|Whether|How)\b", text)


@pytest.mark.parametrize("old", [
    "ValueError where there is none", "has so many on each side", "# which the first tells", "all right",
    "at the mirror place", "4,000 tokens a second", "Right: of 320 sequences", "trained anew",
    "a model that was built by hand", "the symbol is replaced by another", "from the ones on", "END, too",
])
def test_unidiomatic_turns_are_found(old):
    assert list(unidiomatic(old))
