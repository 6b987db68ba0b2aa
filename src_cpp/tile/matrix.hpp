// The tile policy of a matrix unit (amx.hpp): both products as sums of bfloat16 products.
//
//   queries    components, packed panel by panel, when the panel's first job comes
//   keys       components, packed once per block of keys
//   values     components, transposed, packed once per block of keys
//   scores     [key][row], float32, for two jobs; then, in their place, the weights' components
//   results    [feature][row], float32
//
// A job is up to job_keys keys of a block for one panel of 32 rows.  The jobs of a block form one
// pipeline: while the softmax of a job runs on the vector units, the matrix unit computes the
// scores of the next job and the weighted values of the one before, a product at a time.
//
// A row for which components are not exact enough, because it or a key or value that is visible to
// it is out of range, ends with NaN as its sum: it is refused, and computed by multiply-add
// (kernels.hpp).  So a masked key never changes a row, and neither do the row's neighbours.
//
// Sums are taken in steps of 32 columns, one after another.  Steps lie at multiples of 32 from the
// first key of a block, whatever is visible of it.
//
// Legend: S = storage type; m, l = a row's reference and sum, see matrix_softmax.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flush.hpp"
#include "matrix_accumulators.hpp"
#include "matrix_few.hpp"
#include "matrix_jobs.hpp"
#include "matrix_operands.hpp"
#include "matrix_rows.hpp"
#include "panels.hpp"

namespace fastattn {
namespace {

// The tile policy for few rows, for the types that have one.
template <typename Unit, typename S>
struct FewTileOf {};
template <typename Unit>
struct FewTileOf<Unit, BFloat> {
    using Few = FewMatrixTile<Unit>;
};

template <typename MatrixUnit, typename S>
class MatrixTile : public FewTileOf<MatrixUnit, S> {
public:
    using Unit = MatrixUnit;
    using Simd = typename Unit::Simd;
    using Storage = S;
    using T = float;
    static constexpr int vectors = 2;
    static constexpr bool whole_panels = true;
    static constexpr int64_t panel_rows = kPanelRows;
    static constexpr int64_t decode_rows = 0;
    static constexpr int tile_keys = kStepColumns;
    static constexpr int block_keys = 2048;
    static constexpr int64_t chunk = INT32_MAX;
    static constexpr int packed = 2 * ComponentsOf<S>::a;

private:
    using Vec = typename Simd::Vec;
    using Components = ComponentsOf<S>;
    using Rows = MatrixRows<Unit, S, vectors, 2>;
    using Operands = MatrixOperands<Unit, S>;
    using Job = MatrixJob;

    // If the results of a block of rows are this large, the rows of a panel are written as soon as
    // they are complete, from the L2 cache.  The results of fewer rows are read from there
    // anyway, and written together: a break in the pipeline for each panel would cost more.
    static constexpr int64_t kResultsOfL2 = int64_t{512} << 10;

public:
    struct Regions {
        typename Operands::Regions operands;
        int64_t job_keys;
        typename Rows::Regions rows;
        float* results;

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : operands(arena, rows, block_k, dim, dim_v),
              job_keys(job_keys_for(operands.d_steps + operands.v_steps)),
              rows(arena, rows, job_keys) {
            results = arena.region<float>(rows * operands.v_steps * kStepColumns);
        }
    };

    MatrixTile(const Task& task, const Regions& regions, int64_t rows)
        : task_(task),
          at_(regions),
          operands_(task, regions.operands, rows),
          rows_(task, regions.rows, rows, regions.job_keys),
          ends_early_(rows * features() * 4 >= kResultsOfL2),
          keeps_one_(ends_early_ && task.key_end - task.key_begin <= task.block_k) {}

    // Packing has to pay, and the matrix unit starts slowly: the more products a number takes, the
    // more work is needed.  With three components, the gain is at most twofold: padding to whole
    // tiles would cost as much, and so would packing wide heads for few rows.
    static bool worthwhile(const Extents& of) {
        constexpr int64_t kRows = Components::a == 1 ? 9 : Components::a == 2 ? 17 : 128;
        constexpr double kWork = Components::a == 1 ? 0x1p18 : Components::a == 2 ? 0x1p19 : 0x1p22;
        const double area = static_cast<double>(of.rows * of.keys);
        const int64_t dims = of.dim + of.dim_v;
        if (of.rows < kRows || of.keys < 64 || area * static_cast<double>(dims) < kWork)
            return false;
        if (Components::a < 3) return true;
        const double padded =
            static_cast<double>(round_up(of.rows, kPanelRows) * round_up(of.keys, kStepColumns));
        return area >= 0.8 * padded && (dims <= 1024 || (dims <= 2048 && of.rows >= 4 * kRows));
    }

    float* results(int64_t first) const {
        return at_.results + (keeps_one_ ? 0 : first * features());
    }
    int64_t features() const { return at_.operands.v_steps * kStepColumns; }
    const float* m() const { return rows_.m(); }
    const float* l() const { return rows_.l(); }
    const float* factors() const { return rows_.factors(); }
    float mask_factor() const { return rows_.mask_factor(); }
    bool refused(int64_t row) const { return rows_.refused(row); }
    void finish(int64_t first, int64_t count) { rows_.finish(first, count); }

    void load(Interval block, bool, NonFinite<Simd, S>& non_finite) {
        block_ = with_whole_jobs(task_, block, at_.job_keys);
        non_finite.clear();
        operands_.pack_block(block_.begin, block, non_finite);
    }

    template <typename Block>
    void compute(const Panels<Simd, vectors, true>& panels, Block& rows) {
        const FlushSubnormals flush_subnormals;
        Job before{}, now{}, next = next_job(panels, 0, 0);
        accumulators_.clear();
        rows_.start_block();
        while (next.steps || now.steps || before.steps) {
            if (next.steps) ready_queries(next.panel);
            advance(panels, rows, before, now, next);
            const bool complete = before.steps && !(now.steps && now.panel == before.panel);
            if (complete && ends_early_ && rows.last_block()) {
                if (!next.steps) accumulators_.flush();
                end_panel(panels, rows, before.panel);
            }
            before = now;
            now = next;
            if (next.steps) next = next_job(panels, next.panel, next.step + next.steps);
            rows_.next_stage();
        }
        accumulators_.flush();
        panels.each([&](auto count, const Panel& panel, int64_t first, int64_t real) {
            if (!panel.keys.empty() && !panel.ended)
                rows_.end_block(rows, count, panel, first, real, operands_);
        });
    }

private:
    // The first job at or after a panel and a step.
    Job next_job(const Panels<Simd, vectors, true>& panels, int64_t panel, int64_t step) const {
        return fastattn::next_job(panels, panel, step, block_, steps_of(at_.job_keys),
                                  task_.mask.data);
    }

    // Writes the rows of a panel whose results are complete.
    template <typename Block>
    [[gnu::noinline]] void end_panel(const Panels<Simd, vectors, true>& panels, Block& rows,
                                     int64_t which) {
        const KeepSubnormals keep_subnormals;
        const auto end = [&](auto count, Panel& panel, int64_t first, int64_t real) {
            rows_.end_block(rows, count, panel, first, real, operands_);
            rows.end_panel(count, panel, first, real);
        };
        panels.some(which * kPanelRows, (which + 1) * kPanelRows).each(end);
    }

    void ready_queries(int64_t panel) {
        operands_.ready_queries(panel, [&](int64_t row) { rows_.refuse(row); });
    }

    // One stage of the pipeline: scores of `next`, weights of `now`, weighted values of `before`.
    template <typename Block>
    [[gnu::noinline]] void advance(const Panels<Simd, vectors, true>& panels, Block& rows,
                                   const Job& before, const Job& now, const Job& next) {
        constexpr int64_t kScoreSlots = 4 * sizeof(Components::scores) / sizeof(ComponentProduct);
        constexpr int64_t kValueSlots = 4 * sizeof(Components::values) / sizeof(ComponentProduct);
        const bool raised = rows_.take_raised();  // the weights of `before` refer to a new m
        typename Rows::Softmax softmax;
        // The last scores of `now` are stored with the first product; those of one step are needed
        // at once.
        if (now.steps == 1 || !(before.steps || next.steps)) accumulators_.flush();
        if (now.steps) rows_.prepare(rows, now, softmax, [&] { accumulators_.flush(); });
        const int64_t pairs = now.steps * kTileRows;
        const int64_t slots = 1 + next.steps * at_.operands.d_steps * kScoreSlots +
                              before.steps * at_.operands.v_steps * kValueSlots;
        Pace pace(pairs, slots);
        int64_t done = 0;
        const auto between = [&]() __attribute__((always_inline)) {
            for (pace.tick(); pace.due();) softmax.pair(done++);
        };
        if (before.steps) {
            bool& accumulate = panels.all[before.panel].accumulate;
            float* o = results(before.panel * kPanelRows);
            if (raised && accumulate) accumulators_.flush(), rescale(o);
            const int64_t stride = at_.operands.v_steps * Operands::kStepBytes;
            const char* a = at_.operands.values + before.step * stride;
            const WeightLayout<typename Rows::Softmax> b{
                reinterpret_cast<const char*>(rows_.scores(Stage::kBefore)),
                rows_.third(Stage::kBefore)};
            for (int64_t f = 0; f < at_.operands.v_steps;
                 ++f, a += Operands::kStepBytes, o += kStepColumns * kPanelRows)
                accumulators_.template multiply<Components::values, Components::low>(
                    a, stride, b, before.steps, accumulate ? o : nullptr, o, between);
            accumulate = true;
        }
        if (next.steps) compute_scores(next, rows_.scores(Stage::kNext), between);
        if (now.steps) {
            while (done < pairs) softmax.pair(done++);
            rows_.conclude(rows, now, softmax, [&] { compute_again(now); });
        }
    }

    template <typename Between>
    [[gnu::always_inline]] void compute_scores(const Job& job, float* s, Between between) {
        const int64_t stride = at_.operands.d_steps * Operands::kStepBytes;
        const char* a = at_.operands.keys + job.step * stride;
        const QueryLayout<Components::q> b{operands_.queries(job.panel)};
        for (int64_t g = 0; g < job.steps; ++g, a += stride, s += kStepColumns * kPanelRows)
            accumulators_.template multiply<Components::scores, Components::low>(
                a, Operands::kStepBytes, b, at_.operands.d_steps, nullptr, s, between);
    }

    [[gnu::noinline]] void compute_again(const Job& job) {
        accumulators_.flush();
        ready_queries(job.panel);
        compute_scores(job, rows_.scores(Stage::kNow), [] {});
        accumulators_.flush();
    }

    // Makes a panel's results refer to a new m.
    [[gnu::noinline]] void rescale(float* o) const {
        const float* alpha = rows_.alpha_before();
        for (int64_t f = 0; f < features(); ++f, o += kPanelRows)
            for (int64_t i = 0; i < kPanelRows; i += Simd::lanes)
                store(o + i, fastattn::load<Vec>(o + i) * fastattn::load<Vec>(alpha + i));
    }

    const Task& task_;
    const Regions& at_;
    Operands operands_;
    MatrixAccumulators<Unit> accumulators_;
    Rows rows_;
    const bool ends_early_;  // rows are written panel by panel
    const bool keeps_one_;   // panel's results at a time: there is one block of keys
    Interval block_;         // keys; begins at a job
};

}  // namespace
}  // namespace fastattn
