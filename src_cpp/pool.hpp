// Helper threads of the process, shared by all calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "threads.hpp"

namespace fastattn {

// What `share` promises.
//
// A helper that has not begun when no items are left is not waited for; so the calling thread does
// them all in a process that cannot start threads, or whose helpers are all busy.
//
// At most `cpus` - 1 idle helpers spin for a while before they park; the others park at once.
void share_by_pool(int64_t items, int threads, int cpus, Body body, void* context);

}  // namespace fastattn
