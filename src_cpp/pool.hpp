// Helper threads of the process, shared by all calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fastattn {

// Calls `body(context, piece, thread)` for each piece from 0 to `pieces` - 1: on this thread,
// number 0, and on up to `threads` - 1 helpers, which have different numbers from 1 to
// `threads` - 1.  Whichever thread is free takes the next piece, so one that does them all does
// them in this order.  Returns when all pieces are done.
//
// A helper that has not begun when no pieces are left is not waited for; so this thread does them
// all in a process that cannot start threads, or whose helpers are all busy.
//
// `cpus`: how many CPUs the process may use.  At most `cpus` - 1 idle helpers watch for the next
// call for a while before they sleep; the others sleep at once.
void share(int64_t pieces, int threads, int cpus,
           void (*body)(void* context, int64_t piece, int thread), void* context);

}  // namespace fastattn
