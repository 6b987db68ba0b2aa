// Packs bfloat16 keys, values and queries as they are: the layouts of matrix_pack.hpp, without
// conversion.
//
// `rows` are the addresses of 32 rows of `columns` adjacent numbers.  The functions return the
// magnitudes of what they have packed.
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
    __builtin_memcpy(values, from, 2 * left);
    return load<BFloatStep>(values);
}

// Pairs of keys from the features of two keys: 4 of each 8 features, from kFrom on.
template <int kFrom, int... kIndex>
[[gnu::always_inline]] inline BFloatStep pair_features(BFloatStep a, BFloatStep b,
                                                       Sequence<kIndex...>) {
    return __builtin_shufflevector(
        a, b, (kIndex / 8 * 8 + kIndex % 8 / 2 + kFrom + kIndex % 2 * kBFloatStep)...);
}
template <int kFrom>
[[gnu::always_inline]] inline BFloatStep pair_features(BFloatStep a, BFloatStep b) {
    return pair_features<kFrom>(a, b, MakeSequence<kBFloatStep>::type{});
}

// Calls pack(rows, bytes, step) for each step of the rows, which begins `bytes` from their start;
// columns that the last step lacks are 0.
template <int kRows, typename Pack>
[[gnu::always_inline]] inline void each_bfloat_step(const char* const* rows, int64_t columns,
                                                    Pack pack) {
    const int64_t whole = columns / kStepColumns;
    for (int64_t s = 0; s < whole; ++s) pack(rows, s * 2 * kStepColumns, s);
    const int64_t left = columns - whole * kStepColumns;
    if (left == 0) return;
    uint16_t copy[kRows][kStepColumns] = {};
    const char* copies[kRows];
    for (int64_t i = 0; i < kRows; ++i) {
        __builtin_memcpy(copy[i], rows[i] + whole * 2 * kStepColumns, 2 * left);
        copies[i] = reinterpret_cast<const char*>(copy[i]);
    }
    pack(copies, 0, whole);
}

[[gnu::noinline]] inline BFloatLargest pack_bfloat_keys(const char* const* rows, int64_t columns,
                                                        char* to) {
    BFloatLargest found;
    each_bfloat_step<kStepColumns>(
        rows, columns, [&](const char* const* from, int64_t bytes, int64_t step) {
            for (int64_t i = 0; i < kStepColumns; ++i) {
                const BFloatStep values = load<BFloatStep>(from[i] + bytes);
                found.note(values);
                store(to + step * kComponentBytes + i * 64, values);
            }
        });
    return found;
}

// A lane has two neighbouring features of a key.  Those of two keys make two pairs of keys: of the
// first (kFeature = 0) and of the second feature.
template <typename Vec, int kFeature>
[[gnu::always_inline]] inline void pack_bfloat_pairs(const char* const* rows, int64_t bytes,
                                                     char* to) {
    using Lanes = VectorOf_t<uint32_t, kTileRows>;
    Vec pairs[kTileRows];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTileRows; ++i) {
        const Lanes a = load<Lanes>(rows[i] + bytes);
        const Lanes b = load<Lanes>(rows[i + kTileRows] + bytes);
        pairs[i] = bits<Vec>(kFeature ? (a >> 16) | (b & 0xffff0000u) : (a & 0xffffu) | (b << 16));
    }
    transpose<Vec, kTileRows>(pairs);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTileRows; ++i) store(to + (2 * i + kFeature) * 64, pairs[i]);
}

template <typename Vec>
[[gnu::noinline]] BFloatMagnitudes pack_bfloat_values(const char* const* rows, int64_t columns,
                                                      char* to) {
    BFloatMagnitudes found;
    each_bfloat_step<kStepColumns>(
        rows, columns, [&](const char* const* from, int64_t bytes, int64_t step) {
            for (int64_t i = 0; i < kStepColumns; ++i)
                found.note(load<BFloatStep>(from[i] + bytes));
            pack_bfloat_pairs<Vec, 0>(from, bytes, to + step * kComponentBytes);
            pack_bfloat_pairs<Vec, 1>(from, bytes, to + step * kComponentBytes);
        });
    return found;
}

template <typename Vec>
[[gnu::noinline]] BFloatLargest pack_bfloat_queries(const char* const* rows, int64_t columns,
                                                    char* to) {
    BFloatLargest found;
    for (int64_t half = 0; half < kPanelRows; half += kTileRows, to += kTileBytes)
        each_bfloat_step<kTileRows>(
            rows + half, columns, [&](const char* const* from, int64_t bytes, int64_t step) {
                Vec pairs[kTileRows];
#pragma GCC unroll 16
                for (int64_t i = 0; i < kTileRows; ++i) {
                    const BFloatStep values = load<BFloatStep>(from[i] + bytes);
                    found.note(values);
                    pairs[i] = bits<Vec>(values);
                }
                transpose<Vec, kTileRows>(pairs);
#pragma GCC unroll 16
                for (int64_t i = 0; i < kTileRows; ++i)
                    store(to + step * kComponentBytes + i * 64, pairs[i]);
            });
    return found;
}

}  // namespace
}  // namespace fastattn
