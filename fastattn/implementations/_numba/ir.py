"""LLVM IR in arithmetic notation: what the Numba kernel's intrinsics are written in.

Purpose: `Num`, a float, an integer or a SIMD vector of either with Python's operators;
loads and stores at byte addresses, loops, selects; the facts about the processor that
code is generated for (`LANES_BYTES`, `TILE_ROWS`).
Non-goals: attention.  Nothing here knows about queries or keys.

The same Python function emits the scalar and the vector form of a formula, since a
constant takes the type of the value that it is combined with.  No fast-math flag is ever set:
infinities and NaN are data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

__all__ = [
    "LANES_BYTES",
    "TILE_ROWS",
    "TILE_VECTORS",
    "Emitter",
    "Num",
    "float_type",
    "itemsize",
    "lanes",
]

# What Numba generates code for: the host, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say
# otherwise.  The same strings key Numba's cache on disk, so a cached kernel never meets a
# processor for which other sizes would have been chosen.
_TRIPLE, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()
_FEATURE_SET = frozenset(_FEATURES.split(","))
_X86 = _TRIPLE.startswith(("x86_64", "i686"))
_WIDE = "+avx512f" in _FEATURE_SET

LANES_BYTES: int = 64 if _WIDE else 32 if "+avx2" in _FEATURE_SET else 16
"""Bytes of one SIMD register."""

TILE_VECTORS = 2
"""Registers side by side in a tile: the panel is this many registers of queries wide."""

TILE_ROWS: int = 8 if _WIDE or not _X86 else 6
"""Rows of a tile.  6 * 2 accumulators, 2 vectors and 1 broadcast fill 15 of AVX2's 16
registers (Van Zee and van de Geijn, "BLIS", 2015, section 3: 6 x 16 on Haswell); 8 * 2 + 3
fit 32 registers; the addresses of 8 rows take as many general ones."""

_BYTE_BITS = 8
_INDEX = ir.IntType(64)


def float_type(numba_type: types.Float) -> ir.Type:
    """LLVM type of Numba's float32 or float64."""
    return ir.FloatType() if numba_type.bitwidth == 32 else ir.DoubleType()


def itemsize(element: ir.Type) -> int:
    """Bytes of a scalar LLVM type."""
    if isinstance(element, ir.IntType):
        return int(element.width) // _BYTE_BITS
    return 4 if element == ir.FloatType() else 8


def lanes(element: ir.Type) -> int:
    """Elements of that type in one SIMD register."""
    return LANES_BYTES // itemsize(element)


class Num:
    """A scalar or vector LLVM value; operators emit the instruction for its type.

    Integers are unsigned in comparisons and right shifts, except that 64-bit scalars, which
    are addresses and counts, are compared as signed.
    """

    __slots__ = ("emit", "ir")

    def __init__(self, emit: Emitter, value: ir.Value) -> None:
        self.emit, self.ir = emit, value

    @property
    def element(self) -> ir.Type:
        """Scalar type."""
        return self.ir.type.element if isinstance(self.ir.type, ir.VectorType) else self.ir.type

    @property
    def count(self) -> int:
        """Elements of a vector; 1 for a scalar."""
        return self.ir.type.count if isinstance(self.ir.type, ir.VectorType) else 1

    def like(self, constant: Any) -> Num:
        """A number as a constant of this type (all lanes alike); a `Num` as it is."""
        if isinstance(constant, Num):
            return constant
        if isinstance(self.ir.type, ir.VectorType):
            return Num(self.emit, ir.Constant(self.ir.type, [constant] * self.count))
        return Num(self.emit, ir.Constant(self.ir.type, constant))

    def typed(self, element: ir.Type) -> ir.Type:
        """Type of this shape with another element."""
        return element if self.count == 1 else ir.VectorType(element, self.count)

    @property
    def _floating(self) -> bool:
        return not isinstance(self.element, ir.IntType)

    def _binary(self, floating: str | None, integer: str | None, other: Any) -> Num:
        name = floating if self._floating else integer
        assert name is not None
        method = getattr(self.emit.builder, name)
        return Num(self.emit, method(self.ir, self.like(other).ir))

    def __add__(self, other: Any) -> Num:
        return self._binary("fadd", "add", other)

    def __sub__(self, other: Any) -> Num:
        return self._binary("fsub", "sub", other)

    def __mul__(self, other: Any) -> Num:
        return self._binary("fmul", "mul", other)

    def __truediv__(self, other: Any) -> Num:
        return self._binary("fdiv", None, other)

    def __and__(self, other: Any) -> Num:
        return self._binary(None, "and_", other)

    def __or__(self, other: Any) -> Num:
        return self._binary(None, "or_", other)

    def __lshift__(self, other: Any) -> Num:
        return self._binary(None, "shl", other)

    def __rshift__(self, other: Any) -> Num:
        return self._binary(None, "lshr", other)

    def _compare(self, operator: str, other: Any) -> Num:
        builder, right = self.emit.builder, self.like(other).ir
        if self._floating:
            return Num(self.emit, builder.fcmp_ordered(operator, self.ir, right))
        signed = self.ir.type == _INDEX
        compare = builder.icmp_signed if signed else builder.icmp_unsigned
        return Num(self.emit, compare(operator, self.ir, right))

    # Comparisons of floats are ordered: false where either side is NaN.
    def __lt__(self, other: Any) -> Num:
        return self._compare("<", other)

    def __gt__(self, other: Any) -> Num:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Num:
        return self._compare(">=", other)

    def equals(self, other: Any) -> Num:
        """Lanes that are equal; false for NaN."""
        return self._compare("==", other)

    def where(self, condition: Num, other: Any) -> Num:
        """This value where `condition` holds, else `other`."""
        return Num(self.emit, self.emit.builder.select(condition.ir, self.ir, self.like(other).ir))

    def at_least(self, other: Any) -> Num:
        """The larger of the two; `other` where this is NaN (one ``maxps`` on x86)."""
        right = self.like(other)
        return self.where(self > right, right)

    def at_most(self, other: Any) -> Num:
        """The smaller of the two; `other` where this is NaN."""
        right = self.like(other)
        return self.where(self < right, right)

    def times_plus(self, factor: Any, addend: Any) -> Num:
        """``self * factor + addend``, rounded only once where the processor can do that."""
        # llvm.fmuladd, not llvm.fma: the latter is a library call where there is no FMA.
        operands = [self.ir, self.like(factor).ir, self.like(addend).ir]
        return self.emit.call("llvm.fmuladd", operands)

    def bits(self) -> Num:
        """Floats as unsigned integers of their width."""
        target = self.typed(ir.IntType(itemsize(self.element) * _BYTE_BITS))
        return self._cast("bitcast", target)

    def as_float(self, element: ir.Type) -> Num:
        """Integers' bits as floats of the same width."""
        return self._cast("bitcast", self.typed(element))

    def widened(self, bits: int) -> Num:
        """Unsigned integers, extended with zeros to `bits` bits."""
        return self._cast("zext", self.typed(ir.IntType(bits)))

    def narrowed(self, bits: int) -> Num:
        """The low `bits` bits of unsigned integers."""
        return self._cast("trunc", self.typed(ir.IntType(bits)))

    def extended(self, element: ir.Type) -> Num:
        """Floats in a type that is at least as wide."""
        target = self.typed(element)
        return self if self.ir.type == target else self._cast("fpext", target)

    def _cast(self, instruction: str, target: ir.Type) -> Num:
        return Num(self.emit, getattr(self.emit.builder, instruction)(self.ir, target))

    def lane(self, index: int) -> Num:
        """One number of a vector."""
        return Num(self.emit, self.emit.builder.extract_element(self.ir, _INDEX(index)))

    def nonzero_lanes(self) -> Num:
        """64-bit word with a bit for each lane (or the one number) that is not 0, lane 0 lowest."""
        found = self.emit.builder.icmp_unsigned("!=", self.ir, self.like(0).ir)
        bits = self.emit.builder.bitcast(found, ir.IntType(self.count))
        return Num(self.emit, self.emit.builder.zext(bits, _INDEX))

    def trailing_zeros(self) -> Num:
        """Zeros below the lowest set bit of an integer other than 0."""
        return Num(self.emit, self.emit.builder.cttz(self.ir, ir.IntType(1)(1)))

    def significant_bits(self) -> Num:
        """Bits up to the highest set one of a 64-bit integer other than 0."""
        zeros = self.emit.builder.ctlz(self.ir, ir.IntType(1)(1))
        return self.emit.index(64) - Num(self.emit, zeros)

    def shuffled(self, other: Num, order: list[int]) -> Num:
        """Lanes of this vector and, numbered from `count` on, of `other`, in the order given."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
        return Num(self.emit, self.emit.builder.shuffle_vector(self.ir, other.ir, mask))


class Emitter:
    """Emits loads, stores, loops and whole vectors into one function."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def number(self, value: ir.Value) -> Num:
        """An existing LLVM value."""
        return Num(self, value)

    def index(self, value: int) -> Num:
        """A constant count or byte offset."""
        return Num(self, _INDEX(value))

    def constant(self, element: ir.Type, value: float, count: int = 1) -> Num:
        """A constant scalar, or vector of `count` equal lanes."""
        if count == 1:
            return Num(self, ir.Constant(element, value))
        return Num(self, ir.Constant(ir.VectorType(element, count), [value] * count))

    def _pointer(self, address: Num, kind: ir.Type) -> ir.Value:
        return self.builder.inttoptr(address.ir, kind.as_pointer())

    def load(self, address: Num, element: ir.Type, count: int = 1) -> Num:
        """`count` elements at any byte address."""
        kind = element if count == 1 else ir.VectorType(element, count)
        return Num(self, self.builder.load(self._pointer(address, kind), align=1))

    def store(self, value: Num, address: Num) -> None:
        """Write a scalar or vector at any byte address."""
        self.builder.store(value.ir, self._pointer(address, value.ir.type), align=1)

    def prefetch(self, address: Num) -> None:
        """Ask for the cache line at an address, which need not be a valid one."""
        pointer = self.builder.inttoptr(address.ir, ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            self.builder.module, signature, "llvm.prefetch.p0"
        )
        self.builder.call(function, [pointer, word(0), word(3), word(1)])

    def spread(self, scalar: Num, count: int) -> Num:
        """Vector of `count` lanes, each the scalar."""
        kind = ir.VectorType(scalar.element, count)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar.ir, _INDEX(0))
        return Num(self, first).shuffled(Num(self, first), [0] * count)

    def variable(self, start: Num) -> Variable:
        """A value that loops may change."""
        return Variable(self, start)

    def call(self, intrinsic: str, operands: list[ir.Value]) -> Num:
        """An LLVM intrinsic that is overloaded on the one type of its operands."""
        kind = operands[0].type
        vector = isinstance(kind, ir.VectorType)
        element = kind.element if vector else kind
        suffix = f"v{kind.count}" if vector else ""
        name = f"{intrinsic}.{suffix}f{itemsize(element) * _BYTE_BITS}"
        signature = ir.FunctionType(kind, [kind] * len(operands))
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)  # type: ignore[no-untyped-call]
        return Num(self, self.builder.call(function, operands))

    @contextlib.contextmanager
    def loop(self, count: Num) -> Iterator[Num]:
        """Repeat the block `count` times; yields the index."""
        with cgutils.for_range(self.builder, count.ir) as loop:
            yield Num(self, loop.index)

    @contextlib.contextmanager
    def when(self, condition: Num) -> Iterator[None]:
        """Run the block only if `condition` holds."""
        with self.builder.if_then(condition.ir):
            yield

    @contextlib.contextmanager
    def either(self, condition: Num) -> Iterator[Any]:
        """``then, otherwise``: two blocks, of which one runs."""
        with self.builder.if_else(condition.ir) as blocks:
            yield blocks


class Variable:
    """A local variable; LLVM turns it into a register."""

    __slots__ = ("_emit", "_slot")

    def __init__(self, emit: Emitter, start: Num) -> None:
        self._emit = emit
        self._slot = cgutils.alloca_once(emit.builder, start.ir.type)  # type: ignore[no-untyped-call]
        self.set(start)

    def get(self) -> Num:
        """The current value."""
        return Num(self._emit, self._emit.builder.load(self._slot))

    def set(self, value: Num) -> None:
        """Give it another value."""
        self._emit.builder.store(value.ir, self._slot)
