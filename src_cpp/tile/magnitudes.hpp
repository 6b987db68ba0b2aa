// The range of values for which products of bfloat16 components are exact enough.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/vector.hpp"

namespace fastattn {
namespace {

// Magnitudes from `smallest` on, or 0, and below `largest`; both are powers of two.
struct Range {
    float smallest, largest;
};
// Products of such queries and keys and their sums are finite.  What the tiles flush moves a score
// by less than 2^-30, so there is no smallest one.
inline constexpr Range kScoredRange = {0, 0x1p50f};
// Components of such values and their products with weights are exact.
inline constexpr Range kValueRange = {0x1p-102f, 0x1p70f};

// The largest magnitude and, if kSmallest, the smallest one that is not 0, of the values seen in
// each lane, which are float32 (Integer = uint32_t) or bfloat16 (uint16_t).
template <typename Integer, int kLanes, bool kSmallest = true>
class Magnitudes {
public:
    using Lanes = VectorOf_t<Integer, kLanes>;

    [[gnu::always_inline]] void note(Lanes x) {
        const Lanes magnitude = x & kMagnitude;
        largest_ = magnitude > largest_ ? magnitude : largest_;
        if constexpr (kSmallest) {
            const Lanes less = magnitude - Integer(1);  // 0 becomes the largest
            smallest_ = less < smallest_ ? less : smallest_;
        }
    }
    // Whether all values are in a range; without kSmallest, one that begins at 0.
    bool within(Range range) const {
        const Integer smallest = integer(range.smallest), largest = integer(range.largest);
        const Integer least = smallest ? static_cast<Integer>(smallest - 1) : smallest;
        return !any_yes((largest_ >= largest) | (smallest_ < least));
    }
    // Whether those of a lane are.
    bool below(int lane, float largest) const { return largest_[lane] < integer(largest); }

private:
    static constexpr Integer kMagnitude = static_cast<Integer>(~Integer(0)) >> 1;
    static Integer integer(float x) {
        return static_cast<Integer>(bits<uint32_t>(x) >> (32 - 8 * sizeof(Integer)));
    }
    Lanes largest_ = {};
    Lanes smallest_ = ~Lanes{};
};

}  // namespace
}  // namespace fastattn
