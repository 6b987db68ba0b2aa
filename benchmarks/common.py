"""What every benchmark shares: shape tables, profiles, seeded inputs, the forced call.

The tables are append-only, and the names in them are part of a result's name: a value
that is renamed or moved loses its history.  Only the public face of fastattn is used,
and it is imported only when needed, so that the suite can be listed for every version.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

PROFILE_VARIABLE = "FASTATTN_BENCH_PROFILE"
PROGRESS_VARIABLE = "FASTATTN_BENCH_PROGRESS"  # a file that `run` reads while asv works
CPUS_VARIABLE = "FASTATTN_BENCH_CPUS"  # those `run` may use, before asv pins benchmarks to one

IMPLS = ("numpy", "numba", "cython")
DTYPES = ("float32", "float64", "float16", "bfloat16")
WIDE = DTYPES[:2]
DIMS = (64, 128, 256, 400, 512, 768, 1024)

# One thread against one thread: asv.conf.json sets this for BLAS, `bind` for the others.
THREADS = 1
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Keeps what was tuned on this machine from steering a measurement.
UNTUNED = {"FASTATTN_WISDOM": "off"}


@dataclass(frozen=True, slots=True)
class Case:
    """One problem: q (B, Hq, Lq, D), k and v (B, Hkv, Lk, D), and their data type.

    Attributes
    ----------
    causal : bool
        A query attends to the keys up to its own position.
    window : int or None
        A query attends to its own key and this many before it.
    blocks : int
        Keys and queries are cut into this many equal blocks, and a boolean mask lets a query
        see only the keys of its own block.
    """

    batch: int
    heads_q: int
    heads_kv: int
    length_q: int
    length_k: int
    dim: int
    causal: bool = False
    dtype: str = "float32"
    window: int | None = None
    blocks: int = 1

    def of(self, dtype: str) -> Case:
        """The same problem in another data type."""
        return replace(self, dtype=dtype)

    def without_masks(self) -> Case:
        """The same problem, every key seen."""
        return replace(self, causal=False, window=None, blocks=1)

    def seen(self, rows: Any) -> Any:
        """Keys that the queries `rows` see, as booleans (rows, Lk); None if they see all."""
        import numpy as np

        if self == self.without_masks():
            return None
        query, key = np.asarray(rows)[:, None], np.arange(self.length_k)
        if self.blocks > 1:
            return query * self.blocks // self.length_q == key * self.blocks // self.length_k
        oldest = 0 if self.window is None else query - self.window
        return (oldest <= key) & (key <= query)

    @property
    def itemsize(self) -> int:
        """Bytes of one number of q, k or v."""
        return {"float64": 8, "float32": 4}.get(self.dtype, 2)

    @property
    def scores_bytes(self) -> int:
        """Bytes of the score matrix, which only the numpy implementation holds."""
        itemsize = 8 if self.dtype == "float64" else 4
        return self.batch * self.heads_q * self.length_q * self.length_k * itemsize


def dim_case(dim: int, dtype: str) -> Case:
    """Case of the dim grid: q, k and v are dim x dim, one head."""
    return Case(1, 1, 1, dim, dim, dim, dtype=dtype)


WORKLOADS = {
    "small": Case(4, 2, 2, 100, 100, 32),
    "vit": Case(8, 12, 12, 197, 197, 64),
    "bert": Case(8, 12, 12, 384, 384, 64),
    "prefill-2k": Case(1, 8, 8, 2048, 2048, 64),
    "causal-2k": Case(1, 8, 8, 2048, 2048, 64, causal=True),
    "causal-4k": Case(1, 8, 8, 4096, 4096, 128, causal=True),
    "decode": Case(4, 32, 8, 1, 4096, 128),
}
# What is compared with the roofline: a case and its data type under one name.
REGIMES = {
    "dim-256": dim_case(256, "float32"),
    "dim-512": dim_case(512, "float32"),
    "dim-1024": dim_case(1024, "float32"),
    "small": WORKLOADS["small"],
    "bert": WORKLOADS["bert"],
    "prefill-2k": WORKLOADS["prefill-2k"],
    "prefill-2k-128": Case(1, 8, 8, 2048, 2048, 128),
    "causal-4k": WORKLOADS["causal-4k"],
    "decode": WORKLOADS["decode"],
    "decode-16k": Case(1, 8, 8, 1, 16384, 128),
    "dim-512-float64": dim_case(512, "float64"),
    "prefill-2k-float64": WORKLOADS["prefill-2k"].of("float64"),
    "prefill-2k-float16": WORKLOADS["prefill-2k"].of("float16"),
    "prefill-2k-bfloat16": WORKLOADS["prefill-2k"].of("bfloat16"),
    "decode-float16": WORKLOADS["decode"].of("float16"),
    "decode-bfloat16": WORKLOADS["decode"].of("bfloat16"),
    "decode-group-8": Case(2, 64, 8, 1, 4096, 128),
    "dim-1024-bfloat16": dim_case(1024, "bfloat16"),
    "bert-float16": WORKLOADS["bert"].of("float16"),
    "bert-bfloat16": WORKLOADS["bert"].of("bfloat16"),
    "causal-4k-bfloat16": WORKLOADS["causal-4k"].of("bfloat16"),
}
# Most keys masked: compared with the roofline, and with the same call without a mask.
MASKED = {
    "blocks-2k": Case(1, 8, 8, 2048, 2048, 64, blocks=8),
    "window-4k": Case(1, 8, 8, 4096, 4096, 64, window=255),
    "causal-2k": WORKLOADS["causal-2k"],
}
# Compared with NumPy: calls so short that one process can take many turns with it.
HISTORY = {
    "dim-256": REGIMES["dim-256"],
    "dim-512": REGIMES["dim-512"],
    "dim-1024": REGIMES["dim-1024"],
    "prefill-head": Case(1, 1, 1, 512, 2048, 128),
    "decode": REGIMES["decode"],
}
LONG = {"long-16k": Case(1, 1, 1, 16384, 16384, 64)}  # for memory only: its scores take 1 GiB
SMALLEST = Case(1, 1, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is measured; never what a number means.

    Attributes
    ----------
    dims, workloads, workload_dtypes, memory : tuple
        Which rows of the tables are measured; dims in all data types.
    sixteen_bit : tuple
        Dims and workloads that are measured in the 16-bit types.
    rounds : int
        Fresh processes for each case: the unit of the statistics.
    repetitions : int
        Turns that each implementation gets in a process, if `budget_seconds` allows.
    block_seconds : float
        Calls are repeated until a turn lasts this long.
    budget_seconds : float
        Time after which the turns of a process end, but not before three repetitions.
    regimes, masked : tuple of str
        Rows that are compared with the roofline.
    history : tuple of str
        Rows that are compared with NumPy.
    history_rounds : int
        Processes for each of these rows: as many as a noise of 1 % requires.
    tuned : tuple of int
        Dims that the tuner searches.
    imports : int
        Fresh interpreters for each module that is imported.
    compiled : tuple of str
        Data types for which Numba's compiler is timed.
    """

    dims: tuple[int, ...]
    sixteen_bit: tuple[int | str, ...]
    workloads: tuple[str, ...]
    workload_dtypes: tuple[str, ...]
    memory: tuple[str, ...]
    rounds: int
    repetitions: int
    block_seconds: float
    budget_seconds: float
    imports: int
    compiled: tuple[str, ...]
    regimes: tuple[str, ...]
    masked: tuple[str, ...]
    history: tuple[str, ...]
    history_rounds: int
    tuned: tuple[int, ...]

    def cells(self, names: Sequence[Any], dtypes: Sequence[str]) -> list[tuple[Any, str]]:
        """Names of cases, each with its data types."""
        return [(n, t) for n in names for t in dtypes if t in WIDE or n in self.sixteen_bit]


_ALL = tuple(WORKLOADS)
# Without causal-4k: its score matrix takes 512 MiB, and NumPy alone takes half a minute.
_SHORT = tuple(name for name in WORKLOADS if name != "causal-4k")
PROFILES = {
    "smoke": Profile(
        dims=(64,),
        sixteen_bit=(64,),
        workloads=("small",),
        workload_dtypes=("float32",),
        memory=("small",),
        rounds=2,
        repetitions=6,
        block_seconds=0.001,
        budget_seconds=0.1,
        imports=3,
        compiled=("float32",),
        regimes=("small",),
        masked=("blocks-2k",),
        history=("dim-256",),
        history_rounds=2,
        tuned=(64,),
    ),
    "standard": Profile(
        dims=DIMS,
        sixteen_bit=(64, 512, "prefill-2k"),
        workloads=_SHORT,
        workload_dtypes=("float32", "float16", "bfloat16"),
        memory=("small", "bert", "prefill-2k", "decode", "long-16k"),
        rounds=2,
        repetitions=18,
        block_seconds=0.002,
        budget_seconds=1.5,
        imports=15,
        compiled=("float32",),
        regimes=tuple(REGIMES),
        masked=tuple(MASKED),
        history=tuple(HISTORY),
        history_rounds=12,
        tuned=DIMS[:5],
    ),
}
PROFILES["full"] = replace(
    PROFILES["standard"],
    sixteen_bit=(*DIMS, *_ALL),
    workloads=_ALL,
    workload_dtypes=DTYPES,
    memory=(*_ALL, *LONG),
    rounds=9,
    repetitions=30,
    budget_seconds=6.0,
    imports=45,
    compiled=WIDE,
    tuned=DIMS,
)


def profile() -> Profile:
    """Profile that the environment names, or "standard" if it names none."""
    name = os.environ.get(PROFILE_VARIABLE) or "standard"
    if name not in PROFILES:
        raise ValueError(f"{PROFILE_VARIABLE}={name!r}: accepted are {', '.join(PROFILES)}")
    return PROFILES[name]


_F = TypeVar("_F", bound=Callable[..., Any])


def benchmark(**attributes: Hashable) -> Callable[[_F], _F]:
    """Give a benchmark its asv attributes; `version` is one of them.

    Without a version, asv hashes the source of the function: tidying the function would then
    erase its history, whereas a change of method elsewhere would not.
    """
    if "version" not in attributes:
        raise TypeError("a benchmark needs an explicit version")

    def decorate(function: _F) -> _F:
        for name, value in attributes.items():
            setattr(function, name, value)
        return function

    return decorate


def missing(case: Case, impl: str) -> str | None:
    """Why this combination cannot run here; None if it can."""
    import fastattn

    reason = fastattn.implementations().get(impl, "this version does not have it")
    if reason is None and case.dtype == "bfloat16" and find_spec("ml_dtypes") is None:
        reason = "bfloat16 needs ml_dtypes"
    if reason is None and impl == "numpy":
        # The scores, their mask's complement and what BLAS and ufuncs hold beside them.
        needed, free = 3 * case.scores_bytes, _free_bytes()
        if free is not None and needed > free:
            reason = f"needs about {needed >> 20} MiB for the scores, {free >> 20} MiB are free"
    return reason


def _free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = meminfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable")), None)


def dtype_of(case: Case) -> Any:
    """NumPy's data type of a case."""
    import numpy as np

    if case.dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(case.dtype)


@functools.cache
def inputs(case: Case) -> tuple[Any, Any, Any]:
    """Q, k and v of a case: standard normal, the same in every process and version."""
    import numpy as np

    rng = np.random.default_rng([case.length_q, case.length_k, case.dim])
    dtype = dtype_of(case)
    drawn = np.float32 if case.itemsize < 4 else dtype
    of_q = (case.batch, case.heads_q, case.length_q, case.dim)
    of_k = (case.batch, case.heads_kv, case.length_k, case.dim)
    q, k, v = (
        rng.standard_normal(shape, dtype=drawn).astype(dtype, copy=False)
        for shape in (of_q, of_k, of_k)
    )
    return q, k, v


def bind(case: Case, impl: str, threads: int = THREADS, **fields: Any) -> Callable[[], Any]:
    """Bind the public call of a case to an implementation and a number of threads.

    `fields` are further fields of its `Config`.

    Raises
    ------
    RuntimeError
        BLAS may use more threads than `THREADS`, so its times would not be comparable.
    """
    import fastattn

    for name in BLAS_VARIABLES:
        if os.environ.get(name) != str(THREADS):
            raise RuntimeError(f"set {name}={THREADS}, as asv.conf.json does")
    config = None if impl == "numpy" else fastattn.Config(threads=threads, **fields)
    arguments: dict[str, Any] = {"causal": case.causal, "impl": impl, "config": config}
    if case.window is not None:
        arguments["window"] = (case.window, 0)
    if case.blocks > 1:
        arguments["mask"] = case.seen(range(case.length_q))
    return functools.partial(fastattn.attention, *inputs(case), **arguments)


def skip(reason: str) -> Exception:
    """Make a skip for a benchmark to raise; asv shows the reason and stores NaN."""
    from asv_runner.benchmarks.mark import SkipNotImplemented

    print(f"skipped: {reason}")
    error: Exception = SkipNotImplemented(reason)
    return error


def progress(text: str) -> None:
    """Tell `run` what is being done, since asv keeps a benchmark's own output to itself."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(text + "\n")
