// The jobs of the matrix tile: up to so many steps of 32 keys of a block, for one panel of rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "interval.hpp"
#include "matrix_pack.hpp"
#include "panels.hpp"

namespace fastattn {
namespace {

// A block that begins at the first key of a job: jobs lie at multiples of their size.
inline Interval with_whole_jobs(const Task& task, Interval block, int64_t job_keys) {
    const int64_t grid =
        task.key_begin + (block.begin - task.key_begin) / task.block_k * task.block_k;
    return {grid + (block.begin - grid) / job_keys * job_keys, block.end};
}

// Spreads `count` calls of some work over `slots` calls of tick.
class Pace {
public:
    Pace(int64_t count, int64_t slots) : rate_((count << kBits) / slots) {}
    [[gnu::always_inline]] void tick() { credit_ += rate_; }
    [[gnu::always_inline]] bool due() {
        asm("" : "+r"(credit_));  // or the compiler would divide to count the calls
        if (credit_ < 0) return false;
        credit_ -= kOne;
        return true;
    }

private:
    static constexpr int kBits = 20;
    static constexpr int64_t kOne = int64_t{1} << kBits;
    int64_t rate_, credit_ = -kOne;
};

struct MatrixJob {
    int64_t panel;
    int64_t step, steps;  // of 32 keys, from the block's first key; steps == 0: no job
    TileMask mask;        // keys: those of its steps that the block has
};

// Keys of a job: scores and weights stay in the L1 cache beside results of few features; those of many
// leave it, and are to be read and written seldom.  `steps`: of 32 columns of a key and its value.
inline int64_t job_keys_for(int64_t steps) { return steps <= 8 ? 64 : 256; }

// The first job at or after a panel and a step.  `most`: the steps of a whole job.
template <typename Panels>
MatrixJob next_job(const Panels& panels, int64_t panel, int64_t step, Interval block, int64_t most,
                   bool dense) {
    for (; panel * kPanelRows < panels.end; ++panel, step = 0) {
        const Panel& of = panels.all[panel];
        const int64_t end = steps_of(of.keys.end - block.begin);
        const int64_t begin = (of.keys.begin - block.begin) / kStepColumns;
        const int64_t from = begin > step ? begin : step;
        if (of.keys.empty() || from >= end) continue;
        // Jobs end at multiples of their size, whatever is visible of them.
        const int64_t whole = (from / most + 1) * most;
        const int64_t to = whole < end ? whole : end;
        MatrixJob job{panel, from, to - from, of};
        job.mask.keys =
            common({block.begin + from * kStepColumns, block.begin + to * kStepColumns}, block);
        const bool wider = job.mask.keys.begin < of.keys.begin || job.mask.keys.end > of.keys.end;
        job.mask.dense |= wider && dense;  // it may be why the panel's keys are fewer
        return job;
    }
    return {};
}

}  // namespace
}  // namespace fastattn
