"""Search spaces: finite sets of points, and the configuration that each point means.

A point holds, for each gene, the index of its value.  There are two spaces: `study`, the 32 points
of the study that fastattn grew from, and `kernel`, everything that the implementations expose.
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
from fastattn._errors import ConfigError
from fastattn._machine import machine
from fastattn._spec import CallSpec
from fastattn._wisdom.keys import limits
from fastattn.implementations import REGISTRY, load, unsupported

__all__ = [
    "SPACES",
    "STUDIED",
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
    "isa": "instruction set",
    "dtype": "data type of queries, keys, values and result",
    "block": "block_k; block_q is the default",
}
STUDIED = next(iter(REGISTRY))
"""The implementation of the space `study`."""

_BLOCK_Q = (16, 32, 64, 128, 256, 512, 1024)
_BLOCK_K = (32, 48, 64, 96, 128, 192, 256, 384, 512)
_SPLITS = (1, 2, 4, 8, 16)
# Keys are split only if a key head has few rows, as more keep the threads busy by themselves, and
# into splits that are long enough to be worth the merge.
_MAX_SPLIT_ROWS = 256
_MIN_SPLIT_KEYS = 256
# An instruction set that is worse than the second-best cannot win.
_ISAS = 2
# A value within this factor of the default's measures the same.
_SIMILAR = 1.2
_MAX_SCORES_BYTES = 256 * 1024 * 1024


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
        Whether neighbouring values are expected to measure alike.
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
        The valid ones.  A field that an implementation lacks is held at one value, so that no
        two points mean the same call.
    grid : ndarray of int, (points, genes)
        The points as an array.
    """

    name: str
    genes: tuple[Gene, ...]
    points: tuple[Point, ...]
    grid: NDArray[np.intp] = field(init=False, repr=False, compare=False)
    _indices: dict[Point, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grid = np.array(self.points, dtype=np.intp).reshape(len(self.points), len(self.genes))
        grid.setflags(write=False)
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "_indices", {point: i for i, point in enumerate(self.points)})

    def __len__(self) -> int:
        return len(self.points)

    def __contains__(self, point: object) -> bool:
        return point in self._indices

    def index(self, point: Point) -> int:
        """Index of a point in `points`."""
        return self._indices[point]

    def values(self, point: Point) -> dict[str, Value]:
        """The point's value of each gene, by name."""
        return {gene.name: gene.values[i] for gene, i in zip(self.genes, point, strict=True)}

    def point(self, values: Mapping[str, Value]) -> Point:
        """The point with exactly these values; ValueError if there is none."""
        for point in self.points:
            if self.values(point) == values:
                return point
        raise ValueError(f"the space {self.name!r} has no point {dict(values)}")

    def nearest(self, values: Mapping[str, Value]) -> Point | None:
        """The point that is closest to these values; None if they name no gene.

        As many unordered genes as possible agree.  Of the points in which as many agree, it is the
        one with the smallest sum of the ordered genes' distances, in octaves.  Genes that are not
        named, and names that are not genes, do not count.
        """
        named = [(i, gene) for i, gene in enumerate(self.genes) if gene.name in values]
        if not named or not self.points:
            return None
        unequal = np.zeros(len(self.points))
        octaves = np.zeros(len(self.points))
        for i, gene in named:
            wanted = values[gene.name]
            if gene.ordered:
                distances = [abs(math.log2(int(value) / int(wanted))) for value in gene.values]
                octaves += np.array(distances)[self.grid[:, i]]
            else:
                unequal += np.array([value != wanted for value in gene.values])[self.grid[:, i]]
        return self.points[int(np.lexsort((octaves, unequal))[0])]

    def neighbours(self, point: Point) -> tuple[Point, ...]:
        """Points that differ in one gene: by one step where it is ordered."""
        found = []
        for i, gene in enumerate(self.genes):
            here = point[i]
            steps = (here - 1, here + 1) if gene.ordered else range(len(gene.values))
            for step in steps:
                other = (*point[:i], step, *point[i + 1 :])
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

    The implementation is the first of the registry.

    Examples
    --------
    >>> from fastattn.tuner.space import study
    >>> len(study())
    32
    """
    genes = (
        _gene("block", (8, 16, 32, 64)),
        _gene("threads", (1, 2, 4, 8)),
        _gene("dtype", ("float32", "float64")),
    )
    return Space("study", genes, tuple(_combinations(genes)))


def kernel(spec: CallSpec, impls: Sequence[str] | None = None) -> Space:
    """Everything that the implementations expose, for one problem in its data type.

    `impls` names implementations that can run here; default all of them.  Of the first, in the
    order of the registry, the default configuration is a point.  ConfigError if none of them can
    be tuned for this problem.
    """
    names = [
        name for name in REGISTRY if (impls is None or name in impls) and _measurable(name, spec)
    ]
    if not names:
        raise ConfigError(
            "impl",
            repr(list(REGISTRY if impls is None else impls)),
            f"names among {list(REGISTRY)} that support the call; those without blocks of "
            f"keys only while the scores take less than {_MAX_SCORES_BYTES // 2**20} MiB",
            "leave it out",
        )
    default = _default(names[0], spec)
    genes = [_gene("impl", names)]
    genes += _field_genes(spec, {name for impl in names for name in load(impl).TUNABLES}, default)

    def resolved(point: Point) -> tuple[str, Config]:
        found = candidate(everything, point, spec)
        return found.impl, load(found.impl).configure(spec, found.config)[0]

    def changes(point: Point) -> int:
        values = everything.values(point)
        return sum(default.get(name, value) != value for name, value in values.items())

    everything = Space("kernel", tuple(genes), tuple(_combinations(genes)))
    # Points that resolve to the same configuration are the same call: the one that differs from
    # the default in the fewest fields stands for them.
    first: dict[object, Point] = {}
    for point in sorted(everything.points, key=changes):
        first.setdefault(resolved(point), point)
    return Space("kernel", tuple(genes), tuple(sorted(first.values())))


SPACES: dict[str, Callable[[CallSpec], Space]] = {"study": study, "kernel": kernel}


def candidate(space: Space, point: Point, spec: CallSpec) -> Candidate:
    """What `point` means for a problem."""
    values = space.values(point)
    impl = str(values.get("impl", STUDIED))
    fields: dict[str, Any] = {
        name: value for name, value in values.items() if name in load(impl).TUNABLES
    }
    if "block" in values:
        fields["block_k"] = values["block"]
    return Candidate(impl, Config(**fields), str(values.get("dtype", spec.dtype.name)))


def default_point(space: Space, spec: CallSpec) -> Point:
    """The point of the shipped default: the baseline of a search, and its first point.

    In `study` it is block 64 on as many of the usable CPUs as a point can have, in the caller's
    data type.  ValueError if the space does not belong to this problem and machine.
    """
    genes = {gene.name: gene for gene in space.genes}
    if "block" not in genes:
        default = _default(str(genes["impl"].values[0]), spec)
        return space.point({name: default.get(name, g.values[0]) for name, g in genes.items()})
    usable = machine().usable_cpus
    name = spec.dtype.name
    return space.point(
        {
            "block": 64,
            "threads": max(int(value) for value in genes["threads"].values if int(value) <= usable),
            "dtype": name if name in genes["dtype"].values else "float32",
        }
    )


def _field_genes(spec: CallSpec, fields: set[str], default: Mapping[str, Value]) -> list[Gene]:
    """Genes of the fields of `Config`; their values are within what wisdom may choose."""
    rows, keys = max(1, spec.length_q * spec.group), max(1, spec.length_k)
    most, forced = limits(spec)
    values: dict[str, Sequence[Value]] = {}
    if "isa" in fields:
        isas = [forced] if forced else machine().kernels[spec.operation][spec.dtype.name][:_ISAS]
        values["isa"] = list(dict.fromkeys([*isas, default.get("isa", isas[0])]))
    if "block_q" in fields:
        values["block_q"] = _ladder(_BLOCK_Q, rows, default.get("block_q"))
    if "block_k" in fields:
        values["block_k"] = _ladder(_BLOCK_K, keys, default.get("block_k"))
    if "threads" in fields:
        doubling = (2**i for i in range(most.bit_length()))
        values["threads"] = sorted({*doubling, most, int(default.get("threads", 1))})
    if "keys_per_split" in fields and rows <= _MAX_SPLIT_ROWS and keys >= 2 * _MIN_SPLIT_KEYS:
        splits = {-(-keys // count) for count in _SPLITS}
        whole = int(default.get("keys_per_split", keys))
        long_enough = (split for split in splits if split >= _MIN_SPLIT_KEYS)
        values["keys_per_split"] = sorted({*long_enough, whole})
    return [_gene(name, found) for name, found in values.items()]


def _combinations(genes: Sequence[Gene]) -> Iterable[Point]:
    return itertools.product(*(range(len(gene.values)) for gene in genes))


def _gene(name: str, values: Iterable[Value]) -> Gene:
    values = tuple(values)
    return Gene(name, values, isinstance(values[0], int), _MEANINGS[name])


def _ladder(values: Sequence[int], extent: int, default: Value | None) -> list[int]:
    """Values cut to `extent`, with the default in place of those that are close to it."""
    kept = {min(value, extent) for value in values}
    if default is not None:
        middle = int(default)
        covered = min(middle, extent)
        kept = {v for v in kept if not covered / _SIMILAR < v < covered * _SIMILAR} | {middle}
    return sorted(kept)


def _default(impl: str, spec: CallSpec) -> dict[str, Value]:
    """Default configuration of an implementation, as values of genes."""
    resolved, _ = load(impl).configure(spec, Config())
    return {"impl": impl, **resolved.explicit()}


def _measurable(impl: str, spec: CallSpec) -> bool:
    """Whether the implementation can compute the problem here, in bounded memory.

    Without blocks of keys, an implementation holds all scores at once.
    """
    implementation = load(impl)
    scores = math.prod(spec.scores_shape) * spec.dtype.compute.itemsize
    return unsupported(implementation, spec) is None and (
        "block_k" in implementation.TUNABLES or scores < _MAX_SCORES_BYTES
    )
