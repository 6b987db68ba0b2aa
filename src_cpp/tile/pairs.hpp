// Queries and keys as pairs of adjacent bfloat16 numbers, which are multiplied without conversion.
// An odd last number is paired with 0.
//
// Products of pairs are exact enough in the range of magnitudes.hpp only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "magnitudes.hpp"
#include "rows.hpp"

namespace fastattn {
namespace {

// The pair of numbers from column c on, of which the row has `columns`.
inline BFloatPair read_pair(const char* row, int64_t column, int64_t c, int64_t columns) {
    const char* from = row + c * column;
    return {{load<BFloat>(from), c + 1 < columns ? load<BFloat>(from + column) : BFloat{0}}};
}

// Columns [0, columns) of `count` rows, transposed: to[c / 2 * ld + lane] holds the pair from an even
// column c on.  `rows` holds the addresses of `count` rows, a multiple of the vector's lanes.
template <typename Simd>
inline void pack_pairs(char* const* rows, int64_t count, int64_t column, int64_t columns, float* to,
                       int64_t ld) {
    using Vec = typename Simd::Vec;
    constexpr int kLanes = Simd::lanes;
    for (int64_t lane = 0; lane < count; lane += kLanes, rows += kLanes) {
        int64_t c = 0;
        if (column == static_cast<int64_t>(sizeof(BFloat)))
            for (; c + 2 * kLanes <= columns; c += 2 * kLanes) {
                Vec square[kLanes];
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r) square[r] = load<Vec>(rows[r] + c * column);
                transpose<Vec, kLanes>(square);
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r) store(to + (c / 2 + r) * ld + lane, square[r]);
            }
        for (; c < columns; c += 2)
            for (int r = 0; r < kLanes; ++r)
                store(to + c / 2 * ld + lane + r, read_pair(rows[r], column, c, columns));
    }
}

// Calls `refuse` with each lane of packed pairs, [pair][ld], that is out of range.
template <typename Simd, typename Refuse>
inline void each_refused_lane(const float* pairs, int64_t count, int64_t ld, Refuse refuse) {
    using Found = Magnitudes<uint16_t, 2 * Simd::lanes, false>;
    for (int64_t lane = 0; lane < ld; lane += Simd::lanes) {
        Found found;
        for (int64_t i = 0; i < count; ++i)
            found.note(load<typename Found::Lanes>(pairs + i * ld + lane));
        if (found.within(kScoredRange)) continue;
        for (int i = 0; i < 2 * Simd::lanes; ++i)
            if (!found.below(i, kScoredRange.largest)) refuse(lane + i / 2);
    }
}

// Whether `columns` adjacent numbers of each of `count` rows are in range.
template <typename Simd>
inline bool scored(const StridedRows& rows, int64_t count, int64_t columns) {
    constexpr int64_t kStep = 2 * Simd::lanes;
    using Found = Magnitudes<uint16_t, kStep, false>;
    Found found;
    for (int64_t i = 0; i < count; ++i) {
        const char* row = rows.row(i);
        int64_t c = 0;
        for (; c + kStep <= columns; c += kStep)
            found.note(load<typename Found::Lanes>(row + c * 2));
        if (c == columns) continue;
        typename Found::Lanes rest{};
        for (; c < columns; ++c) rest[c % kStep] = load<BFloat>(row + c * 2).bits;
        found.note(rest);
    }
    return found.within(kScoredRange);
}

}  // namespace
}  // namespace fastattn
