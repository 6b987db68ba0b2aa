// The jobs of the matrix tile: up to so many steps of 32 keys of a block, for one panel of rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "interval.hpp"
#include "matrix_pack.hpp"
#include "panels.hpp"

namespace fastattn {
namespace {

struct MatrixJob {
    int64_t panel;
    int64_t step, steps;  // of 32 keys, from the block's first key; steps == 0: no job
    TileMask mask;        // keys: those of its steps that the block has
};

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
        job.mask.partial |= wider;
        job.mask.dense |= wider && dense;  // it may be why the panel's keys are fewer
        return job;
    }
    return {};
}

}  // namespace
}  // namespace fastattn
