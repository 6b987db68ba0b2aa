"""Spaces of the tuner: their points, what these mean, and where the default lies."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastattn
from fastattn import Config, ConfigError, _threads
from fastattn._shapes import spec_of
from fastattn._spec import CallSpec
from fastattn.implementations import load
from fastattn.tuner import space as spaces
from fastattn.tuner.space import SPACES, Gene, Space, candidate, default_point, kernel, study

USABLE = [name for name, reason in fastattn.implementations().items() if reason is None]
needs_cython = pytest.mark.skipif("cython" not in USABLE, reason="cython cannot run here")

PROBLEMS = {
    "small": (4, 2, 2, 100, 100, 32),
    "bert": (8, 12, 12, 384, 384, 64),
    "long": (1, 8, 8, 8192, 8192, 128),
    "decode": (4, 32, 8, 1, 4096, 128),
    "short": (1, 1, 1, 1, 1, 1),
    "empty": (0, 1, 1, 0, 0, 1),
}
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def _spec(problem: tuple[int, ...], dtype: str = "float32") -> CallSpec:
    return spec_of(problem, dtype)


def _usable_cpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    here = dataclasses.replace(fastattn.machine(), usable_cpus=count)
    monkeypatch.setattr(spaces, "machine", lambda: here)
    monkeypatch.setattr(_threads, "usable_cpus", lambda: count)


def _call(impl: str, config: Config, g: CallSpec) -> tuple[Any, ...]:
    """What an implementation is made to do: its blocks end where the problem ends."""
    keys, rows = max(1, g.length_k), max(1, g.length_q * g.heads_q // g.heads_kv)
    fields = load(impl).configure(g, config)[0].explicit()
    part = min(int(fields.get("keys_per_split", keys)), keys)
    return (
        impl,
        fields.get("isa"),
        fields.get("threads"),
        part,
        min(int(fields.get("block_q", 1)), rows),
        min(int(fields.get("block_k", 1)), part),
    )


def _toy() -> Space:
    """Two ordered genes and an unordered one; of "b" only the first row is valid."""
    genes = (
        Gene("kind", ("a", "b"), False, ""),
        Gene("x", (1, 2, 4, 8), True, ""),
        Gene("y", (10, 1000), True, ""),
    )
    points = [(0, x, y) for x in range(4) for y in range(2)] + [(1, x, 0) for x in range(4)]
    return Space("toy", genes, tuple(points))


def test_study_is_as_published() -> None:
    """Block 8 to 64, threads 1 to 8, two data types."""
    values = [study().values(point) for point in study().points]
    assert len({tuple(row.items()) for row in values}) == len(values) == 32
    assert {row["block"] for row in values} == {8, 16, 32, 64}
    assert {row["threads"] for row in values} == {1, 2, 4, 8}
    assert {row["dtype"] for row in values} == {"float32", "float64"}


@pytest.mark.parametrize(
    ("usable", "dtype", "expected"),
    [
        (1, "float32", (64, 1, "float32")),
        (3, "float64", (64, 2, "float64")),
        (8, "float16", (64, 8, "float32")),
        (96, "float32", (64, 8, "float32")),
    ],
)
def test_default_of_study(
    monkeypatch: pytest.MonkeyPatch, usable: int, dtype: str, expected: tuple[Any, ...]
) -> None:
    """Block 64 on as many of the usable CPUs as there are values for, in the caller's type."""
    _usable_cpus(monkeypatch, usable)
    spec = _spec(PROBLEMS["bert"], dtype)
    space = SPACES["study"](spec)
    assert tuple(space.values(default_point(space, spec)).values()) == expected


def test_candidate_of_study() -> None:
    """The block is that of keys; the data type is the point's."""
    space = study()
    point = space.point({"block": 16, "threads": 4, "dtype": "float64"})
    found = candidate(space, point, _spec(PROBLEMS["bert"]))
    assert (found.impl, found.dtype) == ("cython", "float64")
    assert found.config == Config(block_k=16, threads=4)


@problems
@pytest.mark.parametrize("impls", [None, *([name] for name in USABLE)], ids=str)
def test_kernel_holds_the_default(problem: tuple[int, ...], impls: list[str] | None) -> None:
    """The default point is what the first implementation does without a configuration."""
    spec = _spec(problem)
    if impls == ["numpy"] and problem == PROBLEMS["long"]:
        return
    space = kernel(spec, impls)
    found = candidate(space, default_point(space, spec), spec)
    assert found.impl == (impls or USABLE)[0]
    assert found.dtype == "float32"
    assert (
        load(found.impl).configure(spec, found.config)[0]
        == (load(found.impl).configure(spec, Config())[0])
    )
    assert default_point(space, spec) in space


@problems
@pytest.mark.parametrize("usable", [1, 6, 32])
def test_kernel_points_are_different_calls(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[int, ...], usable: int
) -> None:
    """No two mean the same; each can be run; every implementation and thread count is there."""
    _usable_cpus(monkeypatch, usable)
    spec = _spec(problem)
    space = kernel(spec)
    found = [candidate(space, point, spec) for point in space.points]
    assert len({_call(row.impl, row.config, spec) for row in found}) == len(found)
    large = problem == PROBLEMS["long"]
    assert {row.impl for row in found} == set(USABLE) - ({"numpy"} if large else set())
    threads = {row.config.threads for row in found if row.impl != "numpy"}
    # A call has no more threads than work items: these have one item, or none.
    most = 1 if problem in (PROBLEMS["short"], PROBLEMS["empty"]) else usable
    assert {1, most} <= threads
    default = candidate(space, default_point(space, spec), spec).config.threads
    assert max(threads) == max(most, default or 1)
    assert sum(row.impl == "numpy" for row in found) == (not large)


@needs_cython
def test_kernel_holds_what_wisdom_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner beyond what the environment allows would serve no call."""
    _usable_cpus(monkeypatch, 8)
    monkeypatch.setenv("FASTATTN_NUM_THREADS", "3")
    monkeypatch.setenv("FASTATTN_ISA", "baseline")
    space = kernel(_spec(PROBLEMS["long"]))
    genes = {gene.name: gene.values for gene in space.genes}
    assert genes["threads"] == (1, 2, 3)
    assert "isa" not in genes or genes["isa"] == ("baseline",)


@needs_cython
def test_size_of_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A common problem has some hundred points, on many CPUs not many thousand."""
    spec = _spec(PROBLEMS["long"])
    for usable, least, most in ((2, 150, 700), (64, 400, 1500)):
        _usable_cpus(monkeypatch, usable)
        assert least <= len(kernel(spec)) <= most


@needs_cython
@pytest.mark.parametrize(
    ("problem", "split"),
    [
        ((1, 8, 8, 1, 512, 64), True),
        ((1, 8, 1, 32, 4096, 64), True),
        ((1, 8, 1, 33, 4096, 64), False),  # 264 rows of a key head
        ((1, 8, 8, 1, 511, 64), False),
    ],
)
def test_keys_are_split_where_rows_are_few(problem: tuple[int, ...], split: bool) -> None:
    """Into whole shares of the keys, none too short."""
    genes = {gene.name: gene.values for gene in kernel(_spec(problem)).genes}
    assert ("keys_per_split" in genes) is split
    if split:
        parts = [int(value) for value in genes["keys_per_split"]]
        assert min(parts) >= 256
        assert {problem[4], problem[4] // 2} <= set(parts)


def test_numpy_is_bounded() -> None:
    """256 MiB of scores are too many, whoever asks; one key fewer is not."""
    assert len(kernel(_spec((1, 1, 1, 8192, 8191, 8)), ["numpy"])) == 1
    with pytest.raises(ConfigError, match=r"`impl`.*256 MiB"):
        kernel(_spec((1, 1, 1, 8192, 8192, 8)), ["numpy"])
    assert len(kernel(_spec((1, 1, 1, 8192, 4095, 8), "float64"), ["numpy"])) == 1
    with pytest.raises(ConfigError, match="numpy"):
        kernel(_spec((1, 1, 1, 8192, 4096, 8), "float64"), ["numpy"])
    with pytest.raises(ConfigError, match="numpi"):
        kernel(_spec(PROBLEMS["small"]), ["numpi"])


@needs_cython
def test_fields_that_are_lacked_stay_at_the_default() -> None:
    """NumPy's point is one step from the default, and Numba's have one instruction set."""
    spec = _spec(PROBLEMS["decode"])
    space = kernel(spec)
    default = space.values(default_point(space, spec))
    rows = [space.values(point) for point in space.points]
    assert [row for row in rows if row["impl"] == "numpy"] == [{**default, "impl": "numpy"}]
    for name in ("isa", "keys_per_split"):
        assert {row[name] for row in rows if row["impl"] == "numba"} <= {default[name]}


@given(st.sampled_from([*study().points, *_toy().points]))
def test_values_and_point_are_inverse(point: tuple[int, ...]) -> None:
    """In both spaces that have this point."""
    for space in (study(), _toy()):
        if point in space:
            assert space.point(space.values(point)) == point
            assert space.points[space.index(point)] == point
            assert tuple(space.grid[space.index(point)]) == point


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "b", "x": 1, "y": 1000},  # not valid
        {"kind": "a", "x": 3, "y": 10},  # no such value
        {"kind": "a", "x": 1},
        {"kind": "a", "x": 1, "y": 10, "z": 1},
    ],
    ids=str,
)
def test_point_is_exact(values: dict[str, Any]) -> None:
    """What is not exactly a point is refused."""
    with pytest.raises(ValueError, match="'toy' has no point"):
        _toy().point(values)


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ({"kind": "b", "x": 4, "y": 1000}, (1, 2, 0)),  # unordered values first
        ({"kind": "c", "x": 1, "y": 1000}, (0, 0, 1)),
        ({"x": 3}, (0, 2, 0)),  # 3 is closer to 4 than to 2 in octaves
        ({"x": 100, "y": 90, "colour": "red"}, (0, 3, 0)),
        ({"y": 110}, (0, 0, 1)),
        ({"colour": "red"}, None),
    ],
    ids=str,
)
def test_nearest(values: dict[str, Any], nearest: tuple[int, ...] | None) -> None:
    """By agreement, then by octaves."""
    assert _toy().nearest(values) == nearest


def test_neighbours() -> None:
    """Valid, one gene away, by one step where it is ordered."""
    space = _toy()
    assert set(space.neighbours((0, 1, 0))) == {(1, 1, 0), (0, 0, 0), (0, 2, 0), (0, 1, 1)}
    assert set(space.neighbours((0, 0, 1))) == {(0, 1, 1), (0, 0, 0)}
    for point in space.points:
        for other in space.neighbours(point):
            assert point in space.neighbours(other)
