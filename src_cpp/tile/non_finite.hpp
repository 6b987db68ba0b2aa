// Values that are not finite.
//
// A masked key's weight is 0, and 0 * NaN would be NaN.  So where keys may be masked, values that
// are not finite are read as 0 and their keys are listed; what was left out is then added to the
// rows to which the key is visible.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "interval.hpp"
#include "rows.hpp"
#include "scratch.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
class NonFinite {
    using T = typename Simd::Value;

public:
    NonFinite(Arena& arena, int64_t block_k, int64_t dim_v)
        : row_(arena.region<T>(dim_v)), keys_(arena.region<int64_t>(block_k)) {}

    // Whether nothing in the values of `keys` needs to be replaced; they are adjacent.
    static bool none(const RowSource& v, Interval keys, int64_t dim_v) {
        bool finite = true;
        for (int64_t j = keys.begin; j < keys.end && finite; ++j)
            finite = all_finite<Simd>(reinterpret_cast<const S*>(row_of(v, j)), dim_v);
        return finite;
    }

    void clear() { count_ = 0; }

    // The values of key j, in place where that is possible.  `may_mask`: as above.
    const T* read(const RowSource& v, int64_t j, int64_t dim_v, bool may_mask) {
        const T* row = reinterpret_cast<const T*>(row_of(v, j));
        if (!__is_same(S, T) || !in_place<S>(v)) {
            read_row<Simd, S>(v, j, 0, dim_v, row_);
            row = row_;
        }
        return may_mask && replace(row, j, dim_v, row_) ? row_ : row;
    }

    // If a row is not finite, copies it with 0 for what is not, and lists its key j.
    template <typename X>
    bool replace(const X* row, int64_t j, int64_t dim_v, X* copy) {
        if (all_finite<Simd>(row, dim_v)) return false;
        keys_[count_++] = j;
        for (int64_t f = 0; f < dim_v; ++f)
            copy[f] = is_finite(to_compute<T>(row[f])) ? row[f] : X{};
        return true;
    }

    // Adds what was left out of the listed values among `keys` to `rows` rows, of which `visible`
    // tells to which a key is visible; value f of a row's result is at output(row)[f * step].
    template <typename Visible, typename Weight, typename Output>
    [[gnu::noinline]] void add(const RowSource& v, int64_t dim_v, Interval keys, int64_t rows,
                               Visible visible, Weight weight, Output output, int64_t step) const {
        for (int64_t i = 0; i < count_; ++i) {
            const int64_t j = keys_[i];
            if (!keys.holds(j)) continue;
            read_row<Simd, S>(v, j, 0, dim_v, row_);
            for (int64_t r = 0; r < rows; ++r) {
                if (!visible(r, j)) continue;
                T* o = output(r);
                for (int64_t f = 0; f < dim_v; ++f)
                    if (!is_finite(row_[f])) o[f * step] += weight(r, j) * row_[f];
            }
        }
    }

    bool empty() const { return count_ == 0; }

private:
    T* row_;         // one row of values
    int64_t* keys_;  // of the block
    int64_t count_ = 0;
};

}  // namespace
}  // namespace fastattn
