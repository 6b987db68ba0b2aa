"""What a peer is: a row that describes itself, and helpers that keep its file small."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import Case

EXTRA = "make peers"


@dataclass(frozen=True, slots=True)
class Bound:
    """A call that is ready to be timed.

    Attributes
    ----------
    call : callable
        Computes the whole result anew, into memory that the peer provides.
    read : callable
        What `call` gave -> ndarray (B, Hq, Lq, D); never timed.
    around : callable
        Gives the context in which a turn of calls runs, such as a choice of backend.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Any]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def _accepts(case: Case, threads: int) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Peer:
    """One column of the table.

    Attributes
    ----------
    name : str
        As in ``--peers`` and in stored results.
    summary : str
        What is called.
    modules : tuple of str
        What is imported.
    dtypes : tuple of str
        Data types that it computes in on this device.
    bind : callable
        ``(case, q, k, v, threads) -> Bound``: everything that a user would do once.
    grouped : bool
        Whether groups of heads share keys natively; if not, `fold` does it.
    ours : bool
        Whether it is an implementation of fastattn.
    install : str
        How to get the modules.
    refuses : callable
        ``(case, threads) -> str | None``: the peer's own reason not to run.
    """

    name: str
    summary: str
    modules: tuple[str, ...]
    dtypes: tuple[str, ...]
    bind: Callable[[Case, Any, Any, Any, int], Bound]
    grouped: bool = True
    ours: bool = False
    install: str = EXTRA
    refuses: Callable[[Case, int], str | None] = field(default=_accepts)

    def missing(self, case: Case, threads: int) -> str | None:
        """Why this cannot run here; None if it can."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return f"{module} is not installed: {self.install}"
            except Exception as error:
                return f"{module} cannot be imported: {error}"
        reason = self.refuses(case, threads)
        if reason is not None:
            return reason
        if case.dtype not in self.dtypes:
            return f"has no {case.dtype}"
        if case.heads_q != case.heads_kv and case.causal and not self.grouped:
            return "has no causal mask for groups of heads"
        return None


def fold(q: Any, k: Any) -> Any:
    """Queries with the heads of a group as rows of one head: a view, without a copy of keys.

    Without a causal mask, a group of heads that share keys is one head with more queries.
    Peers that cannot share keys get this: it costs nothing, whereas repeating keys costs much.
    """
    batch, heads, _, dim = q.shape
    if heads == k.shape[1]:
        return q
    return q.reshape(batch, k.shape[1], -1, dim)


def owns_its_cpus(case: Case, threads: int) -> str | None:
    """Why a peer that counts CPUs for itself cannot run here: it would use another number."""
    if not hasattr(os, "sched_getaffinity"):
        return "its number of threads cannot be set on this system"
    usable = len(os.sched_getaffinity(0))
    return None if usable == threads else f"would use {usable} threads, not {threads}"
