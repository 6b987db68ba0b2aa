from collections.abc import Sequence

import numpy as np

OPERATIONS: dict[str, int]

def isas() -> list[tuple[str, str | None]]: ...
def kernel_types(index: int) -> dict[str, tuple[int, ...]]: ...
def best_isa(
    operation: str, dtype: int, rows: int, keys: int, dim: int, dim_v: int
) -> int | None: ...
def tile(index: int, operation: str, dtype: int) -> tuple[int, int, int, int, int]: ...

OPENMP: bool
FEW_ITEMS: int

def work_items(
    batch: int,
    heads_kv: int,
    rows: int,
    keys: int,
    block_q: int,
    keys_per_split: int,
    threads: int,
) -> int: ...
def roofline(
    index: int,
    threads: int,
    cpus: int,
    openmp: bool,
    repetitions: int,
    window_seconds: float,
    stream_bytes: int,
    cached_bytes: int,
) -> tuple[float, float, float, float] | None: ...

class Runner:
    def __init__(
        self,
        index: int,
        dtype: int,
        batch_shape: Sequence[int],
        heads_q: int,
        heads_kv: int,
        length_q: int,
        length_k: int,
        dim: int,
        dim_v: int,
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        block_q: int,
        block_k: int,
        keys_per_split: int,
        threads: int,
        cpus: int,
        openmp: bool,
    ) -> None: ...
    def run(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        out: np.ndarray,
        lse: np.ndarray | None,
        mask: np.ndarray | None,
        offsets: np.ndarray | None,
        lengths: np.ndarray | None,
        sinks: np.ndarray | None,
    ) -> None: ...
