// The most that the machine can do: loops that only multiply and add, or only read.
//
// They give the roofline that a kernel is held against.  Each loop does a given amount of work and
// returns how much; threads, memory and the clock are left to its driver (../roofline.cpp).
//
// Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
// for multicore architectures", CACM 52(4), 2009.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../simd/vector.hpp"

namespace fastattn {
namespace {

// Makes the compiler take `value` for a new one, at no cost, so that a product with it is neither
// moved out of a loop nor shared.
template <typename V>
[[gnu::always_inline]] inline void renew(V& value) {
#if defined(__x86_64__)
    __asm__ volatile("" : "+x"(value));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(value));
#else
    __asm__ volatile("" : "+m"(value));
#endif
}

template <typename Simd>
struct Probe {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;

    // Accumulators in flight: latency times ports is at most 5 x 2 (Haswell).  Registers also hold
    // two factors and, where no instruction does both, their product.
    static constexpr int kAccumulators = 12;
    static_assert(kAccumulators + 3 <= Simd::registers, "the loop spills");

    // `rounds` of sum += a * b for each of the accumulators, as the register tile does it.  They
    // grow until a product is rounded away, and so stay finite.  Returns the useful flops, or -1 if
    // their total is not positive, so that the compiler must compute them.
    [[gnu::noinline]] static int64_t fma(int64_t rounds) {
        Vec sum[kAccumulators];
#pragma GCC unroll 16
        for (int i = 0; i < kAccumulators; ++i) sum[i] = broadcast<Simd>(T(1 + i));
        Vec a = broadcast<Simd>(T(0.75)), b = a;
        for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
            for (int i = 0; i < kAccumulators; ++i) {
                renew(a);
                sum[i] = Simd::fma(a, b, sum[i]);
            }
        }
#pragma GCC unroll 16
        for (int i = 1; i < kAccumulators; ++i) sum[0] += sum[i];
        return sum[0][0] > 0 ? rounds * kAccumulators * 2 * Simd::lanes : -1;
    }

    // Streams read side by side, so that the memory controller and the prefetchers are asked for
    // several pages at a time.
    static constexpr int64_t kStreams = 4;
    static constexpr int64_t kStep = 128;  // bytes of each at a time: two cache lines
    static constexpr int64_t kWidth = sizeof(Bits);
    static_assert(kProbeStep % (kStreams * kStep) == 0, "a stream ends inside a step");

    // Reads `bytes`, a multiple of kProbeStep, and returns a digest of them, so that the compiler
    // must read them all.
    [[gnu::noinline]] static int64_t read(const void* from, int64_t bytes) {
        const char* at = static_cast<const char*>(from);
        const int64_t stream = bytes / kStreams;
        Bits digest[kStreams] = {};
        for (const char* end = at + stream; at < end; at += kStep) {
#pragma GCC unroll 16
            for (int64_t s = 0; s < kStreams; ++s)
#pragma GCC unroll 16
                for (int64_t b = 0; b < kStep; b += kWidth)
                    digest[s] ^= load<Bits>(at + s * stream + b);
        }
        digest[0] ^= digest[1] ^ digest[2] ^ digest[3];
        int64_t all = 0;
        for (int lane = 0; lane < Simd::lanes; ++lane) all ^= static_cast<int64_t>(digest[0][lane]);
        return all;
    }
};

template <template <typename> class Simd>
constexpr Probes probes_of() {
    return {&Probe<Simd<float>>::fma, &Probe<Simd<double>>::fma, &Probe<Simd<float>>::read};
}

}  // namespace
}  // namespace fastattn
