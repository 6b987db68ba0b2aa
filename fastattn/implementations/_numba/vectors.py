"""`Vector`: a SIMD register as a type of Numba's, with arithmetic, exp and tanh.

LLVM prefers 256-bit vectors on CPUs that have 512-bit ones, and vectorises only the loops that
it understands.  Code that is written with `Vector` gets the full width, always.  A number that
meets a vector is spread over all lanes.  No fast-math flag is set: infinity and NaN are data.
"""

from __future__ import annotations

import math
import operator

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

# What Numba compiles for: the host, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say otherwise.
TRIPLE, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()
_WIDE = "+avx512f" in _FEATURES.split(",")
REGISTER_BYTES = 64 if _WIDE else 32 if "+avx2" in _FEATURES.split(",") else 16
FEW_REGISTERS = TRIPLE.startswith(("x86_64", "i686")) and not _WIDE  # 16, not 32


class Vector(types.Type):
    """One register of float32 or float64 numbers."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        self.lanes, self.align = REGISTER_BYTES * 8 // element.bitwidth, element.bitwidth // 8
        self.bits = ir.VectorType(ir.IntType(element.bitwidth), self.lanes)
        scalar = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
        self.ir = ir.VectorType(scalar, self.lanes)
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.ir)


def spread_value(builder, vector, value):
    """LLVM value of `vector` with `value` in each lane."""
    first = builder.insert_element(vector.ir(ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, first, zeros)


def call_fma(builder, vector, x, y, z):
    """``x * y + z``, in one rounding where the CPU can."""
    name = f"llvm.fmuladd.v{vector.lanes}f{vector.element.bitwidth}"
    kind = ir.FunctionType(vector.ir, [vector.ir] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


def pointer(context, builder, array_type, array, at, vector):
    """LLVM pointer to the vector that begins with element `at` of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.ir.as_pointer())


def _elementwise(emit, *arguments):
    """Signature and code of an operation on vectors, or on vectors and numbers."""
    vector = next(a for a in arguments if isinstance(a, Vector))

    def codegen(context, builder, signature, values):
        spread = [
            value
            if isinstance(kind, Vector)
            else spread_value(builder, vector, context.cast(builder, value, kind, vector.element))
            for kind, value in zip(signature.args, values, strict=True)
        ]
        return emit(builder, vector, *spread)

    return vector(*arguments), codegen


def _overload_operator(function, instruction):
    @intrinsic
    def combine(typingctx, x, y):
        return _elementwise(lambda builder, _, *xy: getattr(builder, instruction)(*xy), x, y)

    @overload(function)
    def typed(x, y):
        if isinstance(x, Vector) or isinstance(y, Vector):
            return lambda x, y: combine(x, y)
        return None


_overload_operator(operator.add, "fadd")
_overload_operator(operator.sub, "fsub")
_overload_operator(operator.mul, "fmul")
_overload_operator(operator.truediv, "fdiv")


@intrinsic
def fma(typingctx, x, y, z):
    """``x * y + z``."""
    return _elementwise(call_fma, x, y, z)


@intrinsic
def where_less(typingctx, a, b, x, y):
    """``x`` in the lanes with ``a < b``, else ``y``, also where either is NaN."""

    def emit(builder, _, a, b, x, y):
        return builder.select(builder.fcmp_ordered("<", a, b), x, y)

    return _elementwise(emit, a, b, x, y)


@intrinsic
def load(typingctx, array, at):
    """Vector of the elements from `at` on of a contiguous 1-D array."""
    vector = Vector(array.dtype)

    def codegen(context, builder, signature, values):
        address = pointer(context, builder, array, *values, vector)
        return builder.load(address, align=vector.align)

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx, array, at, value):
    """Write a vector to the elements from `at` on of a contiguous 1-D array."""

    def codegen(context, builder, signature, values):
        address = pointer(context, builder, array, *values[:2], value)
        builder.store(values[2], address, align=value.align)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def _horner(typingctx, x, coefficients):
    """Polynomial in `x`, highest power first."""

    def codegen(context, builder, signature, values):
        result = x.ir([0.0] * x.lanes)
        for i in range(coefficients.count):
            term = builder.extract_value(values[1], i)
            term = context.cast(builder, term, coefficients.dtype, x.element)
            result = call_fma(builder, x, result, values[0], spread_value(builder, x, term))
        return result

    return x(x, coefficients), codegen


@intrinsic
def _power_of_two(typingctx, shifted):
    """2^n, where n is the whole number in the low bits of the significand of `shifted`."""
    bias, fraction = (127, 23) if shifted.element.bitwidth == 32 else (1023, 52)

    def codegen(context, builder, signature, values):
        bias_lanes, fraction_lanes = (shifted.bits([n] * shifted.lanes) for n in (bias, fraction))
        bits = builder.add(builder.bitcast(values[0], shifted.bits), bias_lanes)
        return builder.bitcast(builder.shl(bits, fraction_lanes), shifted.ir)

    return shifted(shifted), codegen


def _exp_factors(x):
    """``e^r - 1`` and ``2^n`` with ``x = n ln 2 + r``; ``2^n`` is 0 where e^x is subnormal."""
    raise NotImplementedError


@overload(_exp_factors)
def _typed_exp_factors(x):
    # ln2_high * n is exact for each exponent n (Cody and Waite, 1980); adding `magic` leaves the
    # nearest whole number in the low bits.  `series` is (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2.
    if x.element.bitwidth == 32:
        lowest, magic = -87.3365, 1.5 * 2.0**23
        ln2_high, ln2_low = 0.693359375, -2.12194440e-4
        # Interpolated at the Chebyshev points: 1.0e-8 off at most.
        series = (0.0013926183586701981, 0.0083631790527194, 0.04166655461721519)
        series = (*series, 0.16666576989698803, 0.5)
    else:
        lowest, magic = -708.396, 1.5 * 2.0**52
        ln2_high, ln2_low = 6.93145751953125e-1, 1.42860682030941723212e-6
        # Taylor's series to r^13: (ln 2 / 2)^14 / 14! = 4e-18 off at most.
        series = tuple(1 / math.factorial(k) for k in range(13, 1, -1))
    per_ln2 = 1 / math.log(2)

    def factors(x):
        limited = where_less(x, lowest, lowest, x)
        shifted = fma(limited, per_ln2, magic)
        n = shifted - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, limited))
        power = where_less(x, lowest, 0.0, _power_of_two(shifted))
        return fma(_horner(r, series), r * r, r), power

    return factors


@njit
def exp(x):
    """``e^x`` within 2 ULP for x up to 88, exactly 1 for 0; NaN for NaN."""
    minus_one, power = _exp_factors(x)
    return fma(minus_one, power, power)


@njit
def tanh(x):
    """Hyperbolic tangent, from ``e^2x - 1`` so that small arguments stay accurate."""
    twice = x + x
    twice = where_less(twice, -40.0, -40.0, where_less(40.0, twice, 40.0, twice))
    minus_one, power = _exp_factors(twice)
    numerator = fma(minus_one, power, power - 1.0)
    return numerator / (numerator + 2.0)
