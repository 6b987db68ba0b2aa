// Compares the products of pairs of bfloat16 numbers (src_cpp/simd/avx512.hpp) with their model, bit by
// bit.  Built and run by test_pairs.py where the instruction is; the argument is the number of vectors.
// SPDX-License-Identifier: Apache-2.0
#include "pairs_model.hpp"

#include <cstdio>
#include <cstdlib>
#include <random>

#include "../src_cpp/cpu.hpp"
#include "../src_cpp/simd/avx512.hpp"
#include "../src_cpp/tile/flush.hpp"

namespace fastattn {
namespace {

using Vec = Avx512<float>::Vec;
std::mt19937_64 source(11);
long differences = 0;

uint32_t between(uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(source() % (high - low + 1));
}

// Exponents of the numbers of a vector: ordinary ones, many sizes, products near 2^-126, subnormal
// numbers, products near 2^128, infinities and NaN, any.
constexpr uint32_t kExponents[][2] = {{120, 130}, {100, 154}, {60, 67}, {0, 3},
                                      {185, 192}, {252, 255}, {0, 255}};
constexpr long kKinds = sizeof(kExponents) / sizeof(kExponents[0]);

// A bfloat16 number, of which one in four is a power of two, zero or infinity.
uint32_t number(long kind) {
    const uint32_t mantissa = source() % 4 ? source() & 0x7f : 0;
    return (source() & 1) << 15 | between(kExponents[kind][0], kExponents[kind][1]) << 7 | mantissa;
}

template <unsigned kMxcsr>
[[gnu::noinline]] void instruction(const uint32_t* a, const uint32_t* b, const uint32_t* c,
                                   uint32_t* result) {
    const Mxcsr<kMxcsr> state;
    store(result, Avx512<float>::add_pairs(load<Vec>(a), load<Vec>(b), load<Vec>(c)));
}

void check(long kind) {
    alignas(64) uint32_t a[16], b[16], c[16], wanted[16], flushing[16], upwards[16];
    for (int i = 0; i < 16; ++i) {
        a[i] = number(kind) << 16 | number(kind);
        b[i] = number(kind) << 16 | number(kind);
        c[i] = number(kind) << 16 | (source() & 0xffff);
        // The sum of a product and almost its opposite.
        if (source() % 4 == 0)
            c[i] =
                bits<uint32_t>(-bits<float>(a[i] & 0xffff0000u) * bits<float>(b[i] & 0xffff0000u)) +
                between(0, 4);
    }
    store(wanted, ModelPairs::add_pairs(load<Vec>(a), load<Vec>(b), load<Vec>(c)));
    instruction<0x9fc0>(a, b, c, flushing);  // subnormal numbers flushed, rounding to nearest
    instruction<0x5f80>(a, b, c, upwards);   // kept, rounding up
    for (const uint32_t* got : {flushing, upwards})
        for (int i = 0; i < 16; ++i) {
            const float x = bits<float>(got[i]), y = bits<float>(wanted[i]);
            if ((x != x && y != y) || got[i] == wanted[i]) continue;
            if (++differences < 10)
                std::printf("%08x * %08x + %a: %a by the instruction, %a by the model\n", a[i],
                            b[i], bits<float>(c[i]), x, y);
        }
}

}  // namespace
}  // namespace fastattn

int main(int count, char** arguments) {
    using namespace fastattn;
    if (!(cpu_features() & kAvx512Bf16)) return 2;
    const long vectors = count > 1 ? std::atol(arguments[1]) : 100000;
    for (long i = 0; i < vectors; ++i) check(i % kKinds);
    std::printf("%ld differences in %ld vectors\n", differences, vectors);
    return differences != 0;
}
