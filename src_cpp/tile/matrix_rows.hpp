// The scores of the jobs in the pipeline and the running softmax of the rows: masks, references m and sums l.
//
// A row's reference is the maximum of the first keys that are visible to it.  If a job's weights sum
// to too much, the maximum came late: its scores are computed again, and its weights with a larger
// reference.  See matrix_softmax.hpp.
//
// Legend: a panel has kVectors vectors of rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flush.hpp"
#include "matrix_jobs.hpp"
#include "matrix_softmax.hpp"
#include "scratch.hpp"

namespace fastattn {
namespace {

// Which job of the pipeline.
enum class Stage { kBefore, kNow, kNext };

// kBuffers: of scores; with two, the scores of the next job take the place of the weights of the job
// before.
template <typename Unit, typename S, int kVectors, int kBuffers>
class MatrixRows {
    using Simd = typename Unit::Simd;
    using Vec = typename Simd::Vec;
    using Components = ComponentsOf<S>;
    static constexpr int kLanes = Simd::lanes;

public:
    using Softmax = MatrixSoftmax<Unit, S, kVectors>;
    static constexpr int64_t panel_rows = kVectors * kLanes;

    struct Regions {
        float *scores, *reference, *sum, *m, *l, *factors;
        char* third;  // component of weights: of all buffers, step by step

        Regions(Arena& arena, int64_t rows, int64_t job_keys) {
            third = arena.region<char>(
                Components::p == 3 ? steps_of(job_keys) * kBuffers * kVectors * kTileBytes : 0);
            scores = arena.region<float>(kBuffers * job_keys * panel_rows);
            reference = arena.region<float>(rows);
            sum = arena.region<float>(rows);
            m = arena.region<float>(rows);
            l = arena.region<float>(rows);
            factors = arena.region<float>(rows);
        }
    };

    MatrixRows(const Task& task, const Regions& regions, int64_t rows, int64_t job_keys)
        : task_(task), at_(regions), job_keys_(job_keys), scaled_(task.softcap != 0) {
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

    const float* m() const { return at_.m; }
    const float* l() const { return at_.l; }
    const float* factors() const { return at_.factors; }
    // By which the dense mask is multiplied before it is added to a panel's scores.
    float mask_factor() const { return scaled_ ? 1 : static_cast<float>(1 / task_.scale); }
    bool refused(int64_t row) const { return !(at_.l[row] < kInfinity<float>); }
    void refuse(int64_t row) { at_.sum[row] = __builtin_nanf(""); }

    // Scores, then weights, of a job.
    float* scores(Stage job) const { return at_.scores + buffer(job) * job_keys_ * panel_rows; }
    char* third(Stage job) const { return at_.third + buffer(job) * kVectors * kTileBytes; }
    void start_block() {
        now_ = 0;
        raised_ = false;
    }
    void next_stage() { now_ = buffer(Stage::kNext); }

    // Whether `now`, when it was the job before, has moved m: the results of its panel are then to be
    // multiplied by alpha_before.
    bool take_raised() {
        const bool raised = raised_;
        if (raised) __builtin_memcpy(alpha_before_, alpha_, sizeof(alpha_));
        raised_ = false;
        return raised;
    }
    const float* alpha_before() const { return alpha_before_; }

    // Masks the scores of a job and starts its softmax.  `flush` stores scores that are pending.
    template <typename Block, typename Flush>
    [[gnu::always_inline]] void prepare(Block& rows, const MatrixJob& job, Softmax& softmax,
                                        Flush flush) {
        softmax.scores = scores(Stage::kNow);
        softmax.third = third(Stage::kNow);
        softmax.factor = broadcast<Simd>(factor_);
        if (changes_scores(job)) {
            flush();
            mask(rows, job);
        }
        const float* m = at_.reference + job.panel * panel_rows;
        const Vec none = broadcast<Simd>(-kInfinity<float>);
        if (any_yes((load<Vec>(m) == none) | (load<Vec>(m + panel_rows - kLanes) == none))) {
            flush();
            raise(job, nullptr);
        }
        start(job, softmax);
    }

    // Ends the softmax of a job.  `again` computes its scores again; returns whether that was needed.
    template <typename Block, typename Again>
    [[gnu::always_inline]] bool conclude(Block& rows, const MatrixJob& job, const Softmax& softmax,
                                         Again again) {
        Vec totals[kVectors];
        softmax.add_up(totals);
        const Vec late = broadcast<Simd>(kLateSum);
        const bool repeats = any_yes((totals[0] >= late) | (totals[kVectors - 1] >= late));
        if (repeats) {
            again();
            Softmax other = softmax;  // a copy, so that the first one can stay in registers
            repeat(rows, job, other, totals);
        }
        float* sum = at_.sum + job.panel * panel_rows;
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n)
            store(sum + n * kLanes, load<Vec>(sum + n * kLanes) + totals[n]);
        return repeats;
    }

    // Ends a block for a panel: adds values that are not finite (whatever their weights, the results
    // are not finite), and refuses the rows to which a key or value that is out of range is visible.
    template <typename Block, typename Vectors, typename Operands>
    void end_block(Block& rows, Vectors vectors, const Panel& panel, int64_t first, int64_t count,
                   const Operands& operands) {
        rows.add_non_finite(vectors, panel, first, count, [](int64_t, int64_t) { return 1.0f; });
        if (operands.refused_count() > 0)
            rows.each_row_of_visible(vectors, panel, first, count, operands.refused(),
                                     operands.refused_count(),
                                     [&](int64_t lane) { refuse(first + lane); });
    }

    // What m loses by rounding, the factors give back.
    void finish(int64_t first, int64_t count) {
        constexpr double kLn2 = 0.6931471805599453;
        for (int64_t r = first; r < first + count; ++r) {
            const bool some = at_.reference[r] > -kInfinity<float>;
            const double m = some ? at_.reference[r] * kLn2 : 0;
            at_.m[r] = some ? static_cast<float>(m) : -kInfinity<float>;
            const double lost = some ? m - static_cast<double>(at_.m[r]) : 0;
            at_.factors[r] = static_cast<float>((1 + lost) / kWeightScale);
            at_.l[r] = static_cast<float>(at_.sum[r] * ((1 + lost) / kWeightScale));
        }
    }

private:
    int buffer(Stage job) const {
        const int distance = job == Stage::kNow ? 0 : job == Stage::kNext ? 1 : kBuffers - 1;
        return (now_ + distance) % kBuffers;
    }

    bool changes_scores(const MatrixJob& job) const {
        const bool padded = job.mask.keys.count() < job.steps * kStepColumns;
        return scaled_ || job.mask.dense || job.mask.partial() || padded;
    }

    template <typename Block>
    [[gnu::noinline]] void mask(Block& rows, const MatrixJob& job) {
        const KeepSubnormals keep_subnormals;
        float* s = scores(Stage::kNow);
        const Interval keys = job.mask.keys;
        const int64_t first = job.panel * panel_rows,
                      left = task_.row_end - task_.row_begin - first;
        if (scaled_) {
            const Vec scale = broadcast<Simd>(static_cast<float>(task_.scale));
            for (int64_t i = 0; i < keys.count() * panel_rows; i += kLanes)
                store(s + i, load<Vec>(s + i) * scale);
        }
        rows.template mask_scores<kVectors>(job.mask, first, left < panel_rows ? left : panel_rows,
                                            s);
        for (int64_t i = keys.count() * panel_rows; i < job.steps * kStepColumns * panel_rows; ++i)
            s[i] = -kInfinity<float>;
    }

    [[gnu::always_inline]] void start(const MatrixJob& job, Softmax& softmax) const {
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) {
            const Vec m = load<Vec>(at_.reference + job.panel * panel_rows + n * kLanes);
            softmax.shift[n] = m == broadcast<Simd>(-kInfinity<float>) ? Vec{} : -m;
            softmax.low[n] = softmax.high[n] = Vec{};
        }
    }

    // Moves m up to the maximum of a job: without `totals`, for the rows that have seen no key yet;
    // with them, for those whose weights sum to too much.
    [[gnu::noinline]] void raise(const MatrixJob& job, const Vec* totals) {
        const int64_t first = job.panel * panel_rows, keys = job.steps * kStepColumns;
        const Vec none = broadcast<Simd>(-kInfinity<float>), one = broadcast<Simd>(1.0f);
        const Vec far = broadcast<Simd>(kLargestReference);
        for (int n = 0; n < kVectors; ++n) {
            const float* s = scores(Stage::kNow) + n * kLanes;
            Vec most[4] = {none, none, none, none};
            for (int64_t j = 0; j < keys; j += 4)
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; ++i)
                    most[i] = Simd::max(load<Vec>(s + (j + i) * panel_rows), most[i]);
            const Vec largest = Simd::max(Simd::max(most[0], most[1]), Simd::max(most[2], most[3]));
            float* m = at_.reference + first + n * kLanes;
            float* sum = at_.sum + first + n * kLanes;
            const Vec before = load<Vec>(m),
                      raised = Unit::ceil(largest * broadcast<Simd>(factor_));
            const auto wanted = totals ? totals[n] >= broadcast<Simd>(kLateSum) : before == none;
            const auto moves = wanted & (raised > before);
            const Vec after = moves ? raised : before;
            const Vec alpha = moves ? Unit::scale(one, before - after) : one;  // 0 from nothing
            const auto refused = wanted & (largest > none) & ((raised >= far) | (raised <= -far));
            store(alpha_ + n * kLanes, alpha);
            store(m, after);
            store(sum, refused ? broadcast<Simd>(__builtin_nanf("")) : load<Vec>(sum) * alpha);
        }
        raised_ = true;
    }

    // Computes the weights of a job, whose scores have been computed again, once more.
    template <typename Block>
    [[gnu::noinline]] void repeat(Block& rows, const MatrixJob& job, Softmax& softmax,
                                  Vec* totals) {
        if (changes_scores(job)) mask(rows, job);
        float earlier[panel_rows];
        for (int64_t r = 0; r < panel_rows; ++r) earlier[r] = raised_ ? alpha_[r] : 1;
        raise(job, totals);
        for (int64_t r = 0; r < panel_rows; ++r) alpha_[r] *= earlier[r];
        start(job, softmax);
        for (int64_t i = 0; i < job.steps * kTileRows; ++i) softmax.pair(i);
        softmax.add_up(totals);
    }

    const Task& task_;
    const Regions& at_;
    const int64_t job_keys_;
    const bool scaled_;    // scores are scaled before the softmax, for the cap
    float factor_;         // of the scores in the exponent
    int now_ = 0;          // the buffer of `now`
    bool raised_ = false;  // `now` has moved m, by the factors alpha_
    float alpha_[panel_rows], alpha_before_[panel_rows];
};

}  // namespace
}  // namespace fastattn
