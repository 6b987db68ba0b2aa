// The tile policy of a matrix unit for at most 16 rows of bfloat16, where memory is the limit.  The
// sums are those of matrix.hpp, in the same order, and so are the bits.
//
//   queries, keys, values    see matrix_few_operands.hpp
//   scores     [key][row], float32, for three jobs; then, in their place, the weights' components,
//              transposed
//   results    [row][column], float32, while a block is added; then [feature][row]
//
// As in matrix.hpp, the jobs form a pipeline.  While the matrix unit computes the scores of a job and
// the weighted values of another, the vector units pack values and compute the softmax of a third,
// and memory delivers a fourth.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flush.hpp"
#include "matrix_few_operands.hpp"
#include "matrix_rows.hpp"
#include "panels.hpp"

namespace fastattn {
namespace {

template <typename MatrixUnit>
class FewMatrixTile {
public:
    using Unit = MatrixUnit;
    using Simd = typename Unit::Simd;
    using Storage = BFloat;
    using T = float;
    static constexpr int vectors = 1;
    static constexpr bool whole_panels = true;
    static constexpr int64_t panel_rows = kTileRows;
    static constexpr int64_t decode_rows = 0;

private:
    using Vec = typename Simd::Vec;
    using Components = ComponentsOf<Storage>;
    using Rows = MatrixRows<Unit, Storage, vectors, 3>;
    using Softmax = typename Rows::Softmax;
    using Operands = FewOperands<Unit>;
    using Panels = fastattn::Panels<Simd, vectors, true>;
    using Job = MatrixJob;
    static constexpr int64_t kRows = kTileRows;
    static constexpr int kPairs = Operands::kPairs;

public:
    struct Regions {
        typename Operands::Regions operands;
        typename Rows::Regions rows;
        float *results, *by_row;

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : operands(arena, block_k, dim, dim_v), rows(arena, rows, operands.job_keys) {
            results = arena.region<float>(kRows * operands.v_steps * kStepColumns);
            by_row = arena.region<float>(kRows * operands.v_steps * kStepColumns);
        }
    };

    FewMatrixTile(const Task& task, const Regions& regions, int64_t rows)
        : task_(task),
          at_(regions),
          operands_(task, regions.operands),
          rows_(task, regions.rows, rows, regions.operands.job_keys) {}

    float* results(int64_t) const { return at_.results; }
    int64_t features() const { return at_.operands.v_steps * kStepColumns; }
    const float* m() const { return rows_.m(); }
    const float* l() const { return rows_.l(); }
    const float* factors() const { return rows_.factors(); }
    float mask_factor() const { return rows_.mask_factor(); }
    bool refused(int64_t row) const { return rows_.refused(row); }
    void finish(int64_t first, int64_t count) { rows_.finish(first, count); }

    void load(Interval block, bool, NonFinite<Simd, Storage>& non_finite) {
        block_ = with_whole_jobs(task_, block, at_.operands.job_keys);
        non_finite.clear();
        operands_.start_block(block_.begin, block, non_finite);
    }

    template <typename Block>
    void compute(const Panels& panels, Block& rows) {
        const FlushSubnormals flush_subnormals;
        Panel& panel = panels.all[0];
        operands_.pack_queries([&](int64_t row) { rows_.refuse(row); });
        accumulate_ = panel.accumulate;
        if (accumulate_) to_rows();
        rows_.start_block();
        Job before{}, now{}, next = next_job(panels, 0);
        while (next.steps || now.steps || before.steps) {
            advance(rows, before, now, next);
            before = now;
            now = next;
            if (next.steps) next = next_job(panels, next.step + next.steps);
            rows_.next_stage();
        }
        to_features();
        panel.accumulate = true;
        rows_.end_block(rows, Count<1>{}, panel, 0, task_.row_end - task_.row_begin, operands_);
    }

private:
    Job next_job(const Panels& panels, int64_t step) const {
        return fastattn::next_job(panels, 0, step, block_, steps_of(at_.operands.job_keys),
                                  task_.mask.data);
    }

    // One stage of the pipeline: scores of `next`, weights of `now`, weighted values of `before`.
    template <typename Block>
    [[gnu::noinline]] void advance(Block& rows, const Job& before, const Job& now,
                                   const Job& next) {
        // The weights of `before` refer to a new m.
        if (rows_.take_raised() && accumulate_) rescale();
        if (next.steps) operands_.ready_keys(next);
        if (now.steps) rows_.prepare(rows, now, softmax_, [] {});
        operands_.start_prefetch(now, next);
        compute_scores_and_pack(next, before);
        add_values_and_apply_softmax(before, now);
        accumulators_.flush();
        if (now.steps && rows_.conclude(rows, now, softmax_, [&] { compute_again(now); }))
            for (int64_t step = 0; step < now.steps; ++step) transpose_weights(step);
    }

    [[gnu::noinline]] void compute_scores_and_pack(const Job& next, const Job& before) {
        const int64_t pairs = before.steps ? operands_.start_values(before) : 0;
        int64_t done = 0;
        if (next.steps) {
            Pace pace(pairs / kPairs, next.steps * at_.operands.d_steps);
            compute_scores(next, rows_.scores(Stage::kNext), [&]() __attribute__((always_inline)) {
                for (pace.tick(); pace.due(); done += kPairs) pack(before, done);
            });
        }
        for (; done < pairs; done += kPairs) pack(before, done);
        if (before.steps) operands_.end_values(before);
    }
    [[gnu::noinline]] void pack(const Job& before, int64_t pair) {
        operands_.prefetch_keys(pair);
        operands_.pack_values(before, pair);
    }

    [[gnu::noinline]] void add_values_and_apply_softmax(const Job& before, const Job& now) {
        const int64_t pairs = now.steps * kTileRows;
        int64_t done = 0;
        if (before.steps) {
            Pace pace(pairs / kPairs, 2 * before.steps * at_.operands.v_steps);
            add_values(before, [&]() __attribute__((always_inline)) {
                for (pace.tick(); pace.due(); done += kPairs) apply_softmax(done);
            });
            accumulate_ = true;
        }
        for (; done < pairs; done += kPairs) apply_softmax(done);
    }
    [[gnu::noinline]] void apply_softmax(int64_t pair) {
        operands_.prefetch_values(pair);
        softmax_.template pairs<kPairs>(pair);
        if (pair % kTileRows == kTileRows - kPairs) transpose_weights(pair / kTileRows);
    }

    // Tiles are computed four at a time: the keys of two steps, or the features of two steps.
    template <typename Between>
    [[gnu::always_inline]] void compute_scores(const Job& job, float* s, Between between) {
        const QueryLayout<Components::q> queries{at_.operands.queries};
        constexpr int64_t kStep = kStepColumns * kRows, kTile = kTileRows * kRows, kRowBytes = 64;
        PairLayout keys = operands_.keys(job);
        int64_t left = job.steps;
        for (; left >= 2; left -= 2, keys.first += 2 * keys.pair, s += 2 * kStep)
            accumulators_.template multiply<Components::scores, 4, true>(
                keys, queries, at_.operands.d_steps, nullptr, s, kRowBytes, kTile, between);
        if (left)
            accumulators_.template multiply<Components::scores, 2, true>(
                keys, queries, at_.operands.d_steps, nullptr, s, kRowBytes, kTile, between);
    }

    template <typename Between>
    [[gnu::always_inline]] void add_values(const Job& job, Between between) {
        const WeightLayout<Softmax> weights{
            reinterpret_cast<const char*>(rows_.scores(Stage::kBefore)), nullptr};
        const int64_t row_bytes = 4 * features();
        PairLayout values = operands_.values();
        float* o = at_.by_row;
        int64_t left = at_.operands.v_steps;
        for (; left >= 2; left -= 2, values.first += 2 * values.pair, o += 2 * kStepColumns)
            accumulators_.template multiply<Components::values, 4, false>(
                values, weights, job.steps, accumulate_ ? o : nullptr, o, row_bytes, kTileRows,
                between);
        if (left)
            accumulators_.template multiply<Components::values, 2, false>(
                values, weights, job.steps, accumulate_ ? o : nullptr, o, row_bytes, kTileRows,
                between);
    }

    [[gnu::noinline]] void compute_again(const Job& job) {
        compute_scores(job, rows_.scores(Stage::kNow), [] {});
        accumulators_.flush();
    }

    // Makes the rows of a step's weights those of queries, as operands of the second product.
    [[gnu::always_inline]] void transpose_weights(int64_t step) const {
        float* s = softmax_.scores + step * kStepColumns * kRows;
        for (int component = 0; component < Components::p; ++component, s += kTileRows * kRows)
            transpose_square(s, kRows, s, kRows);
    }
    [[gnu::noinline]] static void transpose_square(const float* from, int64_t ld_from, float* to,
                                                   int64_t ld_to) {
        Vec square[kTileRows];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) square[i] = fastattn::load<Vec>(from + i * ld_from);
        transpose<Vec, kTileRows>(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) store(to + i * ld_to, square[i]);
    }

    // [row][column] to [feature][row] of the results, and back.
    void to_features() const {
        alignas(64) float square[kTileRows * kTileRows];
        for (int64_t c = 0; c < features(); c += kTileRows) {
            transpose_square(at_.by_row + c, features(), square, kTileRows);
            for (int64_t i = 0; i < kTileRows; ++i)
                store(at_.results + Operands::feature_of(c + i) * kRows,
                      fastattn::load<Vec>(square + i * kTileRows));
        }
    }
    void to_rows() const {
        alignas(64) float square[kTileRows * kTileRows];
        for (int64_t c = 0; c < features(); c += kTileRows) {
            for (int64_t i = 0; i < kTileRows; ++i)
                store(square + i * kTileRows,
                      fastattn::load<Vec>(at_.results + Operands::feature_of(c + i) * kRows));
            transpose_square(square, kTileRows, at_.by_row + c, features());
        }
    }

    // Makes the results refer to a new m.
    [[gnu::noinline]] void rescale() const {
        for (int64_t r = 0; r < kRows; ++r) {
            const Vec alpha = broadcast<Simd>(rows_.alpha_before()[r]);
            float* const row = at_.by_row + r * features();
            for (int64_t c = 0; c < features(); c += Simd::lanes)
                store(row + c, fastattn::load<Vec>(row + c) * alpha);
        }
    }

    const Task& task_;
    const Regions& at_;
    Operands operands_;
    LineAccumulators<Unit> accumulators_;
    Rows rows_;
    Softmax softmax_;
    Interval block_;  // keys; begins at a job
    bool accumulate_ = false;
};

}  // namespace
}  // namespace fastattn
