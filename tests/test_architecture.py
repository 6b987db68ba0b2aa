"""The law of the house, read from syntax trees: who imports whom, what is exported, one owner.

The rows of `ROWS` are those of the design: a module may import from the rows above its
own, and inside its row from those that stand before it.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import re
import sys
import types
from pathlib import Path
from typing import get_args

import pytest

import fastattn
from fastattn import _api, masks
from fastattn._commands import REGISTRY as COMMANDS
from fastattn._config import TUNABLES
from fastattn._dtypes import DTYPES
from fastattn._normalise import normalise
from fastattn.implementations import REGISTRY, load

PACKAGE = Path(inspect.getfile(fastattn)).parent
ROOT = Path(__file__).resolve().parent.parent

ROWS = (
    ("_version", "_arithmetic", "_optional", "_log", "_errors", "_dtypes", "_config", "_env"),
    ("implementations._native", "_machine"),
    ("_threads", "_roofline"),
    ("_spec", "_problem", "_arrays", "_interop"),
    ("masks", "_shapes", "_normalise"),
    ("implementations",),
    ("_wisdom", "_plan"),
    ("wisdom", "_api"),
    ("tuner",),
    ("_commands", "__main__"),
    ("torch", "transformers", "onnx"),
)
PLACES = {name: (row, at) for row, names in enumerate(ROWS) for at, name in enumerate(names)}
NUMBAS = {"numba", "llvmlite"}
ADAPTERS = {
    "torch": {"torch", "ml_dtypes"},
    "transformers": {"torch", "transformers"},
    "onnx": {"onnx", "ml_dtypes"},
}
OPTIONAL = {
    "_interop": {"ml_dtypes"},  # where a tensor of bfloat16 is passed
    "_wisdom.store": {"platformdirs"},
    "tuner.measure": {"ml_dtypes"},  # arrays of bfloat16
}


def _modules() -> dict[str, Path]:
    """Python files of the package by dotted name below ``fastattn``; "" is its face."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = _modules()
KNOWN = {*MODULES, "implementations._native"}
modules = pytest.mark.parametrize("name", MODULES)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _place(name: str) -> tuple[int, int]:
    """Row, and place in the row, of a module or of the package that it belongs to."""
    while name not in PLACES:
        name = name.rpartition(".")[0]
        assert name, "a module that stands in no row"
    return PLACES[name]


def _imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("fastattn.") in KNOWN
                names.add(full if is_module else str(node.module))
    return names


def _own(path: Path) -> set[str]:
    """Modules of the package that a file imports, below ``fastattn``."""
    names = {name for name in _imports(path) if name.split(".")[0] == "fastattn"}
    return {name.removeprefix("fastattn").removeprefix(".") for name in names}


@modules
def test_imports_only_from_above(name: str) -> None:
    """A package's own files may import one another; all else stands above."""
    for other in _own(MODULES[name]):
        assert other in KNOWN, f"{name} imports {other}, which is not there"
        if name == "":
            later = set(fastattn._LATER.values())  # named for the type checker only
            assert _place(other) <= _place("_api") or f"fastattn.{other}" in later, other
            continue
        assert other != "", f"{name} imports the package's face"
        package = name.partition(".")[0]
        if package == other.partition(".")[0] and _place(name) == _place(other):
            continue
        assert _place(other) < _place(name), f"{name} imports {other}, which stands below it"


def test_implementations_do_not_know_each_other() -> None:
    """An implementation imports neither the registry nor what belongs to another."""
    owners: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name.startswith("implementations."):
            used = _own(path)
            assert "implementations" not in used, f"{name} imports the registry"
            for other in used:
                if other.startswith("implementations."):
                    owners.setdefault(other.split(".")[1], set()).add(name.split(".")[1])
    files = {module.rpartition(".")[2] for module in REGISTRY.values()}
    for part, users in owners.items():
        assert part not in files, f"{users} import the implementation {part}"
        assert len(users & files) <= 1, f"{users & files} share {part}"


@modules
def test_foreign_packages(name: str) -> None:
    """NumPy and the standard library; Numba where it is the implementation, and no other."""
    roots = {other.split(".")[0] for other in _imports(MODULES[name])}
    allowed = {"numpy", "fastattn", *sys.stdlib_module_names}
    if name.startswith("implementations.") and "numba" in name:
        allowed |= NUMBAS
    allowed |= OPTIONAL.get(name, set()) | ADAPTERS.get(name.partition(".")[0], set())
    assert roots <= allowed, roots - allowed


def _attributes(path: Path) -> set[str]:
    return {ast.unparse(n) for n in ast.walk(_tree(path)) if isinstance(n, ast.Attribute)}


@modules
def test_one_file_reads_the_environment(name: str) -> None:
    """`_env`, and no other."""
    found = _attributes(MODULES[name]) & {"os.environ", "os.getenv", "os.putenv", "os.environb"}
    assert bool(found) == (name == "_env"), found
    assert not {"environ", "getenv"} & {
        alias.name
        for node in ast.walk(_tree(MODULES[name]))
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
    }


@modules
def test_only_the_command_prints(name: str) -> None:
    """Everything else logs."""
    prints = [
        node
        for node in ast.walk(_tree(MODULES[name]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
    ]
    assert not prints or name == "__main__"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_describes_itself(name: str) -> None:
    """The module that the registry names has all that a command offers, and a file of its own."""
    module = COMMANDS[name]
    assert isinstance(module, types.ModuleType)
    assert module.__name__ == f"fastattn._commands.{name}"
    assert module.SUMMARY
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
    assert list(inspect.signature(module.run).parameters) == ["options", "progress"]


@modules
def test_file_explains_itself(name: str) -> None:
    """A module says what it is for."""
    assert ast.get_docstring(_tree(MODULES[name])), f"{name} has no docstring"


@modules
def test_all_is_what_is_public(name: str) -> None:
    """Where a module has ``__all__``: each name is there, and no public one is missing."""
    if name.partition(".")[0] in ADAPTERS:
        for library in ADAPTERS[name.partition(".")[0]]:
            pytest.importorskip(library)
    if name == "__main__" or (NUMBAS & {n.split(".")[0] for n in _imports(MODULES[name])}):
        return
    module = importlib.import_module(f"fastattn.{name}".rstrip("."))
    if name == "":
        module = sys.modules["fastattn"]
    if not hasattr(module, "__all__"):
        return
    exported = list(module.__all__)
    assert exported == sorted(exported, key=lambda n: (not n.isupper(), n)) or exported == sorted(
        exported
    )
    assert len(exported) == len(set(exported))
    for public in exported:
        assert hasattr(module, public)
    defined = {
        public
        for public, value in vars(module).items()
        if not public.startswith("_")
        and isinstance(value, (type, types.FunctionType))
        and value.__module__ == module.__name__
    }
    assert defined <= set(exported), defined - set(exported)


def test_the_face_is_exact() -> None:
    """``fastattn.__all__`` is every public name but modules, the version and `wisdom`."""
    public = {
        name
        for name, value in vars(fastattn).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }
    assert set(fastattn.__all__) == public | {"__version__", *fastattn._LATER}
    assert re.fullmatch(r"\d+\.\d+\.\d+", fastattn.__version__)


FACE = [name for name in fastattn.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", FACE)
def test_public_docstrings(name: str) -> None:
    """Each public object explains itself; functions and classes of results have examples."""
    thing = getattr(fastattn, name)
    text = inspect.getdoc(thing)
    assert text
    if isinstance(thing, types.ModuleType) or (
        isinstance(thing, type) and issubclass(thing, Exception)
    ):
        return
    assert "Examples\n--------" in text
    found = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    assert len(found) == 1
    assert found[0].examples
    result = doctest.DocTestRunner(verbose=False).run(found[0])
    assert result.failed == 0


def test_explain_takes_what_attention_takes() -> None:
    """One list of arguments, four times: two signatures, the overloads' table, `normalise`."""
    attention, explain = (inspect.signature(f).parameters for f in (_api.attention, _api.explain))
    assert attention == explain
    assert list(_api._Options.__annotations__) == [
        name for name in list(attention)[3:] if name != "return_lse"
    ]
    of_normalise = list(inspect.signature(normalise).parameters.values())
    for mine, theirs in zip(of_normalise, attention.values(), strict=False):
        assert mine.name in (theirs.name, "further_masks", "lse")
        assert mine.default == theirs.default or mine.name == "further_masks"
    assert get_args(_api._Impl) == ("auto", *REGISTRY)


@pytest.mark.parametrize("name", ["attention", "explain", "roofline", "tune"])
def test_parameters_are_documented(name: str) -> None:
    """Each parameter of the public calls stands in the docstring."""
    function = getattr(fastattn, name)
    text = inspect.getdoc(function) or ""
    section = text.split("Parameters\n")[1].split("\nReturns\n")[0]
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^(\w+, )*\**{parameter}(, \w+)* ?(:|$)", section, re.M), parameter


@pytest.mark.parametrize("name", REGISTRY)
def test_implementation_describes_itself(name: str) -> None:
    """The module that the registry names has all that an implementation offers."""
    module = load(name)
    assert isinstance(module, types.ModuleType)
    assert module.__name__ == REGISTRY[name]
    assert name == module.NAME
    assert module.SUMMARY
    assert {row.name for row in TUNABLES} | {"isa"} >= module.TUNABLES
    assert {kind.NAME for kind in masks.KINDS} >= module.MASKS
    assert all(type(text) is str for row in module.fingerprint().items() for text in row)
    assert list(inspect.signature(module.configure).parameters) == ["spec", "config"]
    assert list(inspect.signature(module.prepare).parameters) == ["spec", "config"]


def test_every_mask_file_is_registered() -> None:
    """One file, one row of the registry."""
    files = {
        name.split(".")[1]
        for name in MODULES
        if name.startswith("masks.") and not name.startswith("masks._")
    }
    assert files == {kind.NAME for kind in masks.KINDS}


def test_data_type_codes_are_those_of_the_kernels() -> None:
    """``DTYPES`` and ``enum class DType`` of ``src_cpp/abi.hpp`` are one list."""
    text = (ROOT / "src_cpp" / "abi.hpp").read_text()
    body = re.search(r"enum class DType[^{]*\{([^}]*)\}", text)
    assert body is not None
    codes = {name.lower(): int(code) for name, code in re.findall(r"k(\w+)\s*=\s*(\d+)", body[1])}
    assert codes == {row.name: row.code for row in DTYPES.values()} | {"bool": len(DTYPES)}


def test_benchmarks_use_the_public_face_only() -> None:
    """They measure what users call; replays run the tuner's own search, of which users see less."""
    for path in [
        *sorted((ROOT / "benchmarks").glob("*.py")),
        *sorted((ROOT / "perf").rglob("*.py")),
    ]:
        if "tuner_replay" in path.parts:
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name.startswith("fastattn.")], path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastattn"):
                assert node.module == "fastattn", path
                assert {alias.name for alias in node.names} <= set(fastattn.__all__), path
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fastattn":
                assert node.attr in fastattn.__all__, f"{path}: fastattn.{node.attr}"
