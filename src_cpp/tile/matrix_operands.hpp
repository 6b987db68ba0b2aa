// The operands of the matrix tile: a block of keys and values and a panel of queries, as
// components.
//
// A key or value that is out of range is packed as 0 and listed; a query that is out of range is
// packed as 0 and reported.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "interval.hpp"
#include "matrix_bfloat.hpp"
#include "non_finite.hpp"
#include "pack.hpp"
#include "rows.hpp"
#include "scratch.hpp"

namespace fastattn {
namespace {

template <typename Unit, typename S>
class MatrixOperands {
    using Simd = typename Unit::Simd;
    using Vec = typename Unit::Vec;
    using Components = ComponentsOf<S>;
    using Found = Magnitudes<uint32_t, Simd::lanes>;
    static constexpr bool kBFloat = __is_same(S, BFloat);  // packed without conversion

public:
    static constexpr int64_t kStepBytes = Components::a * kComponentBytes;  // of keys or values

    struct Regions {
        int64_t d_steps, v_steps;
        char *keys, *values, *queries;
        float* stage;
        int64_t* refused;

        Regions(Arena& arena, int64_t block_k, int64_t dim, int64_t dim_v)
            : d_steps(steps_of(dim)), v_steps(steps_of(dim_v)) {
            keys = arena.region<char>(steps_of(block_k) * d_steps * kStepBytes);
            values = arena.region<char>(steps_of(block_k) * v_steps * kStepBytes);
            queries = arena.region<char>(d_steps * Components::q * kComponentBytes);
            stage = arena.region<float>(kStepColumns * ld());
            refused = arena.region<int64_t>(block_k);
        }
        // Of a staged row; not a multiple of a page, so that rows fall into different cache sets.
        int64_t ld() const {
            return (d_steps > v_steps ? d_steps : v_steps) * kStepColumns + kTileRows;
        }
    };

    MatrixOperands(const Task& task, const Regions& regions) : task_(task), at_(regions) {}

    // Packs a block in steps of 32 keys from `begin` on, with 0 for keys that are not in it.
    [[gnu::noinline]] void pack_block(int64_t begin, Interval block,
                                      NonFinite<Simd, S>& non_finite) {
        refused_count_ = 0;
        char *keys = at_.keys, *values = at_.values;
        for (int64_t first = begin; first < block.end; first += kStepColumns) {
            uint32_t refused = 0;
            if (!pack_bfloats<false>(task_.k, task_.dim, first, block, kScoredRange, keys)) {
                refused |= stage(task_.k, task_.dim, at_.d_steps, first, block, kScoredRange);
                pack_keys<Unit, Components::a>(at_.stage, at_.ld(), at_.d_steps, keys);
            }
            if (!pack_bfloats<true>(task_.v, task_.dim_v, first, block, kValueRange, values)) {
                refused |= stage(task_.v, task_.dim_v, at_.v_steps, first, block, kValueRange,
                                 &non_finite);
                pack_values<Unit, Components::a>(at_.stage, at_.ld(), at_.v_steps, values);
            }
            for (int64_t i = 0; i < kStepColumns; ++i)
                if (refused >> i & 1) at_.refused[refused_count_++] = first + i;
            keys += at_.d_steps * kStepBytes;
            values += at_.v_steps * kStepBytes;
        }
    }

    // Packs a panel of queries; calls `refuse` with the rows that are out of range.
    template <typename Refuse>
    [[gnu::noinline]] void pack_panel(int64_t first, int64_t rows, Refuse refuse) {
        char* from[kPanelRows];
        addresses(task_, task_.q, first, rows, kPanelRows, from);
        if constexpr (kBFloat)
            if (task_.q.column == static_cast<int64_t>(sizeof(S))) {
                BFloatLargest found;
                pack_bfloat_queries<Vec>(from, task_.dim, found, at_.queries);
                if (found.within(kScoredRange)) return;
            }
        float* stage = at_.stage;
        pack_rows<Simd, S>(from, kPanelRows, task_.q.column, task_.dim, 1.0f, stage, kPanelRows);
        clear(stage + task_.dim * kPanelRows,
              (at_.d_steps * kStepColumns - task_.dim) * kPanelRows);
        for (int64_t half = 0; half < kPanelRows; half += kTileRows) {
            Found found;
            for (int64_t d = 0; d < task_.dim; ++d)
                found.note(load<typename Simd::Bits>(stage + d * kPanelRows + half));
            if (found.within(kScoredRange)) continue;
            for (int lane = 0; lane < kTileRows; ++lane) {
                if (found.below(lane, kScoredRange.largest)) continue;
                refuse(first + half + lane);
                for (int64_t d = 0; d < task_.dim; ++d) stage[d * kPanelRows + half + lane] = 0;
            }
        }
        pack_queries<Unit, Components::q>(stage, at_.d_steps, at_.queries);
    }

    // Calls `body` with each key among `keys` that is listed.
    template <typename Body>
    void each_refused(Interval keys, Body body) const {
        for (int64_t i = 0; i < refused_count_; ++i)
            if (keys.holds(at_.refused[i])) body(at_.refused[i]);
    }
    bool refuses() const { return refused_count_ > 0; }

private:
    // Packs 32 rows without conversion; returns whether that was possible.
    template <bool kValues>
    bool pack_bfloats(const RowSource& source, int64_t columns, int64_t first, Interval block,
                      Range range, char* to) {
        if constexpr (kBFloat) {
            if (!adjacent<S>(source) || !block.holds(first) ||
                !block.holds(first + kStepColumns - 1))
                return false;
            const char* rows[kStepColumns];
            for (int64_t i = 0; i < kStepColumns; ++i) rows[i] = row_of(source, first + i);
            if constexpr (kValues) {
                BFloatMagnitudes found;
                pack_bfloat_values<Vec>(rows, columns, found, to);
                return found.within(range);
            } else {
                BFloatLargest found;
                pack_bfloat_keys(rows, columns, found, to);
                return found.within(range);
            }
        }
        return false;
    }

    // Reads 32 rows, with 0 for those that are not in the block or out of range; returns the
    // latter.
    uint32_t stage(const RowSource& source, int64_t columns, int64_t steps, int64_t first,
                   Interval block, Range range, NonFinite<Simd, S>* non_finite = nullptr) {
        const int64_t padded = steps * kStepColumns;
        Found all;
        for (int64_t i = 0; i < kStepColumns; ++i) {
            float* row = at_.stage + i * at_.ld();
            const int64_t count = block.holds(first + i) ? columns : 0;
            if (count) read_row<Simd, S>(source, first + i, 0, columns, row);
            clear(row + count, padded - count);
            note(row, padded, all);
        }
        if (all.within(range)) return 0;
        uint32_t refused = 0;
        for (int64_t i = 0; i < kStepColumns; ++i) {
            float* row = at_.stage + i * at_.ld();
            if (non_finite && block.holds(first + i))
                non_finite->replace(row, first + i, columns, row);
            Found found;
            note(row, padded, found);
            if (found.within(range)) continue;
            refused |= 1u << i;
            clear(row, padded);
        }
        return refused;
    }
    static void note(const float* row, int64_t count, Found& found) {
        for (int64_t i = 0; i < count; i += Simd::lanes)
            found.note(load<typename Simd::Bits>(row + i));
    }
    static void clear(float* row, int64_t count) {
        for (int64_t i = 0; i < count; ++i) row[i] = 0;
    }

    const Task& task_;
    const Regions& at_;
    int64_t refused_count_ = 0;
};

}  // namespace
}  // namespace fastattn
