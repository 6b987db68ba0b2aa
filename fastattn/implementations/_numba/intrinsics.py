"""How a Numba intrinsic is written here, and the small ones: memory, tables, counts.

Purpose: `written_intrinsic`, loads and stores at byte addresses, the numbers of a call
(`shape`).
Non-goals: arithmetic (`tiles`, `rows`).

Every intrinsic takes `like` first, a float32 or float64 of any value: its type is the
compute type, and the kernel is compiled once for each.  Addresses, strides and counts are
int64; strides are in bytes.  A parameter annotated ``int`` or ``str`` is a compile-time
constant; names are those of `shape`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastattn.implementations._numba import shape
from fastattn.implementations._numba.ir import (
    LANES_BYTES,
    TILE_VECTORS,
    Emitter,
    Num,
    float_type,
    itemsize,
    lanes,
)

__all__ = [
    "batch_table",
    "claim",
    "clamp",
    "data_address",
    "field",
    "fill",
    "inlined",
    "item_bytes",
    "jitted",
    "lane_count",
    "lane_row",
    "load_float",
    "load_word",
    "panel_cell",
    "panel_width",
    "peek",
    "place_of",
    "row_table",
    "state_row",
    "store_float",
    "store_word",
    "used_vectors",
    "written_intrinsic",
]

_WORD = ir.IntType(64)
OBJECT_HEADER = object.__basicsize__

jitted: Callable[..., Any] = functools.partial(
    numba.njit,
    nogil=True,
    error_model="numpy",
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
"""Decorator of compiled functions that only compiled ones call; division by 0 is not tested for."""

inlined: Callable[..., Any] = functools.partial(jitted, inline="always")
"""The same for what is called in one place only: LLVM does not optimise it on its own first."""


def written_intrinsic(returns: str) -> Callable[[Callable[..., Num | None]], Any]:
    """Make a Numba intrinsic from ``body(emit, element, *parameters)``.

    Parameters
    ----------
    returns : {"nothing", "word", "float"}
        What `body` returns: None, an int64, or a number of the compute type.
    """

    def decorate(body: Callable[..., Num | None]) -> Any:
        parameters = list(inspect.signature(body).parameters.values())[2:]
        static = [parameter.annotation in ("int", "str") for parameter in parameters]

        def typer(_context: Any, like: Any, *given: Any) -> Any:
            if not all(
                isinstance(kind, types.Literal) or not constant
                for kind, constant in zip(given, static, strict=True)
            ):
                return None  # Numba asks again without literals where these do not fit
            kinds: list[Any] = [
                kind if constant else like if isinstance(kind, types.Float) else types.int64
                for kind, constant in zip(given, static, strict=True)
            ]
            result = {"nothing": types.void, "word": types.int64, "float": like}[returns]

            def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                emit = Emitter(builder)
                numbers = [
                    kind.literal_value if constant else emit.number(value)
                    for kind, constant, value in zip(kinds, static, values[1:], strict=True)
                ]
                produced = body(emit, float_type(like), *numbers)
                return context.get_dummy_value() if produced is None else produced.ir

            return result(like, *kinds), generate

        names = ["context", "like", *(parameter.name for parameter in parameters)]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in names]
        )
        typer.__name__, typer.__doc__ = body.__name__, body.__doc__
        return intrinsic(prefer_literal=True)(typer)

    return decorate


@written_intrinsic("word")
def lane_count(emit: Emitter, element: ir.Type) -> Num:
    """Numbers in one SIMD register."""
    return emit.index(lanes(element))


@written_intrinsic("word")
def panel_width(emit: Emitter, element: ir.Type) -> Num:
    """Queries in a panel."""
    return emit.index(TILE_VECTORS * lanes(element))


@written_intrinsic("word")
def used_vectors(emit: Emitter, element: ir.Type, rows: Num, panel: Num) -> Num:
    """Registers of a panel that hold some of the block's rows: 1 or 2."""
    left = rows - panel * (TILE_VECTORS * lanes(element))
    return emit.index(2).where(left > lanes(element), 1)


@written_intrinsic("word")
def clamp(emit: Emitter, element: ir.Type, value: Num, low: Num, high: Num) -> Num:
    """The number in [low, high] nearest to `value`."""
    return value.at_least(low).at_most(high)


@written_intrinsic("word")
def item_bytes(emit: Emitter, element: ir.Type) -> Num:
    """Bytes of a number of the compute type."""
    return emit.index(itemsize(element))


@written_intrinsic("word")
def load_word(emit: Emitter, element: ir.Type, address: Num) -> Num:
    """The int64 at an address."""
    return emit.load(address, _WORD)


@written_intrinsic("nothing")
def store_word(emit: Emitter, element: ir.Type, address: Num, value: Num) -> None:
    """Write an int64."""
    emit.store(value, address)


@written_intrinsic("float")
def load_float(emit: Emitter, element: ir.Type, address: Num) -> Num:
    """The number at an address."""
    return emit.load(address, element)


@written_intrinsic("nothing")
def store_float(emit: Emitter, element: ir.Type, address: Num, value: Num) -> None:
    """Write a number; `value` is of the compute type."""
    emit.store(value, address)


@written_intrinsic("word")
def data_address(emit: Emitter, element: ir.Type, identity: Num) -> Num:
    """Address of the data of the ndarray whose ``id`` is given.

    In NumPy's binary interface an array object is a Python object's header followed by the
    data pointer (``PyArrayObject_fields``, numpy/ndarraytypes.h).
    """
    return emit.load(identity + OBJECT_HEADER, _WORD)


@written_intrinsic("word")
def claim(emit: Emitter, element: ir.Type, counter: Num) -> Num:
    """Add 1 to the int64 at an address, atomically; return its value before.

    A thread that reads a number sees what was written before that number was claimed.
    """
    pointer = emit.builder.inttoptr(counter.ir, _WORD.as_pointer())
    return emit.number(emit.builder.atomic_rmw("add", pointer, _WORD(1), "acq_rel"))


@written_intrinsic("word")
def peek(emit: Emitter, element: ir.Type, counter: Num) -> Num:
    """The int64 at an address, as other threads' `claim` has left it."""
    pointer = emit.builder.inttoptr(counter.ir, _WORD.as_pointer())
    return emit.number(emit.builder.load_atomic(pointer, "acquire", 8))


def _word(emit: Emitter, table: Num, name: str) -> Num:
    return emit.load(table + 8 * shape.TABLE.index(name), _WORD)


@written_intrinsic("word")
def field(emit: Emitter, element: ir.Type, table: Num, name: str) -> Num:
    """A number of the call's table."""
    return _word(emit, table, name)


@written_intrinsic("word")
def place_of(emit: Emitter, element: ir.Type, table: Num, name: str) -> Num:
    """Address of a number of the call's table."""
    return table + 8 * shape.TABLE.index(name)


@written_intrinsic("word")
def batch_table(emit: Emitter, element: ir.Type, table: Num) -> Num:
    """Address of the batch axes in the call's table."""
    return table + 8 * len(shape.TABLE)


@written_intrinsic("word")
def row_table(emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str) -> Num:
    """Address of one of the tables in `ROW_TABLE`."""
    skipped = _word(emit, table, "ROW_TABLE_BYTES") * shape.ROW_TABLE.index(name)
    return arena + _word(emit, table, "ROW_TABLES") + skipped


@written_intrinsic("word")
def state_row(
    emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str, panel: Num
) -> Num:
    """Address of a panel's part of one of the rows in `STATE_ROW`."""
    skipped = _word(emit, table, "ROW_TABLE_BYTES") * shape.STATE_ROW.index(name)
    row = arena + _word(emit, table, "STATE") + skipped
    return row + panel * (TILE_VECTORS * LANES_BYTES)


@written_intrinsic("word")
def lane_row(emit: Emitter, element: ir.Type, table: Num, arena: Num, name: str) -> Num:
    """Address of one of the rows in `LANE_ROW`."""
    row = arena + _word(emit, table, "LANES")
    return row + shape.LANE_ROW.index(name) * TILE_VECTORS * LANES_BYTES


@written_intrinsic("word")
def panel_cell(
    emit: Emitter, element: ir.Type, table: Num, arena: Num, panel: Num, name: str
) -> Num:
    """Address of one of a panel's cells in `PANEL_CELL`."""
    cells = shape.PANEL_CELL
    cell = panel * (8 * len(cells)) + 8 * cells.index(name)
    return arena + _word(emit, table, "PANEL_TABLE") + cell


@written_intrinsic("nothing")
def fill(emit: Emitter, element: ir.Type, address: Num, vectors: Num, value: Num) -> None:
    """Set `vectors` whole registers' worth of numbers to `value`."""
    count = lanes(element)
    spread = emit.spread(value, count)
    with emit.loop(vectors) as i:
        emit.store(spread, address + i * (count * itemsize(element)))
