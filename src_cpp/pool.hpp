// Helper threads of the process, shared by all calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fastattn {

// Calls `body(context, 0)` on this thread, and on up to `threads` - 1 helpers
// `body(context, n)` with different n in 1 .. threads - 1.  Returns when each that has begun
// has ended.
//
// A helper that has not begun when this thread's own run ends is left out.  So a body takes its
// work from a shared counter until there is none, and does all of it where it runs alone: in a
// process that cannot start threads, or whose helpers are all busy.
//
// `cpus`: that the process may use.  Only helpers that have one to themselves look out for the
// next call for a while before they sleep.
void run_on_threads(int threads, int cpus, void (*body)(void* context, int thread), void* context);

}  // namespace fastattn
