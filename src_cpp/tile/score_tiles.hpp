// Where the decode kernel's scores lie: in tiles [row][key] of kTileKeys keys, side by side.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fastattn {
namespace {

template <int kRows, int kTileKeys>
inline int64_t score_index(int64_t row, int64_t key) {
    return (key / kTileKeys * kRows + row) * kTileKeys + key % kTileKeys;
}

}  // namespace
}  // namespace fastattn
