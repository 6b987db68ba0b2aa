// Copies of 32 keys or values in the compute type, from where the operands of the matrix unit are
// packed if they cannot be packed from where they lie.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "interval.hpp"
#include "magnitudes.hpp"
#include "matrix_pack.hpp"
#include "non_finite.hpp"
#include "rows.hpp"
#include "scratch.hpp"

namespace fastattn {
namespace {

// Clears the queries that are out of range, which are columns of `stage`: [feature][query], kVectors
// vectors of queries; calls `refuse` with each.
template <typename Simd, int kVectors, typename Refuse>
inline void refuse_queries(float* stage, int64_t dim, Refuse refuse) {
    constexpr int64_t kLanes = Simd::lanes, kRows = kVectors * kLanes;
    for (int64_t first = 0; first < kRows; first += kLanes) {
        Magnitudes<uint32_t, Simd::lanes> found;
        for (int64_t d = 0; d < dim; ++d)
            found.note(load<typename Simd::Bits>(stage + d * kRows + first));
        if (found.within(kScoredRange)) continue;
        for (int lane = 0; lane < kLanes; ++lane) {
            if (found.below(lane, kScoredRange.largest)) continue;
            refuse(first + lane);
            for (int64_t d = 0; d < dim; ++d) stage[d * kRows + first + lane] = 0;
        }
    }
}

template <typename Simd, typename S>
class MatrixStage {
    using Found = Magnitudes<uint32_t, Simd::lanes>;

public:
    // `steps`: of 32 columns of a row.  Rows are not a multiple of a page apart, so that they fall
    // into different cache sets.
    MatrixStage(Arena& arena, int64_t steps)
        : ld_(steps * kStepColumns + kTileRows), rows_(arena.region<float>(kStepColumns * ld_)) {}

    // Reads 32 rows from `first` on, with 0 for those that are not in the block or out of range;
    // returns the latter.  Their columns are padded with 0 to whole steps.
    uint32_t read(const RowSource& source, int64_t columns, int64_t first, Interval block,
                  Range range, NonFinite<Simd, S>* non_finite) const {
        const int64_t padded = steps_of(columns) * kStepColumns;
        Found all;
        for (int64_t i = 0; i < kStepColumns; ++i) {
            const int64_t count = block.holds(first + i) ? columns : 0;
            if (count) read_row<Simd, S>(source, first + i, 0, columns, row(i));
            clear(row(i) + count, padded - count);
            note(row(i), padded, all);
        }
        if (all.within(range)) return 0;
        uint32_t refused = 0;
        for (int64_t i = 0; i < kStepColumns; ++i) {
            if (non_finite && block.holds(first + i))
                non_finite->replace(row(i), first + i, columns, row(i));
            Found found;
            note(row(i), padded, found);
            if (found.within(range)) continue;
            refused |= 1u << i;
            clear(row(i), padded);
        }
        return refused;
    }

    float* row(int64_t i) const { return rows_ + i * ld_; }
    float* rows() const { return rows_; }

    // The addresses of the rows: float32, or if S is bfloat16 of that type, to which each is converted
    // in its place.
    void addresses(int64_t columns, const char** rows) const {
        for (int64_t i = 0; i < kStepColumns; ++i) {
            char* const to = reinterpret_cast<char*>(row(i));
            if constexpr (__is_same(S, BFloat))
                for (int64_t c = 0; c < columns; c += Simd::lanes)
                    store_values<Simd, S>(to + 2 * c, load<typename Simd::Vec>(row(i) + c));
            rows[i] = to;
        }
    }

    // A row of zeros.
    const char* zeros(int64_t columns) const {
        clear(row(0), columns);
        return reinterpret_cast<const char*>(row(0));
    }

    static void clear(float* row, int64_t count) {
        for (int64_t i = 0; i < count; ++i) row[i] = 0;
    }

private:
    static void note(const float* row, int64_t count, Found& found) {
        for (int64_t i = 0; i < count; i += Simd::lanes)
            found.note(load<typename Simd::Bits>(row + i));
    }

    int64_t ld_;
    float* rows_;
};

}  // namespace
}  // namespace fastattn
