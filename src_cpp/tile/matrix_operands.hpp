// The operands of the matrix tile: keys and values of a block and a panel of queries, as components.
//
// A key or value that is out of range is packed as 0 and listed; a query that is out of range is
// packed as 0 and reported.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flush.hpp"
#include "matrix_bfloat.hpp"
#include "matrix_stage.hpp"
#include "pack.hpp"

namespace fastattn {
namespace {

template <typename Unit, typename S>
class MatrixOperands {
    using Simd = typename Unit::Simd;
    using Vec = typename Unit::Vec;
    using Components = ComponentsOf<S>;
    static constexpr bool kBFloat = __is_same(S, BFloat);  // packed without conversion

public:
    static constexpr int64_t kStepBytes = Components::a * kComponentBytes;  // of keys or values
    static constexpr int64_t kQueryBytes = Components::q * kComponentBytes;

    struct Regions {
        int64_t d_steps, v_steps;
        char *keys, *values, *queries;
        MatrixStage<Simd, S> stage;
        int64_t* panels;  // whose queries are packed
        int64_t* refused;

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : d_steps(steps_of(dim)),
              v_steps(steps_of(dim_v)),
              stage(arena, d_steps > v_steps ? d_steps : v_steps) {
            keys = arena.region<char>(steps_of(block_k) * d_steps * kStepBytes);
            values = arena.region<char>(steps_of(block_k) * v_steps * kStepBytes);
            queries = arena.region<char>(rows / kPanelRows * d_steps * kQueryBytes);
            panels = arena.region<int64_t>(rows / kPanelRows);
            refused = arena.region<int64_t>(block_k);
        }
    };

    MatrixOperands(const Task& task, const Regions& regions, int64_t rows)
        : task_(task), at_(regions), keeps_(task.key_end - task.key_begin > task.block_k) {
        for (int64_t i = 0; i < rows / kPanelRows; ++i) at_.panels[i] = -1;
    }

    // Packs a block in steps of 32 keys from `begin` on, with 0 for keys that are not in it.
    [[gnu::noinline]] void pack_block(int64_t begin, Interval block,
                                      NonFinite<Simd, S>& non_finite) {
        block_ = block;
        refused_count_ = 0;
        char *keys = at_.keys, *values = at_.values;
        for (int64_t first = begin; first < block.end; first += kStepColumns) {
            const uint32_t refused = pack_step<kKeys>(first, non_finite, keys) |
                                     pack_step<kValues>(first, non_finite, values);
            for (int64_t i = 0; i < kStepColumns; ++i)
                if (refused >> i & 1) at_.refused[refused_count_++] = first + i;
            keys += at_.d_steps * kStepBytes;
            values += at_.v_steps * kStepBytes;
        }
    }

    // The queries of a panel, which `ready_queries` has packed.
    const char* queries(int64_t panel) const {
        return at_.queries + slot(panel) * at_.d_steps * kQueryBytes;
    }

    // Packs a panel of queries unless it is packed; calls `refuse` with the rows that are out of
    // range.
    template <typename Refuse>
    [[gnu::always_inline]] void ready_queries(int64_t panel, Refuse refuse) {
        if (at_.panels[slot(panel)] == panel) return;
        at_.panels[slot(panel)] = panel;
        pack_panel(panel, refuse);
    }

    // The keys of the block that are out of range, or whose values are.
    const int64_t* refused() const { return at_.refused; }
    int64_t refused_count() const { return refused_count_; }

private:
    // Where a panel of queries is packed: if the keys are more than one block, it is kept.
    int64_t slot(int64_t panel) const { return keeps_ ? panel : 0; }

    template <typename Refuse>
    [[gnu::noinline]] void pack_panel(int64_t panel, Refuse refuse) {
        const KeepSubnormals keep_subnormals;
        const int64_t first = panel * kPanelRows, count = task_.row_end - task_.row_begin;
        const int64_t rows = count - first < kPanelRows ? count - first : kPanelRows;
        char* const to = at_.queries + slot(panel) * at_.d_steps * kQueryBytes;
        char* from[kPanelRows];
        addresses(task_, task_.q, first, rows, kPanelRows, from);
        if constexpr (kBFloat)
            if (task_.q.column == static_cast<int64_t>(sizeof(S))) {
                if (pack_bfloat_queries<Vec>(from, task_.dim, to).within(kScoredRange)) return;
            }
        float* stage = at_.stage.rows();  // [feature][query]
        pack_rows<Simd, S>(from, kPanelRows, task_.q.column, task_.dim, 1.0f, stage, kPanelRows);
        MatrixStage<Simd, S>::clear(stage + task_.dim * kPanelRows,
                                    (at_.d_steps * kStepColumns - task_.dim) * kPanelRows);
        refuse_queries<Simd, 2>(stage, task_.dim, [&](int64_t row) { refuse(first + row); });
        pack_queries<Unit, Components::q, kBFloat, 2>(stage, at_.d_steps, to);
    }

    static constexpr bool kKeys = false, kValues = true;

    // Packs 32 keys or values from `first` on; returns which of them are out of range.
    template <bool kWhich>
    uint32_t pack_step(int64_t first, NonFinite<Simd, S>& non_finite, char* to) {
        const RowSource& source = kWhich == kKeys ? task_.k : task_.v;
        const int64_t columns = kWhich == kKeys ? task_.dim : task_.dim_v;
        const int64_t steps = kWhich == kKeys ? at_.d_steps : at_.v_steps;
        const Range range = kWhich == kKeys ? kScoredRange : kValueRange;
        const auto pack = [&](auto type, const char* const* rows, int64_t count) {
            using Type = decltype(type);
            constexpr int kComponents = Components::a;
            if constexpr (kBFloat && kWhich == kKeys)
                return pack_bfloat_keys(rows, count, to);
            else if constexpr (kBFloat)
                return pack_bfloat_values<Vec>(rows, count, to);
            else if constexpr (kWhich == kKeys)
                return pack_keys<Unit, Type, kComponents>(rows, steps, to);
            else
                return pack_values<Unit, Type, kComponents>(rows, steps, to);
        };
        const char* rows[kStepColumns];
        if (adjacent<S>(source) && (kBFloat || columns % kStepColumns == 0)) {
            const bool whole = block_.holds(first) && block_.holds(first + kStepColumns - 1);
            const char* const zeros = whole ? nullptr : at_.stage.zeros(columns);
            for (int64_t i = 0; i < kStepColumns; ++i)
                rows[i] = block_.holds(first + i) ? row_of(source, first + i) : zeros;
            if (pack(S{}, rows, columns).within(range)) return 0;
        }
        const uint32_t refused = at_.stage.read(source, columns, first, block_, range,
                                                kWhich == kKeys ? nullptr : &non_finite);
        at_.stage.addresses(steps * kStepColumns, rows);
        pack(float{}, rows, steps * kStepColumns);
        return refused;
    }

    const Task& task_;
    const Regions& at_;
    const bool keeps_;  // whether each panel of queries is kept
    Interval block_;
    int64_t refused_count_ = 0;
};

}  // namespace
}  // namespace fastattn
