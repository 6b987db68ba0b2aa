"""A machine whose times are known: a source of samples for searches, with a clock of its own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fastattn._spec import CallSpec
from fastattn.tuner.measure import TrialError
from fastattn.tuner.space import Gene, Point, Space, default_point
from fastattn.tuner.system import SystemLoad

SAMPLE_SECONDS = 0.02


def space(blocks: int = 6, threads: int = 2) -> Space:
    """Genes `block_q` and `threads`, every combination a point."""
    genes = (
        Gene("block_q", tuple(16 * 2**i for i in range(blocks)), True, "rows"),
        Gene("threads", tuple(range(1, threads + 1)), True, "threads"),
    )
    return Space("simulated", genes, tuple(itertools.product(range(blocks), range(threads))))


@dataclass
class Machine:
    """Gives samples: the true time, times noise, times what the machine does now.

    Attributes
    ----------
    times : mapping
        True seconds of a call, by point.
    noise : float
        Standard deviation of a sample's logarithm.
    slowness : callable
        Factor on all times, of the seconds since the beginning.
    failures : mapping
        Points that cannot be measured, why, and the samples that they give before.
    interrupt_at : int, optional
        Number of the sample at which Ctrl-C is pressed.
    """

    times: Mapping[Point, float]
    noise: float = 0.01
    seed: int = 0
    slowness: Callable[[float], float] = lambda _: 1.0
    failures: Mapping[Point, tuple[str, int]] = field(default_factory=dict)
    interrupt_at: int | None = None
    spent_seconds: float = 0.0
    taken: Counter[Point] = field(default_factory=Counter)
    repetitions: list[list[Point]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def clock(self) -> float:
        """Seconds since the beginning: samples are all that takes time."""
        return self.spent_seconds

    def start_repetition(self) -> None:
        self.repetitions.append([])

    def sample(self, point: Point) -> float:
        if self.taken.total() == self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        if point in self.failures and self.taken[point] >= self.failures[point][1]:
            raise TrialError(self.failures[point][0])
        self.taken[point] += 1
        self.repetitions[-1].append(point)
        noise = np.exp(self.noise * self._rng.standard_normal())
        seconds = self.times[point] * float(noise) * self.slowness(self.spent_seconds)
        self.spent_seconds += max(SAMPLE_SECONDS, seconds)
        return seconds


class Idle(Machine):
    """Stands in for `Live`: smaller `block_q` is faster, whatever the implementation."""

    interrupt: ClassVar[int | None] = None
    fault: ClassVar[str | None] = None
    only_default: ClassVar[bool] = False
    call_seconds: ClassVar[float] = 1e-3
    preparation_seconds = 0.5

    def __init__(self, space: Space, spec: CallSpec, seed: int = 0) -> None:
        index = {gene.name: i for i, gene in enumerate(space.genes)}
        block = index.get("block_q", index.get("block", 0))
        times = {point: self.call_seconds * 1.2 ** point[block] for point in space.points}
        failing = [] if self.fault is None else space.points
        if self.only_default:
            default = default_point(space, spec)
            failing = [point for point in space.points if point != default]
        failures = dict.fromkeys(failing, (self.fault or "out of order", 0))
        super().__init__(
            times, noise=0.005, seed=seed, interrupt_at=self.interrupt, failures=failures
        )
        self.repetitions.append([])

    def warm_up(self) -> None:
        """There is nothing to compile."""


def system_load(others: float = 0.0) -> SystemLoad:
    """The load where other processes take that share."""
    return SystemLoad(2, others, 0.0)
