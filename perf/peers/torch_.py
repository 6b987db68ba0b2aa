"""PyTorch: SDPA as called, its backends by name, and what people write by hand.

Tensors share the arrays' memory (for a GPU they are copied beforehand).  Turns run in
inference mode, which is the cheapest way to call torch.

``torch.nn.MultiheadAttention`` has two cores.  With ``need_weights=False`` it calls SDPA,
which is the row `torch-sdpa`.  With ``need_weights=True``, the default, it scales the queries and
runs ``bmm`` (``baddbmm`` with a mask), ``softmax`` and ``bmm`` over (B * H, L, D): that is
`torch-mha`.  Both leave out the projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.common import Case
from perf.peers.peer import Bound, Peer, fold

ALL = ("float32", "float64", "float16", "bfloat16")
HALVES = ("float16", "bfloat16")
ACCELERATOR = "cuda"


def tensor(array: Any, device: str = "cpu") -> Any:
    """Tensor of an array: the same memory, or a copy on another device."""
    import numpy as np
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def _read(case: Case) -> Callable[[Any], Any]:
    """Result on any device, heads folded or not -> ndarray (B, Hq, Lq, D)."""

    def read(result: Any) -> Any:
        import torch

        result = result.cpu()
        if result.dtype == torch.bfloat16:  # float32 holds it exactly, and NumPy has that type
            result = result.float()
        return result.numpy().reshape(case.batch, case.heads_q, case.length_q, case.dim)

    return read


def _inside(backend: str | None) -> Callable[[], Any]:
    """The context of a turn: inference mode, and the backend if one is named."""

    @contextmanager
    def around() -> Iterator[None]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with torch.inference_mode():
            if backend is None:
                yield
            else:
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    yield

    return around


def _sdpa(backend: str | None, device: str, grouped: bool = True) -> Callable[..., Bound]:
    def bind(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
        import torch

        torch.set_num_threads(threads)
        attention = torch.nn.functional.scaled_dot_product_attention
        shares = grouped and case.heads_q != case.heads_kv
        q = q if grouped else fold(q, k)
        q, k, v = (tensor(array, device) for array in (q, k, v))

        def call() -> Any:
            return attention(q, k, v, is_causal=case.causal, enable_gqa=shares)

        return Bound(_finished(call, device), _read(case), _inside(backend))

    return bind


def _finished(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call and, on a device that works asynchronously, the wait for its end."""
    if device == "cpu":
        return call

    def waits() -> Any:
        import torch

        result = call()
        torch.cuda.synchronize()
        return result

    return waits


def _hand(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import torch

    torch.set_num_threads(threads)
    q, k, v = (tensor(array) for array in (fold(q, k), k, v))
    keys, root, mask = k.transpose(-2, -1), math.sqrt(case.dim), _mask(case, q)

    def call() -> Any:
        weights = torch.matmul(q, keys) / root
        if mask is not None:
            weights = weights + mask
        weights = torch.softmax(weights, dim=-1, dtype=_wide(q)).to(q.dtype)
        return torch.matmul(weights, v)

    return Bound(call, _read(case), _inside(None))


def _multihead(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import torch

    torch.set_num_threads(threads)
    q, k, v = (tensor(array) for array in (fold(q, k), k, v))
    q, k, v = (x.reshape(-1, x.shape[-2], x.shape[-1]) for x in (q, k, v))
    keys, factor, mask = k.transpose(-2, -1), math.sqrt(1.0 / case.dim), _mask(case, q)

    def call() -> Any:
        scaled = q * factor
        weights = torch.bmm(scaled, keys) if mask is None else torch.baddbmm(mask, scaled, keys)
        return torch.bmm(torch.softmax(weights, dim=-1), v)

    return Bound(call, _read(case), _inside(None))


def _mask(case: Case, q: Any) -> Any:
    """Causal mask to be added, made once; None for a case without one."""
    import torch

    if not case.causal:
        return None
    full = torch.full((case.length_q, case.length_k), -math.inf, dtype=q.dtype)
    return full.triu(1)


def _wide(q: Any) -> Any:
    """Type of the softmax: at least float32, as in transformers' models."""
    import torch

    return torch.promote_types(q.dtype, torch.float32)


def _already_chosen(backend: str) -> Callable[[Case, int], str | None]:
    """Refuse a backend that SDPA chooses by itself: it is timed as `torch-sdpa`."""

    def refuses(case: Case, threads: int) -> str | None:
        chosen = chosen_backend(case)
        return f"is what torch-sdpa chooses ({chosen})" if chosen == backend else None

    return refuses


def chosen_backend(case: Case) -> str:
    """Name of the backend that SDPA chooses on the CPU."""
    import torch
    from torch.nn.attention import SDPBackend

    dtype = getattr(torch, case.dtype)
    of_q = (case.batch, case.heads_q, case.length_q, case.dim)
    of_k = (case.batch, case.heads_kv, case.length_k, case.dim)
    q, k = torch.empty(of_q, dtype=dtype), torch.empty(of_k, dtype=dtype)
    grouped = case.heads_q != case.heads_kv
    number = torch._fused_sdp_choice(q, k, k, is_causal=case.causal, enable_gqa=grouped)
    members: dict[str, Any] = dict(SDPBackend.__members__)
    names = {int(backend): name for name, backend in members.items()}
    return names.get(int(number), str(number))


def _no_device(case: Case, threads: int) -> str | None:
    import torch

    return None if torch.cuda.is_available() else "this machine has no CUDA device"


PEERS = (
    Peer("torch-sdpa", "scaled_dot_product_attention", ("torch",), ALL, _sdpa(None, "cpu")),
    *(
        Peer(
            f"torch-{name}",
            f"scaled_dot_product_attention, backend {backend}",
            ("torch",),
            ALL,
            _sdpa(backend, "cpu"),
            refuses=_already_chosen(backend),
        )
        for name, backend in (("flash", "FLASH_ATTENTION"), ("math", "MATH"))
    ),
    Peer("torch-hand", "softmax(Q K^T / sqrt(D)) V, by hand", ("torch",), ALL, _hand, False),
    Peer("torch-mha", "core of nn.MultiheadAttention", ("torch",), ALL, _multihead, False),
    *(
        Peer(
            f"cuda-{name}",
            f"scaled_dot_product_attention on the GPU, backend {backend}",
            ("torch",),
            dtypes,
            _sdpa(backend, ACCELERATOR, grouped),
            grouped,
            refuses=_no_device,
        )
        for name, backend, dtypes, grouped in (
            ("flash", "FLASH_ATTENTION", HALVES, True),
            ("efficient", "EFFICIENT_ATTENTION", ("float32", *HALVES), False),
            ("cudnn", "CUDNN_ATTENTION", HALVES, True),
            ("math", "MATH", ALL, True),
        )
    ),
)
