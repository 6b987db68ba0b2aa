"""What may be chosen: finite spaces of genes, and what their points mean.

A point holds, for each gene, the index of its value.  There are two spaces: `study`, the 32 points
of the study that fastattn grew from, and `kernel`, whatever the implementations expose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn._config import TUNABLES, Config
from fastattn._errors import ConfigError, format_error
from fastattn._machine import machine
from fastattn._spec import CallSpec
from fastattn._wisdom.keys import caps
from fastattn.implementations import REGISTRY, load

__all__ = [
    "SPACES",
    "Candidate",
    "Gene",
    "Point",
    "Space",
    "Value",
    "candidate",
    "default_point",
    "kernel",
    "study",
]

Value: TypeAlias = int | str
Point: TypeAlias = tuple[int, ...]

_MEANINGS = {row.name: row.meaning for row in TUNABLES} | {
    "impl": "implementation",
    "isa": "instruction set of the cython implementation",
    "dtype": "data type of queries, keys, values and result",
    "block": "block_k; block_q is what it is by default",
}

_BLOCK_Q = (16, 32, 64, 128, 256, 512, 1024)
_BLOCK_K = (32, 48, 64, 96, 128, 192, 256, 384, 512)
_PARTS = (1, 2, 4, 8, 16)
# More rows of a key head than this keep the threads busy by themselves; parts shorter than this
# are all overhead.
_SPLIT_ROWS = 256
_PART_KEYS = 256
# An instruction set that is worse than the second-best cannot win.
_ISAS = 2
# A value within this factor of the default's measures the same.
_APART = 1.2
_NUMPY_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gene:
    """One thing to choose.

    Attributes
    ----------
    name : str
        A field of `Config`, ``"impl"``, ``"dtype"``, or ``"block"``: the study's `block_k`.
    values : tuple
        Distinct; whole numbers above 0 in ascending order where `ordered`.
    ordered : bool
        Whether values that stand side by side are expected to measure alike.
    meaning : str
        One phrase.
    """

    name: str
    values: tuple[Value, ...]
    ordered: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Space:
    """A finite set of points, in a stable order.

    Attributes
    ----------
    name : str
    genes : tuple of Gene
    points : tuple of Point
        All that are valid.  A field that an implementation lacks is held at one value, so no
        two points mean the same call.
    grid : ndarray of int, (points, genes)
        The points as an array.
    """

    name: str
    genes: tuple[Gene, ...]
    points: tuple[Point, ...]
    grid: NDArray[np.intp] = field(init=False, repr=False, compare=False)
    _places: dict[Point, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grid = np.array(self.points, dtype=np.intp).reshape(len(self.points), len(self.genes))
        grid.setflags(write=False)
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "_places", {point: i for i, point in enumerate(self.points)})

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, point: object) -> bool:
        return point in self._places

    def place(self, point: Point) -> int:
        """Index of a point in `points`."""
        return self._places[point]

    def values(self, point: Point) -> dict[str, Value]:
        """The point's value of each gene, by name."""
        return {gene.name: gene.values[at] for gene, at in zip(self.genes, point, strict=True)}

    def point(self, values: Mapping[str, Value]) -> Point:
        """The point with exactly these values.

        Raises
        ------
        ConfigError
            There is no such point.
        """
        if set(values) == {gene.name for gene in self.genes}:
            places = [
                gene.values.index(values[gene.name]) if values[gene.name] in gene.values else -1
                for gene in self.genes
            ]
            if tuple(places) in self:
                return tuple(places)
        raise ConfigError(
            format_error(
                "values",
                repr(dict(values)),
                f"a point of the space {self.name!r}, whose genes are "
                + "; ".join(f"{gene.name} {list(gene.values)}" for gene in self.genes),
                "see `fastattn tune --space`, or take Space.nearest",
            )
        )

    def nearest(self, values: Mapping[str, Value]) -> Point | None:
        """The point that is closest to these values; None if they name no gene.

        As many unordered genes as possible agree.  Of the points in which as many agree, it is the
        one with the smallest sum of the ordered genes' distances, in octaves.  Genes that are not
        named, and names that are not genes, do not count.
        """
        named = [(at, gene) for at, gene in enumerate(self.genes) if gene.name in values]
        if not named or not self.points:
            return None
        strange = np.zeros(len(self.points))
        octaves = np.zeros(len(self.points))
        for at, gene in named:
            wanted = values[gene.name]
            if gene.ordered:
                away = [abs(math.log2(int(value) / int(wanted))) for value in gene.values]
                octaves += np.array(away)[self.grid[:, at]]
            else:
                strange += np.array([value != wanted for value in gene.values])[self.grid[:, at]]
        return self.points[int(np.lexsort((octaves, strange))[0])]

    def neighbours(self, point: Point) -> tuple[Point, ...]:
        """Points that differ in one gene: by one step where it is ordered."""
        found = []
        for at, gene in enumerate(self.genes):
            here = point[at]
            steps = (here - 1, here + 1) if gene.ordered else range(len(gene.values))
            for step in steps:
                other = (*point[:at], step, *point[at + 1 :])
                if step != here and other in self:
                    found.append(other)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a point means: an implementation, its configuration, and the data type."""

    impl: str
    config: Config
    dtype: str


def study(spec: CallSpec | None = None) -> Space:
    """Block, threads and data type, as published: 32 points for any problem.

    The implementation is ``cython``.

    Examples
    --------
    >>> from fastattn.tuner.space import study
    >>> len(study())
    32
    """
    return _product(
        "study",
        (
            _gene("block", (8, 16, 32, 64)),
            _gene("threads", (1, 2, 4, 8)),
            _gene("dtype", ("float32", "float64")),
        ),
    )


def kernel(spec: CallSpec, impls: Sequence[str] | None = None) -> Space:
    """All that the implementations expose, for one problem; the data type is the caller's.

    Parameters
    ----------
    spec : CallSpec
    impls : sequence of str, optional
        Names of implementations that can run here; default all of them.  The first, in the
        order of the registry, is the one whose default configuration is a point.

    Raises
    ------
    ConfigError
        None of the names can be tuned for this problem.
    """
    if impls is None:
        impls = [name for name in REGISTRY if load(name).missing() is None]
    wanted = impls
    impls = [name for name in REGISTRY if name in wanted and _fits(name, spec)]
    if not impls:
        raise ConfigError(
            format_error(
                "impl",
                repr(list(wanted)),
                f"names among {list(REGISTRY)}; numpy only while its scores take less than "
                f"{_NUMPY_BYTES // 2**20} MiB",
                "leave it out",
            )
        )
    default = _shipped(impls[0], spec)
    most, isa = caps()  # limits of what wisdom may choose: a winner beyond would serve no call
    rows = max(1, spec.length_q * spec.group)
    keys = max(1, spec.length_k)
    genes = [_gene("impl", impls)]
    if "cython" in impls:
        isas = machine().isas[:_ISAS] if isa is None else (isa,)
        genes.append(_gene("isa", _with(isas, default.get("isa"))))
    if set(impls) != {"numpy"}:
        doubling = (2**i for i in range(most.bit_length()))
        genes.append(_gene("block_q", _ladder(_BLOCK_Q, rows, default.get("block_q"))))
        genes.append(_gene("block_k", _ladder(_BLOCK_K, keys, default.get("block_k"))))
        genes.append(_gene("threads", sorted({*doubling, most, int(default["threads"])})))
    if "cython" in impls and rows <= _SPLIT_ROWS and keys >= 2 * _PART_KEYS:
        parts = {-(-keys // count) for count in _PARTS}
        long_enough = (part for part in parts if part >= _PART_KEYS)
        genes.append(
            _gene("keys_per_split", sorted({*long_enough, int(default["keys_per_split"])}))
        )

    def call(values: dict[str, Value]) -> tuple[Value, ...]:
        """What the point makes the implementation do; equal for points that mean the same."""
        has = load(str(values["impl"])).TUNABLES
        does = {name: value for name, value in values.items() if name in has or name == "impl"}
        part = min(int(does.get("keys_per_split", keys)), keys)
        for name, extent in (("keys_per_split", keys), ("block_k", part), ("block_q", rows)):
            if name in does:
                does[name] = min(int(does[name]), extent)
        return tuple(does.values())

    return _product("kernel", genes, call, default)


SPACES: dict[str, Callable[[CallSpec], Space]] = {"study": study, "kernel": kernel}


def candidate(space: Space, point: Point, spec: CallSpec) -> Candidate:
    """What `point` means for a problem."""
    values = space.values(point)
    impl = str(values.get("impl", "cython"))
    fields: dict[str, Any] = {
        name: value for name, value in values.items() if name in load(impl).TUNABLES
    }
    if "block" in values:
        fields["block_k"] = values["block"]
    return Candidate(impl, Config(**fields), str(values.get("dtype", spec.dtype.name)))


def default_point(space: Space, spec: CallSpec) -> Point:
    """The point of the shipped default: the control of a search, and its first point.

    In `study` it is block 64 on as many of the usable CPUs as a point can have, in the caller's
    data type.

    Raises
    ------
    ConfigError
        The space does not belong to this problem and machine.
    """
    genes = {gene.name: gene for gene in space.genes}
    if "block" not in genes:
        shipped = _shipped(str(genes["impl"].values[0]), spec)
        values = {name: shipped.get(name, gene.values[0]) for name, gene in genes.items()}
        return space.point(values)
    usable = machine().usable_cpus
    name = spec.dtype.name
    return space.point(
        {
            "block": 64,
            "threads": max(int(value) for value in genes["threads"].values if int(value) <= usable),
            "dtype": name if name in genes["dtype"].values else "float32",
        }
    )


def _product(
    name: str,
    genes: Sequence[Gene],
    call: Callable[[dict[str, Value]], object] | None = None,
    default: Mapping[str, Value] | None = None,
) -> Space:
    """All combinations; of those that mean one `call`, only the one that is most like `default`."""
    everything = Space(
        name, tuple(genes), tuple(itertools.product(*(range(len(g.values)) for g in genes)))
    )
    if call is None or default is None:
        return everything
    named = [(point, everything.values(point)) for point in everything.points]
    named.sort(key=lambda row: sum(default.get(gene) != value for gene, value in row[1].items()))
    first: dict[object, Point] = {}
    for point, values in named:
        first.setdefault(call(values), point)
    return Space(name, tuple(genes), tuple(sorted(first.values())))


def _gene(name: str, values: Iterable[Value]) -> Gene:
    values = tuple(values)
    return Gene(name, values, isinstance(values[0], int), _MEANINGS[name])


def _with(values: Sequence[Value], default: Value | None) -> tuple[Value, ...]:
    return tuple(values) if default is None or default in values else (*values, default)


def _ladder(values: Sequence[int], extent: int, default: Value | None) -> list[int]:
    """Values cut to `extent`, with the default in place of those that are close to it."""
    kept = {min(value, extent) for value in values}
    if default is not None:
        middle = int(default)
        covered = min(middle, extent)
        kept = {v for v in kept if not covered / _APART < v < covered * _APART} | {middle}
    return sorted(kept)


def _shipped(impl: str, spec: CallSpec) -> dict[str, Value]:
    """Default configuration of an implementation, as values of genes."""
    settled, _ = load(impl).configure(spec, Config())
    return {"impl": impl, **settled.explicit()}


def _fits(impl: str, spec: CallSpec) -> bool:
    """Whether the implementation's memory stays within bounds for this problem."""
    scores = math.prod(spec.scores_shape) * spec.dtype.compute.itemsize
    return impl != "numpy" or scores < _NUMPY_BYTES
