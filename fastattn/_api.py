"""The public call, and its explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

from numpy import ndarray

from fastattn._config import Config
from fastattn._errors import UnavailableError
from fastattn._interop import as_ndarrays
from fastattn._normalise import normalise
from fastattn._plan import Explanation, explain_plan, plan, plan_anew

__all__ = ["attention", "explain"]


class _Sharing(Protocol):
    """An array of NumPy or of another library."""

    @property
    def __dlpack__(self) -> Callable[..., Any]: ...


_Array = TypeVar("_Array", bound=_Sharing)
_Window: TypeAlias = "tuple[int | None, int | None] | None"
_Align: TypeAlias = Literal["top_left", "bottom_right"] | int | _Sharing | None
_Impl: TypeAlias = Literal["auto", "cython", "numba", "numpy"]


class _Options(TypedDict, total=False):
    """Keywords that the overloads of `attention` share."""

    mask: _Sharing | None
    causal: bool
    window: _Window
    align: _Align
    scale: float | None
    softcap: float | None
    kv_lengths: int | _Sharing | None
    sinks: _Sharing | None
    out: _Sharing | None
    impl: _Impl
    config: Config | None


@overload
def attention(
    q: _Array,
    k: _Array,
    v: _Array,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[_Options],
) -> _Array: ...
@overload
def attention(
    q: _Array, k: _Array, v: _Array, *, return_lse: Literal[True], **options: Unpack[_Options]
) -> tuple[_Array, _Array]: ...
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    causal: bool = False,
    window: _Window = None,
    align: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: Any = None,
    sinks: Any = None,
    return_lse: bool = False,
    out: Any = None,
    impl: _Impl = "auto",
    config: Config | None = None,
) -> Any:
    r"""Exact scaled-dot-product attention, ``softmax(scale * q k^T) v``.

    The scores ``q k^T`` are multiplied by `scale` and then capped by `softcap`.  Then `mask`,
    `causal`, `window` and `kv_lengths` mask keys; a floating `mask` is added.  At the end comes the
    softmax over the keys, to whose denominator `sinks` contribute.

    Axes: ``...`` are any number of batch axes, Hq and Hkv the heads of queries and of keys and
    values, Lq and Lk the numbers of queries and of keys, D and Dv the features of a key and of a
    value.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries.  2-D ``(Lq, D)`` and 3-D ``(Hq, Lq, D)`` are accepted too.  Data type float32,
        float64, float16 or bfloat16 (``ml_dtypes``), the same for q, k and v.  Any strides: a view
        is read in place.  All arrays of a call belong to one library, and so do the results: NumPy,
        PyTorch, JAX or any other that shares memory on the CPU through DLPack.
    k : array, (..., Hkv, Lk, D)
        Keys.  Hq is a multiple of Hkv (grouped-query attention: query head h reads
        key head ``h // (Hq // Hkv)``).  The batch axes of q, k and v broadcast as in NumPy.
    v : array, (..., Hkv, Lk, Dv)
        Values; Dv may differ from D.
    mask : array, optional
        Broadcastable to (..., Hq, Lq, Lk).  A boolean mask is True where a query may attend
        to a key.  A floating mask, of q's data type or float32, is added to the scores; in it only
        -inf masks a key, and ``finfo.min`` does not.
    causal : bool, default False
        Query i attends to key j only if ``j <= i + offset``; see `align`.
    window : (int or None, int or None), optional
        (left, right), each from 0 up: query i attends to keys ``i + offset - left`` to
        ``i + offset + right``, both included; None for no limit on that side.
    align : {"top_left", "bottom_right"} or int or array of int, optional
        The offset of a causal mask or window, which is the key position of query 0.
        "top_left" is offset 0; "bottom_right" is offset ``Lk - Lq``, or ``kv_lengths - Lq``
        if `kv_lengths` is given.  An integer is the offset itself, an array of integers
        (broadcastable to the batch axes) has one for each batch entry.  Required with `causal` or
        `window` if Lq != Lk::

            Lq = 3, Lk = 5        "top_left"          "bottom_right"
                                  1 0 0 0 0           1 1 1 0 0
                                  1 1 0 0 0           1 1 1 1 0
                                  1 1 1 0 0           1 1 1 1 1

    scale : float, optional
        Factor of the scores; default ``1 / sqrt(D)``.
    softcap : float, optional
        Above 0.  Replaces each score s by ``softcap * tanh(s / softcap)``.
    kv_lengths : int or array of int, optional
        Number of valid keys, 0 to Lk; broadcastable to the batch axes.  Later keys are masked.
    sinks : array, (Hq,), optional
        Extra logits, one for each query head, in q's data type or float32.  ``exp(sink)`` is added
        to the denominator of the softmax, so that the weights of a row sum to less than 1.
    return_lse : bool, default False
        Also return the log-sum-exp.
    out : array, (..., Hq, Lq, Dv), optional
        Array to write the result to, in q's data type; must not overlap an input.
    impl : {"auto", "cython", "numba", "numpy"}, default "auto"
        Implementation.  "auto" is the one that was tuned for such calls, or else the first that
        can run on this machine and supports the call.
    config : Config, optional
        Block sizes, threads and instruction set.  With None, they are those that were tuned for
        such calls on this machine (see `fastattn.tune`), or else the defaults.

    Returns
    -------
    out : array, (..., Hq, Lq, Dv)
        In q's data type; (Lq, Dv) for 2-D inputs.
    lse : array, (..., Hq, Lq)
        Only with `return_lse`: natural logarithm of the sum of the exponentials of the
        visible scores, without the sinks; float64 for float64 inputs, else float32.

    Raises
    ------
    ShapeError, ArgumentError, OutputError, ConfigError
        Shapes do not fit together, a value is out of range, `out` cannot take the result, or a
        field of `config` does not apply.  They derive from ValueError.
    DTypeError, ArgumentTypeError
        An array or an argument has a type that is not accepted.  They derive from TypeError.
    UnavailableError
        `impl` or the instruction set cannot compute this call on this machine.  It derives from
        RuntimeError.
    MemoryError
        The result or the working memory cannot be allocated.

    Notes
    -----
    All errors but MemoryError derive from `FastattnError`.  After an error nothing was computed
    and `out` is unchanged.

    A row of the result belongs to one query of one head.  A row without visible keys gives zeros,
    and lse = -inf.  NaN or infinity in a masked key or value never reaches the result; in a
    visible one it affects only the rows that attend to it.  A row does not depend on which other
    rows or batch entries are computed with it (for a given `config`; with ``impl="numpy"`` only as
    far as that holds for BLAS).

    16-bit types are computed in float32 and rounded once.  The error against exact arithmetic is
    at most twice that of the plain three-step computation (scores, softmax, weighted sum) in the
    same type, plus a few ulp of max |v|, because the plain computation can be exact by accident on
    tiny problems.  Weighted values are summed first and divided by the softmax's sum afterwards,
    as in [3]_, so values above the compute type's largest number divided by Lk may overflow.

    Time is O(Hq Lq Lk (D + Dv)) for each batch entry, less the tiles that `causal`, `window`,
    `kv_lengths` or `mask` mask completely.  Memory beyond inputs and result is, for "cython" and
    "numba", O(threads * (block_q + block_k) * (D + Dv)) and, if the keys are split, a partial
    result for each split; for "numpy", O(B Hq Lq Lk) and copies of 16-bit keys and values, where B
    is the number of batch entries.

    The GIL is released while "cython" and "numba" compute.

    See Also
    --------
    explain : how a call would be computed, and why
    tune : measure which configuration is fastest for a shape

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1.
    .. [2] Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
       arXiv:1805.02867, algorithm 3.
    .. [3] Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastattn
    >>> rng = np.random.default_rng(0)
    >>> q = rng.standard_normal((2, 8, 100, 64), dtype=np.float32)  # batch, heads, L, D
    >>> k, v = rng.standard_normal((2, 2, 2, 100, 64), dtype=np.float32)  # 2 key heads
    >>> fastattn.attention(q, k, v, causal=True).shape
    (2, 8, 100, 64)
    """
    if not type(q) is type(k) is type(v) is ndarray:
        library, arguments = as_ndarrays(**locals())  # the parameters: nothing else is local yet
        return library.answer(attention(**arguments), q, out)
    problem = normalise(
        q, k, v, mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse, out
    )
    chosen = plan(problem.spec, impl, config)
    try:
        chosen.run(problem)
    except UnavailableError:
        if impl != "auto":
            raise
        plan_anew(problem.spec, config).run(problem)
    return problem.out if problem.lse is None else (problem.out, problem.lse)


def explain(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    causal: bool = False,
    window: _Window = None,
    align: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    kv_lengths: Any = None,
    sinks: Any = None,
    return_lse: bool = False,
    out: Any = None,
    impl: _Impl = "auto",
    config: Config | None = None,
) -> Explanation:
    """Show how `attention` would compute a call, without computing it.

    Parameters
    ----------
    q, k, v : array
        As for `attention`, and checked in the same way; their contents are not read.
    mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse, out, impl, config
        As for `attention`, and checked in the same way.

    Returns
    -------
    Explanation
        Implementation, configuration and the reasons; ``print`` shows it as text.

    Raises
    ------
    FastattnError
        As for `attention`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastattn
    >>> x = np.zeros((64, 64), np.float32)
    >>> fastattn.explain(x, x, x, impl="numpy").impl
    'numpy'
    """
    if not type(q) is type(k) is type(v) is ndarray:
        _, arguments = as_ndarrays(**locals())
        return explain(**arguments)
    problem = normalise(
        q, k, v, mask, causal, window, align, scale, softcap, kv_lengths, sinks, return_lse, out
    )
    return explain_plan(problem.spec, impl, config)
