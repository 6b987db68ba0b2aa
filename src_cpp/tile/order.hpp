// The order in which a score is summed, the same in both tiles: a row's bits do not depend on the
// number of rows beside it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"

namespace fastattn {
namespace {

// Columns whose products are summed on their own, one after the other, before they are added to
// the earlier ones'.  The roundings of n products of a sum are a random walk of sqrt(n) steps.
constexpr int64_t kScoreRun = 64;

}  // namespace
}  // namespace fastattn
