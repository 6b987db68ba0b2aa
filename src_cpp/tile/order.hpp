// The order in which a score is summed: it is the same in both tiles, so a row's bits do not depend
// on the number of rows beside it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"

namespace fastattn {
namespace {

// Columns whose products are summed separately, one after another, before they are added to those
// of earlier columns.  The roundings of a sum of n products are a random walk of sqrt(n) steps.
constexpr int64_t kScoreChunk = 64;

}  // namespace
}  // namespace fastattn
