// Packs bfloat16 keys, values and queries as they are: the layouts of matrix_pack.hpp, without
// conversion.  Rows that are out of range are left to matrix_pack.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "magnitudes.hpp"
#include "matrix_pack.hpp"

namespace fastattn {
namespace {

inline constexpr int kBFloatStep = kStepColumns;
using BFloatStep = VectorOf_t<uint16_t, kBFloatStep>;
using BFloatMagnitudes = Magnitudes<uint16_t, kBFloatStep>;
using BFloatLargest = Magnitudes<uint16_t, kBFloatStep, false>;

// A step of a row of which `left` columns are left; 0 for those that it lacks.
[[gnu::always_inline]] inline BFloatStep load_step(const char* from, int64_t left) {
    if (left >= kStepColumns) return load<BFloatStep>(from);
    uint16_t values[kBFloatStep] = {};
    for (int64_t i = 0; i < left; ++i) values[i] = load<uint16_t>(from + 2 * i);
    return load<BFloatStep>(values);
}

// a[0], b[0], a[1], b[1] and so on: the first halves of two steps, the second ones, and the two
// halves of one.
template <int kFrom, int kOther, int... kIndex>
[[gnu::always_inline]] inline BFloatStep interleave(BFloatStep a, BFloatStep b,
                                                    Sequence<kIndex...>) {
    return __builtin_shufflevector(a, b, (kFrom + kIndex / 2 + kIndex % 2 * kOther)...);
}
using StepIndex = MakeSequence<kBFloatStep>::type;
[[gnu::always_inline]] inline BFloatStep first_halves(BFloatStep a, BFloatStep b) {
    return interleave<0, kBFloatStep>(a, b, StepIndex{});
}
[[gnu::always_inline]] inline BFloatStep second_halves(BFloatStep a, BFloatStep b) {
    return interleave<kBFloatStep / 2, kBFloatStep>(a, b, StepIndex{});
}
[[gnu::always_inline]] inline BFloatStep both_halves(BFloatStep a) {
    return interleave<0, kBFloatStep / 2>(a, a, StepIndex{});
}

// `rows`: the addresses of 32 rows of `columns` columns.
inline void pack_bfloat_keys(const char* const* rows, int64_t columns, BFloatLargest& found,
                             char* to) {
    for (int64_t i = 0; i < kStepColumns; ++i)
        for (int64_t c = 0; c < columns; c += kStepColumns) {
            const BFloatStep values = load_step(rows[i] + 2 * c, columns - c);
            found.note(values);
            store(to + c / kStepColumns * kComponentBytes + i * 64, both_halves(values));
        }
}

template <typename Vec>
inline void pack_bfloat_values(const char* const* rows, int64_t columns, BFloatMagnitudes& found,
                               char* to) {
    for (int64_t c = 0; c < columns; c += kStepColumns, to += kComponentBytes) {
        Vec first[kTileRows], second[kTileRows];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) {
            const BFloatStep a = load_step(rows[i] + 2 * c, columns - c);
            const BFloatStep b = load_step(rows[i + kTileRows] + 2 * c, columns - c);
            found.note(a);
            found.note(b);
            first[i] = bits<Vec>(first_halves(a, b));
            second[i] = bits<Vec>(second_halves(a, b));
        }
        transpose<Vec, kTileRows>(first);
        transpose<Vec, kTileRows>(second);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) {
            store(to + i * 64, first[i]);
            store(to + kTileBytes + i * 64, second[i]);
        }
    }
}

template <typename Vec>
inline void pack_bfloat_queries(const char* const* rows, int64_t columns, BFloatLargest& found,
                                char* to) {
    for (int64_t c = 0; c < columns; c += kStepColumns)
        for (int64_t half = 0; half < 2; ++half, to += kTileBytes) {
            Vec values[kTileRows];
#pragma GCC unroll 16
            for (int64_t i = 0; i < kTileRows; ++i) {
                const BFloatStep step = load_step(rows[half * kTileRows + i] + 2 * c, columns - c);
                found.note(step);
                values[i] = bits<Vec>(both_halves(step));
            }
            transpose<Vec, kTileRows>(values);
#pragma GCC unroll 16
            for (int64_t i = 0; i < kTileRows; ++i) store(to + i * 64, values[i]);
        }
}

}  // namespace
}  // namespace fastattn
