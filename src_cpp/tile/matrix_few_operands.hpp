// The operands of the matrix tile of few rows: queries, and the keys and values of the jobs in its
// pipeline.
//
//   queries    packed once, [step of features][16 pairs of features][16 rows]
//   keys       in place, or packed job by job as in matrix_pack.hpp
//   values     of one job, [step of keys][step of features][2][16 pairs of keys][16 features]
//
// A key or value that is out of range is packed as 0 and listed; a query that is out of range is
// packed as 0 and reported.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matrix_bfloat.hpp"
#include "matrix_jobs.hpp"
#include "matrix_line.hpp"
#include "matrix_stage.hpp"
#include "pack.hpp"
#include "prefetch.hpp"

namespace fastattn {
namespace {

template <typename Unit>
class FewOperands {
    using S = BFloat;
    using Simd = typename Unit::Simd;
    using Job = MatrixJob;
    static constexpr int64_t kRows = kTileRows;
    static constexpr int64_t kStepBytes = kComponentBytes;  // of 32 columns of 32 keys or values

public:
    static constexpr int kPairs = 4;  // of keys that are worked on at a time

    struct Regions {
        int64_t d_steps, v_steps, job_keys;
        char *keys, *values, *queries;
        MatrixStage<Simd, S> stage;
        int64_t* refused;

        Regions(Arena& arena, int64_t block_k, int64_t dim, int64_t dim_v)
            : d_steps(steps_of(dim)),
              v_steps(steps_of(dim_v)),
              job_keys(job_keys_for(d_steps + v_steps)),
              stage(arena, d_steps > v_steps ? d_steps : v_steps) {
            keys = arena.region<char>(2 * steps_of(job_keys) * d_steps * kStepBytes);
            values = arena.region<char>(steps_of(job_keys) * v_steps * kStepBytes);
            queries = arena.region<char>(d_steps * kComponentBytes);
            refused = arena.region<int64_t>(2 * block_k);
        }
    };

    FewOperands(const Task& task, const Regions& regions) : task_(task), at_(regions) {}

    // Starts a block, whose first step begins with key `begin`.
    void start_block(int64_t begin, Interval block, NonFinite<Simd, S>& non_finite) {
        begin_ = begin;
        block_ = block;
        refused_count_ = 0;
        non_finite_ = &non_finite;
    }

    // Packs the queries, once; calls `refuse` with the rows that are out of range.
    template <typename Refuse>
    void pack_queries(Refuse refuse) {
        if (packed_queries_) return;
        packed_queries_ = true;
        const KeepSubnormals keep_subnormals;
        char* from[kRows];
        addresses(task_, task_.q, 0, task_.row_end - task_.row_begin, kRows, from);
        float* const stage = at_.stage.rows();  // [feature][query]
        pack_rows<Simd, S>(from, kRows, task_.q.column, task_.dim, 1.0f, stage, kRows);
        MatrixStage<Simd, S>::clear(stage + task_.dim * kRows,
                                    (at_.d_steps * kStepColumns - task_.dim) * kRows);
        refuse_queries<Simd, 1>(stage, task_.dim, refuse);
        fastattn::pack_queries<Unit, 1, true, 1>(stage, at_.d_steps, at_.queries);
    }

    // Makes the keys of a job ready: in place if they fill whole steps and are in range.
    [[gnu::noinline]] void ready_keys(const Job& job) {
        in_place(job) = task_.dim % kStepColumns == 0 && whole(job, task_.k) && in_range(job);
        if (!in_place(job)) stage_keys(job);
    }
    PairLayout keys(const Job& job) const {
        if (in_place_[buffer(job)])
            return {row_of(task_.k, key(job.step)), 2 * kStepColumns, kStepColumns * task_.k.row,
                    kTileRows * task_.k.row, task_.k.row};
        return {packed_keys(job), kStepBytes, at_.d_steps * kStepBytes, kTileBytes, 64};
    }

    // Starts to pack the values of a job; returns how many pairs of keys are to be packed by
    // `pack_values`: none if the job is left to `end_values`.
    int64_t start_values(const Job& job) {
        found_ = {};
        reads_values_ = whole(job, task_.v);
        return reads_values_ ? job.steps * kTileRows : 0;
    }
    [[gnu::always_inline]] void pack_values(const Job& job, int64_t pair) {
        const int64_t i = pair % kTileRows;
        const char* row = row_of(task_.v, key(job.step + pair / kTileRows) + i);
        const char *first[kPairs], *second[kPairs];
        for (int n = 0; n < kPairs; ++n, row += task_.v.row) {
            first[n] = row;
            second[n] = row + kTileRows * task_.v.row;
        }
        pack_pairs<kPairs>(first, second, task_.dim_v, packed_values(pair / kTileRows) + i * 64);
    }
    void end_values(const Job& job) {
        if (!reads_values_ || !found_.within(kValueRange)) stage_values(job);
    }
    PairLayout values() const {
        return {at_.values, at_.v_steps * kStepBytes, kStepBytes, kTileBytes, 64};
    }
    // The feature of column `index` of packed values: of each 8 features, a tile has 4.
    static int64_t feature_of(int64_t index) {
        const int64_t i = index % kStepColumns;
        return index - i + i % kTileRows / 4 * 8 + i / kTileRows * 4 + i % 4;
    }

    // The keys of the block that are out of range, or whose values are.
    const int64_t* refused() const { return at_.refused; }
    int64_t refused_count() const { return refused_count_; }

    // What `prefetch` is to prefetch: the keys after those of `next`, and the values of `now`.
    void start_prefetch(const Job& now, const Job& next) {
        const int64_t most = steps_of(at_.job_keys);
        const int64_t after = key(next.step + next.steps);
        next_keys_ = next.steps == most && after < task_.key_end ? row_of(task_.k, after) : nullptr;
        next_values_ = now.steps == most ? row_of(task_.v, key(now.step)) : nullptr;
    }
    [[gnu::always_inline]] void prefetch_keys(int64_t pair) const {
        if (next_keys_) prefetch_rows(next_keys_, task_.k, task_.dim, pair);
    }
    [[gnu::always_inline]] void prefetch_values(int64_t pair) const {
        if (next_values_) prefetch_rows(next_values_, task_.v, task_.dim_v, pair);
    }

private:
    int64_t key(int64_t step) const { return begin_ + step * kStepColumns; }

    // Whether all keys of a job are in the block, and can be read where they lie.
    bool whole(const Job& job, const RowSource& source) const {
        return adjacent<S>(source) && block_.holds(key(job.step)) &&
               block_.holds(key(job.step + job.steps) - 1);
    }

    // Keys have two buffers: when those of the next job are packed, a job's may be needed again.
    int64_t buffer(const Job& job) const { return job.step / steps_of(at_.job_keys) % 2; }
    bool& in_place(const Job& job) { return in_place_[buffer(job)]; }
    char* packed_keys(const Job& job) const {
        return at_.keys + buffer(job) * steps_of(at_.job_keys) * at_.d_steps * kStepBytes;
    }
    char* packed_values(int64_t step) const { return at_.values + step * at_.v_steps * kStepBytes; }

    bool in_range(const Job& job) const {
        BFloatLargest found;
        const char* row = row_of(task_.k, key(job.step));
        for (int64_t i = 0; i < job.steps * kStepColumns; ++i, row += task_.k.row)
            for (int64_t d = 0; d < task_.dim; d += kStepColumns)
                found.note(load<BFloatStep>(row + 2 * d));
        return found.within(kScoredRange);
    }

    [[gnu::noinline]] void stage_keys(const Job& job) {
        const int64_t columns = at_.d_steps * kStepColumns;
        const char* rows[kStepColumns];
        for (int64_t i = 0; i < job.steps; ++i) {
            stage(task_.k, task_.dim, job.step + i, kScoredRange, nullptr, rows);
            pack_bfloat_keys(rows, columns, packed_keys(job) + i * at_.d_steps * kStepBytes);
        }
    }
    [[gnu::noinline]] void stage_values(const Job& job) {
        const int64_t columns = at_.v_steps * kStepColumns;
        const char* rows[kStepColumns];
        for (int64_t i = 0; i < job.steps; ++i) {
            stage(task_.v, task_.dim_v, job.step + i, kValueRange, non_finite_, rows);
            for (int64_t j = 0; j < kTileRows; ++j)
                pack_pairs<1>(rows + j, rows + j + kTileRows, columns, packed_values(i) + j * 64);
        }
    }
    // Stages a step's rows as bfloat16, and lists those that are out of range.
    void stage(const RowSource& source, int64_t columns, int64_t step, Range range,
               NonFinite<Simd, S>* non_finite, const char** rows) {
        const KeepSubnormals keep_subnormals;
        const uint32_t refused =
            at_.stage.read(source, columns, key(step), block_, range, non_finite);
        for (int64_t i = 0; i < kStepColumns; ++i)
            if (refused >> i & 1) at_.refused[refused_count_++] = key(step) + i;
        at_.stage.addresses(steps_of(columns) * kStepColumns, rows);
    }

    // kCount rows of pairs, from as many first and second keys' values.
    template <int kCount>
    [[gnu::always_inline]] void pack_pairs(const char* const* first, const char* const* second,
                                           int64_t columns, char* to) {
        BFloatMagnitudes found = found_;
        for (int64_t c = 0; c < columns; c += kStepColumns, to += kStepBytes)
#pragma GCC unroll 4
            for (int n = 0; n < kCount; ++n) {
                const BFloatStep a = load_step(first[n] + 2 * c, columns - c);
                const BFloatStep b = load_step(second[n] + 2 * c, columns - c);
                found.note(a);
                found.note(b);
                store(to + n * 64, pair_features<0>(a, b));
                store(to + n * 64 + kTileBytes, pair_features<4>(a, b));
            }
        found_ = found;
    }

    // What kPairs pairs take of a job's rows: four streams side by side.
    [[gnu::always_inline]] void prefetch_rows(const char* at, const RowSource& source,
                                              int64_t columns, int64_t pair) const {
        constexpr int64_t kStreams = 4, kRowsOfStream = 2 * kPairs / kStreams;
        const int64_t span = at_.job_keys / kStreams * source.row;
        at += pair / kPairs * kRowsOfStream * source.row;
        for (int64_t row = 0; row < kRowsOfStream; ++row, at += source.row)
            for (int64_t byte = 0; byte < 2 * columns; byte += kLineBytes)
#pragma GCC unroll 4
                for (int64_t stream = 0; stream < kStreams; ++stream)
                    __builtin_prefetch(at + stream * span + byte);
    }

    const Task& task_;
    const Regions& at_;
    NonFinite<Simd, S>* non_finite_ = nullptr;
    int64_t begin_ = 0;  // first key of the first step
    Interval block_{};
    int64_t refused_count_ = 0;
    BFloatMagnitudes found_;  // of the values that are packed
    const char *next_keys_ = nullptr, *next_values_ = nullptr;
    bool in_place_[2] = {};  // whether the keys that would be in a buffer are read in place
    bool reads_values_ = false, packed_queries_ = false;
};

}  // namespace
}  // namespace fastattn
