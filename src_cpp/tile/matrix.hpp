// The tile policy of a matrix unit (amx.hpp): both products as sums of bfloat16 products.
//
//   queries    components, packed panel by panel, when the panel's first job of a block comes
//   keys       components, packed once per block of keys
//   values     components, transposed, packed once per block of keys
//   scores     [key][row], float32, for two jobs; then, in their place, the weights' components
//   results    [feature][row], float32
//
// A job is up to job_keys keys of a block for one panel of 32 rows.  The jobs of a block form one
// pipeline: while the softmax of a job runs on the vector units, the matrix unit computes the
// scores of the next job and the weighted values of the one before, a pair of products at a time.
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
#include "matrix_jobs.hpp"
#include "matrix_operands.hpp"
#include "matrix_softmax.hpp"
#include "panels.hpp"

namespace fastattn {
namespace {

template <typename MatrixUnit, typename S>
class MatrixTile {
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
    using Softmax = MatrixSoftmax<Unit, S>;
    using Operands = MatrixOperands<Unit, S>;
    static constexpr int64_t kHalf = kTileRows;  // rows of half a panel

public:
    struct Regions {
        typename Operands::Regions operands;
        int64_t job_keys;
        char* third;  // component of weights: of both jobs in turns, step by step
        float *scores, *results, *reference, *sum, *m, *l, *factors;

        // Scores and weights stay in the L1 cache beside results of few features; those of many
        // leave it, and are to be read and written seldom.
        static constexpr int64_t job_keys_for(int64_t steps) { return steps <= 8 ? 64 : 256; }

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : operands(arena, block_k, dim, dim_v),
              job_keys(job_keys_for(operands.d_steps + operands.v_steps)) {
            third = arena.region<char>(Components::p == 3 ? steps_of(job_keys) * 2 * kComponentBytes
                                                          : 0);
            scores = arena.region<float>(2 * job_keys * kPanelRows);
            results = arena.region<float>(rows * operands.v_steps * kStepColumns);
            reference = arena.region<float>(rows);
            sum = arena.region<float>(rows);
            m = arena.region<float>(rows);
            l = arena.region<float>(rows);
            factors = arena.region<float>(rows);
        }
    };

    MatrixTile(const Task& task, const Regions& regions, int64_t rows)
        : task_(task),
          at_(regions),
          operands_(task, regions.operands),
          rows_(rows),
          scaled_(task.softcap != 0) {
        constexpr double kLog2e = 1.4426950408889634;
        factor_ = static_cast<float>(scaled_ ? kLog2e : task.scale * kLog2e);
        // With such a scale, scores of values in range are finite and in the order of the products;
        // otherwise, all rows are refused.
        const bool in_range = task.score_factor == 1 && task.scale > 0x1p-40 &&
                              task.scale * static_cast<double>(task.dim) < 0x1p30;
        for (int64_t r = 0; r < rows; ++r) {
            at_.reference[r] = -kInfinity<float>;
            at_.sum[r] = in_range ? 0 : __builtin_nanf("");
        }
    }

    // Packing has to pay, and the matrix unit starts slowly: the more products a number takes, the
    // more work is needed.  With three components, the gain is at most twofold: padding to whole
    // tiles, or results and queries that leave the L1 cache, would cost as much.
    static bool worthwhile(const Extents& of) {
        constexpr int64_t kRows = Components::a < 3 ? kPanelRows : 2 * kPanelRows;
        constexpr double kWork = Components::a == 1 ? 0x1p18 : Components::a == 2 ? 0x1p20 : 0x1p22;
        const double area = static_cast<double>(of.rows * of.keys);
        const double padded =
            static_cast<double>(round_up(of.rows, kPanelRows) * round_up(of.keys, kStepColumns));
        const int64_t dims = of.dim + of.dim_v;
        return of.rows >= kRows && of.keys >= 64 && area * static_cast<double>(dims) >= kWork &&
               (Components::a < 3 || (area >= 0.8 * padded && dims <= 1024));
    }

    float* results(int64_t first) const { return at_.results + first * features(); }
    int64_t features() const { return at_.operands.v_steps * kStepColumns; }
    const float* m() const { return at_.m; }
    const float* l() const { return at_.l; }
    const float* factors() const { return at_.factors; }
    // By which the dense mask is multiplied before it is added to a panel's scores.
    float mask_factor() const { return scaled_ ? 1 : static_cast<float>(1 / task_.scale); }
    // Whether a row is not exact enough.
    bool refused(int64_t row) const { return !(at_.l[row] < kInfinity<float>); }

    void load(Interval block, bool, NonFinite<Simd, S>& non_finite) {
        const int64_t grid =
            task_.key_begin + (block.begin - task_.key_begin) / task_.block_k * task_.block_k;
        block_ = {grid + (block.begin - grid) / at_.job_keys * at_.job_keys, block.end};
        non_finite.clear();
        operands_.pack_block(block_.begin, block, non_finite);
    }

    template <typename Block>
    void compute(const Panels<Simd, vectors, true>& panels, Block& rows) {
        const FlushSubnormals flush_subnormals;
        Job before{}, now{}, next = next_job(panels, 0, 0);
        accumulators_.clear();
        packed_panel_ = -1;
        parity_ = 0;
        raised_ = false;
        while (next.steps || now.steps || before.steps) {
            if (next.steps && next.panel != packed_panel_) pack_queries(next.panel);
            advance(panels, rows, before, now, next);
            before = now;
            now = next;
            if (next.steps) next = next_job(panels, next.panel, next.step + next.steps);
            parity_ ^= 1;
        }
        accumulators_.flush();
        // Whatever the weight of a value that is not finite, the result is not finite.
        panels.each([&](auto count, const Panel& panel, int64_t first, int64_t real) {
            if (!panel.keys.empty())
                rows.add_non_finite(count, panel, first, real,
                                    [](int64_t, int64_t) { return 1.0f; });
        });
    }

    // What m loses by rounding, the factors give back.
    void finish() {
        constexpr double kLn2 = 0.6931471805599453;
        for (int64_t r = 0; r < rows_; ++r) {
            const bool some = at_.reference[r] > -kInfinity<float>;
            const double m = some ? at_.reference[r] * kLn2 : 0;
            at_.m[r] = some ? static_cast<float>(m) : -kInfinity<float>;
            const double lost = some ? m - static_cast<double>(at_.m[r]) : 0;
            at_.factors[r] = static_cast<float>((1 + lost) / kWeightScale);
            at_.l[r] = static_cast<float>(at_.sum[r] * ((1 + lost) / kWeightScale));
        }
    }

private:
    using Job = MatrixJob;

    // The first job at or after a panel and a step.
    Job next_job(const Panels<Simd, vectors, true>& panels, int64_t panel, int64_t step) const {
        return fastattn::next_job(panels, panel, step, block_, steps_of(at_.job_keys),
                                  task_.mask.data);
    }

    void pack_queries(int64_t panel) {
        const KeepSubnormals keep_subnormals;
        const int64_t first = panel * kPanelRows, count = task_.row_end - task_.row_begin;
        operands_.pack_panel(first, count - first < kPanelRows ? count - first : kPanelRows,
                             [&](int64_t row) { at_.sum[row] = __builtin_nanf(""); });
        packed_panel_ = panel;
    }

    static Vec load_vector(const float* from) { return fastattn::load<Vec>(from); }
    float* scores(int parity) const { return at_.scores + parity * at_.job_keys * kPanelRows; }
    char* third(int parity) const { return at_.third + parity * kComponentBytes; }

    // One stage of the pipeline: scores of `next`, weights of `now`, weighted values of `before`.
    template <typename Block>
    [[gnu::noinline]] void advance(const Panels<Simd, vectors, true>& panels, Block& rows,
                                   const Job& before, const Job& now, const Job& next) {
        constexpr int64_t kScoreSlots = 2 * sizeof(Components::scores) / sizeof(ComponentProduct);
        constexpr int64_t kValueSlots = 2 * sizeof(Components::values) / sizeof(ComponentProduct);
        constexpr int kFraction = 20;  // bits of the rate
        const bool raised = raised_;   // the weights of `before` refer to a new m
        if (raised) __builtin_memcpy(alpha_before_, alpha_, sizeof(alpha_));
        raised_ = false;
        Softmax softmax;
        // The last scores of `now` are stored with the first product; those of one step are needed
        // at once.
        if (now.steps == 1 || !(before.steps || next.steps)) accumulators_.flush();
        if (now.steps) prepare(rows, now, softmax);
        const int64_t pairs = now.steps * kTileRows;
        const int64_t slots = 1 + next.steps * at_.operands.d_steps * kScoreSlots +
                              before.steps * at_.operands.v_steps * kValueSlots;
        const int64_t rate = (pairs << kFraction) / slots;
        int64_t credit = 0, done = 0;
        const auto between = [&]() __attribute__((always_inline)) {
            for (credit += rate; credit >> kFraction; credit -= int64_t{1} << kFraction)
                softmax.pair(done++);
        };
        if (before.steps) {
            bool& accumulate = panels.all[before.panel].accumulate;
            float* o = results(before.panel * kPanelRows);
            if (raised && accumulate) accumulators_.flush(), rescale(o);
            const int64_t stride = at_.operands.v_steps * Operands::kStepBytes;
            const char* a = at_.operands.values + before.step * stride;
            const WeightLayout b{reinterpret_cast<const char*>(scores(parity_ ^ 1)),
                                 third(parity_ ^ 1)};
            for (int64_t f = 0; f < at_.operands.v_steps;
                 ++f, a += Operands::kStepBytes, o += kStepColumns * kPanelRows)
                accumulators_.template multiply<Components::values, Components::low>(
                    a, stride, b, before.steps, accumulate ? o : nullptr, o, between);
            accumulate = true;
        }
        if (next.steps) compute_scores(next, scores(parity_ ^ 1), between);
        if (now.steps) {
            while (done < pairs) softmax.pair(done++);
            conclude(rows, now, softmax);
        }
    }

    template <typename Between>
    [[gnu::always_inline]] void compute_scores(const Job& job, float* s, Between between) {
        const int64_t stride = at_.operands.d_steps * Operands::kStepBytes;
        const char* a = at_.operands.keys + job.step * stride;
        const QueryLayout<Components::q> b{at_.operands.queries};
        for (int64_t g = 0; g < job.steps; ++g, a += stride, s += kStepColumns * kPanelRows)
            accumulators_.template multiply<Components::scores, Components::low>(
                a, Operands::kStepBytes, b, at_.operands.d_steps, nullptr, s, between);
    }

    bool changes_scores(const Job& job) const {
        const bool padded = job.mask.keys.count() < job.steps * kStepColumns;
        return scaled_ || job.mask.dense || job.mask.partial || padded || operands_.refuses();
    }

    // Masks the scores of a job and starts its softmax.
    template <typename Block>
    [[gnu::always_inline]] void prepare(Block& rows, const Job& job, Softmax& softmax) {
        softmax.scores = scores(parity_);
        softmax.third = third(parity_);
        softmax.factor = broadcast<Simd>(factor_);
        if (changes_scores(job)) {
            accumulators_.flush();
            mask(rows, job);
        }
        const float* m = at_.reference + job.panel * kPanelRows;
        const Vec none = broadcast<Simd>(-kInfinity<float>);
        if (any_yes((load_vector(m) == none) | (load_vector(m + kHalf) == none))) {
            accumulators_.flush();
            raise(job, nullptr);
        }
        begin_totals(job, softmax);
    }

    [[gnu::always_inline]] void begin_totals(const Job& job, Softmax& softmax) const {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const Vec m = load_vector(at_.reference + job.panel * kPanelRows + half * kHalf);
            softmax.shift[half] = m == broadcast<Simd>(-kInfinity<float>) ? Vec{} : -m;
            softmax.low[half] = softmax.high[half] = Vec{};
        }
    }

    template <typename Block>
    [[gnu::noinline]] void mask(Block& rows, const Job& job) {
        const KeepSubnormals keep_subnormals;
        float* s = scores(parity_);
        const Interval keys = job.mask.keys;
        const int64_t first = job.panel * kPanelRows, count = task_.row_end - task_.row_begin;
        if (scaled_) {
            const Vec scale = broadcast<Simd>(static_cast<float>(task_.scale));
            for (int64_t i = 0; i < keys.count() * kPanelRows; i += Simd::lanes)
                fastattn::store(s + i, load_vector(s + i) * scale);
        }
        rows.template mask_scores<vectors>(
            job.mask, first, count - first < kPanelRows ? count - first : kPanelRows, s);
        for (int64_t i = keys.count() * kPanelRows; i < job.steps * kStepColumns * kPanelRows; ++i)
            s[i] = -kInfinity<float>;
        operands_.each_refused(keys, [&](int64_t key) {
            float* row = s + (key - keys.begin) * kPanelRows;
            for (int64_t r = 0; r < kPanelRows; ++r)
                if (row[r] != -kInfinity<float>) row[r] = __builtin_nanf("");
        });
    }

    // Moves m up to the maximum of a job: without `totals`, for the rows that have seen no key yet;
    // with them, for those whose weights sum to too much.
    [[gnu::noinline]] void raise(const Job& job, const Vec* totals) {
        const int64_t first = job.panel * kPanelRows, keys = job.steps * kStepColumns;
        const Vec none = broadcast<Simd>(-kInfinity<float>), one = broadcast<Simd>(1.0f);
        const Vec far = broadcast<Simd>(kLargestReference);
        for (int64_t half = 0; half < 2; ++half) {
            const float* s = scores(parity_) + half * kHalf;
            Vec most[4] = {none, none, none, none};
            for (int64_t j = 0; j < keys; j += 4)
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; ++i)
                    most[i] = Simd::max(load_vector(s + (j + i) * kPanelRows), most[i]);
            const Vec largest = Simd::max(Simd::max(most[0], most[1]), Simd::max(most[2], most[3]));
            float* m = at_.reference + first + half * kHalf;
            float* sum = at_.sum + first + half * kHalf;
            const Vec before = load_vector(m),
                      raised = Unit::ceil(largest * broadcast<Simd>(factor_));
            const auto wanted = totals ? totals[half] >= broadcast<Simd>(kLateSum) : before == none;
            const auto moves = wanted & (raised > before);
            const Vec after = moves ? raised : before;
            const Vec alpha = moves ? Unit::scale(one, before - after) : one;  // 0 from nothing
            const auto refused = wanted & (largest > none) & ((raised >= far) | (raised <= -far));
            fastattn::store(alpha_ + half * kHalf, alpha);
            fastattn::store(m, after);
            fastattn::store(
                sum, refused ? broadcast<Simd>(__builtin_nanf("")) : load_vector(sum) * alpha);
        }
        raised_ = true;
    }

    template <typename Block>
    [[gnu::always_inline]] void conclude(Block& rows, const Job& job, const Softmax& softmax) {
        Vec totals[2] = {softmax.low[0] + softmax.high[0], softmax.low[1] + softmax.high[1]};
        const Vec late = broadcast<Simd>(kLateSum);
        if (any_yes((totals[0] >= late) | (totals[1] >= late))) {
            Softmax again = softmax;  // a copy, so that the other one can stay in registers
            repeat(rows, job, again, totals);
        }
        float* sum = at_.sum + job.panel * kPanelRows;
        fastattn::store(sum, load_vector(sum) + totals[0]);
        fastattn::store(sum + kHalf, load_vector(sum + kHalf) + totals[1]);
    }

    // A maximum came late: computes a job's scores, of which the weights took the place, and its
    // weights once more.
    template <typename Block>
    [[gnu::noinline]] void repeat(Block& rows, const Job& job, Softmax& softmax, Vec* totals) {
        accumulators_.flush();
        if (packed_panel_ != job.panel) pack_queries(job.panel);
        compute_scores(job, scores(parity_), [] {});
        accumulators_.flush();
        if (changes_scores(job)) mask(rows, job);
        float earlier[kPanelRows];
        for (int64_t r = 0; r < kPanelRows; ++r) earlier[r] = raised_ ? alpha_[r] : 1;
        raise(job, totals);
        for (int64_t r = 0; r < kPanelRows; ++r) alpha_[r] *= earlier[r];
        begin_totals(job, softmax);
        for (int64_t i = 0; i < job.steps * kTileRows; ++i) softmax.pair(i);
        for (int half = 0; half < 2; ++half) totals[half] = softmax.low[half] + softmax.high[half];
    }

    // Makes a panel's results refer to a new m.
    [[gnu::noinline]] void rescale(float* o) const {
        const Vec alpha[2] = {load_vector(alpha_before_), load_vector(alpha_before_ + kHalf)};
        for (int64_t f = 0; f < features(); ++f, o += kPanelRows)
            for (int half = 0; half < 2; ++half)
                fastattn::store(o + half * kHalf, load_vector(o + half * kHalf) * alpha[half]);
    }

    const Task& task_;
    const Regions& at_;
    Operands operands_;
    MatrixAccumulators<Unit> accumulators_;
    const int64_t rows_;
    const bool scaled_;  // scores are scaled before the softmax, for the cap
    float factor_;       // of the scores in the exponent
    Interval block_;     // keys; begins at a job
    int64_t packed_panel_;
    int parity_;   // which scores and weights are those of `now`
    bool raised_;  // `now` has moved m, by the factors alpha_
    float alpha_[kPanelRows], alpha_before_[kPanelRows];
};

}  // namespace
}  // namespace fastattn
