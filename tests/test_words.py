"""Names and prose use the terms of the glossary in CONTRIBUTING.md, not those of its last column.

A word there in backticks stands nowhere: not in a name, a comment, a docstring, a message or a
document.  One that is marked "(name)" is ordinary English, so only names avoid it.  A name is split
at underscores and capitals: `kScoreRun` has the words score and run, and `score_run` bans both in
a row.  Python's names are those that a file defines; C++'s all that it uses.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("fastattn", "src_cpp", "benchmarks", "perf")
CPP = {".hpp", ".cpp", ".pyx"}
ROW = re.compile(r"^\| (?P<term>[^|]+) \| (?P<meaning>[^|]+) \| (?P<banned>[^|]*)\|$", re.MULTILINE)
BANNED = re.compile(r"`(?P<word>\w+)`(?P<name> \(name\))?")
# C++ and Cython: comments and strings are prose; what is left, and directives, has names.
CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"""(?:[^\\]|\\.)*?"""|"(?:[^"\\\n]|\\.)*"|\#[^\n]*|(?P<name>[A-Za-z_]\w*)',
    re.DOTALL,
)
DIRECTIVE = re.compile(r"#\s*(include|if|el|end|define|pragma|undef)")
# The field says "in place" too.
ORDINARY = re.compile(r"in_?place", re.IGNORECASE)
Text = tuple[int, str, bool]  # line, text, whether it is a name


@dataclass(frozen=True, slots=True)
class Word:
    """One entry of the glossary's last column."""

    term: str
    text: str
    names_only: bool


def table() -> list[re.Match[str]]:
    """Rows of the glossary, without its head."""
    return list(ROW.finditer((ROOT / "CONTRIBUTING.md").read_text()))[2:]


def glossary() -> list[Word]:
    """What is not to be used."""
    return [
        Word(row["term"], found["word"], found["name"] is not None)
        for row in table()
        for found in BANNED.finditer(row["banned"])
    ]


@cache
def words_of(name: str) -> str:
    """The words of a name, lower case, each between spaces."""
    if name.startswith("__"):  # Python's own, as __post_init__
        return ""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", ORDINARY.sub("_", name))
    return f" {' '.join(re.findall('[a-z0-9]+', name.lower()))} "


def python(text: str) -> Iterator[Text]:
    """Names that a file defines, comments, docstrings, messages."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield node.lineno, name, True
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name, True
            case ast.Constant(value=str(prose)) if " " in prose:
                for line, each in enumerate(prose.splitlines(), node.lineno):
                    yield line, each, False


def cpp(text: str) -> Iterator[Text]:
    """The same of a file of C++ or Cython, for all the names that it uses."""
    line, end = 1, 0
    for found in CODE.finditer(text):
        line += text.count("\n", end, found.start())
        end = found.start()
        if found["name"] or DIRECTIVE.match(found[0]):
            yield line, found[0], True
        else:
            for i, each in enumerate(found[0].splitlines(), line):
                yield i, each, False


def document(text: str) -> Iterator[Text]:
    """The lines of a document, less the glossary's rows."""
    for line, each in enumerate(text.splitlines(), 1):
        if not ROW.match(each):
            yield line, each, False


def uses(path: Path, banned: list[Word]) -> Iterator[str]:
    """One line for each use: where, what, and the term instead."""
    read = python if path.suffix in {".py", ".pyi"} else cpp if path.suffix in CPP else document
    names = [(words_of(word.text), word) for word in banned]
    prose = {word.text: word for word in banned if not word.names_only}
    in_prose = re.compile(rf"(?<![\w-])({'|'.join(prose) or '(?!)'})(?![\w-])", re.IGNORECASE)
    for line, text, is_name in read(path.read_text()):
        if is_name:
            found = [word for words, word in names if words in words_of(text)]
        else:
            found = [prose[use.lower()] for use in in_prose.findall(text)]
        for word in found:
            yield f"{path}:{line}: `{word.text}`: use {word.term}"


def files() -> list[Path]:
    """What is read: product code, tools, documents."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    wanted = (path for path in inside if path.suffix in {".py", ".pyi", ".md", *CPP})
    return [*ROOT.glob("*.md"), *(path for path in wanted if path.name != "_native.cpp")]


def test_the_glossary_is_short_and_lists_each_word_once() -> None:
    assert 20 <= len(table()) <= 40
    banned = [word.text for word in glossary()]
    assert len(banned) == len(set(banned)) > 20


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("x.py", "def f(row_place): ...\n", [1]),
        ("x.py", "# a place\nx = values.place\nin_place = 'a place'\n", []),
        ("x.py", '"""The vocabulary."""\n# vocabulary\ny = "a vocabulary"\n', [1, 2, 3]),
        ("x.hpp", "int kRowPlace; // place\nint keys_in_place; // --vocabulary\n", [1]),
        ("x.hpp", "/* a\n vocabulary */\n#include <vocabulary.hpp>\n", [2, 3]),
        ("x.md", "a place\na `vocabulary`\n", [2]),
    ],
)
def test_names_and_prose_are_told_apart(
    name: str, text: str, lines: list[int], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    banned = [Word("index", "place", True), Word("SIMD traits", "vocabulary", False)]
    found = sorted(int(use.split(":")[1]) for use in uses(path, banned))
    assert found == lines


def test_no_other_words_are_used() -> None:
    found = [use for path in files() for use in uses(path, glossary())]
    assert not found, f"{len(found)} uses:\n" + "\n".join(found)
