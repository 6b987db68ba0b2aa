// The panels of a block of rows: the rows that a tile computes with at a time, along the lanes of
// up to kVectors vectors.  The last panel may have fewer vectors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/vector.hpp"
#include "interval.hpp"

namespace fastattn {
namespace {

// The class of a tile, that is of a panel of rows and a block of keys: what the mask does to it.
struct TileMask {
    Interval keys;   // visible to some row: none if the tile is empty
    Interval every;  // by band and length, visible to every row
    bool dense;      // the dense mask changes some score

    // Calls `body` with the intervals of keys that band or length may mask for some row.
    template <typename Body>
    void each_partial(Body body) const {
        const Interval whole = common(keys, every);
        if (whole.empty()) {
            if (!keys.empty()) body(keys);
            return;
        }
        if (keys.begin < whole.begin) body(Interval{keys.begin, whole.begin});
        if (whole.end < keys.end) body(Interval{whole.end, keys.end});
    }
    bool partial() const {
        bool some = false;
        each_partial([&](Interval) { some = true; });
        return some;
    }
};

struct Panel : TileMask {
    bool accumulate;  // an earlier block has written its result, so add to it
    bool ended;       // its rows are written
};

// kWhole: the last panel has all vectors, too.
template <typename Simd, int kVectors, bool kWhole = false>
struct Panels {
    static constexpr int64_t kRows = kVectors * Simd::lanes;

    Panel* all;          // of the block of rows
    int64_t begin, end;  // the rows in question

    Panels some(int64_t from, int64_t to) const { return {all, from, to < end ? to : end}; }

    // Calls `body` for each panel, with its number of vectors as a constant, the panel, its first
    // row and its number of rows.
    template <typename Body>
    void each(Body body) const {
        for (int64_t first = begin; first < end; first += kRows) {
            const int64_t rows = end - first < kRows ? end - first : kRows;
            with_vectors<kVectors>((rows + Simd::lanes - 1) / Simd::lanes, first, rows, body);
        }
    }

private:
    template <int kCount, typename Body>
    void with_vectors(int64_t vectors, int64_t first, int64_t rows, Body body) const {
        if (kWhole || kCount == 1 || vectors == kCount)
            body(Count<kCount>{}, all[first / kRows], first, rows);
        else if constexpr (kCount > 1)
            with_vectors<kCount - 1>(vectors, first, rows, body);
    }
};

}  // namespace
}  // namespace fastattn
