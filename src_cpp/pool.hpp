// Helper threads of the process, shared by all calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fastattn {

// Calls `body(context, piece, thread)` for each piece from 0 to `pieces` - 1, in this order where
// one thread does them all: on this thread, number 0, and on up to `threads` - 1 helpers, which
// have different numbers from 1 to `threads` - 1.  Whoever is free takes the next piece.  Returns
// when all are done.
//
// A helper that has not begun when there are no more pieces is left out; so this thread does them
// all in a process that cannot start threads, or whose helpers are all busy.
//
// `cpus`: how many the process may use.  At most `cpus` - 1 idle helpers look out for the next call
// for a while before they sleep; the others sleep at once.
void share(int64_t pieces, int threads, int cpus,
           void (*body)(void* context, int64_t piece, int thread), void* context);

}  // namespace fastattn
