// The probes: loops that only multiply and add, or only read, at the highest rate of the machine.
//
// They measure the roofline with which a kernel is compared.  Each loop does a given amount of work
// and returns the amount; ../roofline.cpp has the threads, the memory and the clock.
//
// Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
// for multicore architectures", CACM 52(4), 2009.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../simd/vector.hpp"

namespace fastattn {
namespace {

// Makes the compiler assume that `value` has changed, at no cost, so that it neither moves a product
// with it out of a loop nor computes it only once.
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
        return add<2>(rounds, T(0.75), [](Vec a, Vec b, Vec sum) { return Simd::fma(a, b, sum); });
    }
    // The same for pairs of bfloat16 numbers.
    [[gnu::noinline]] static int64_t pairs(int64_t rounds) {
        return add<4>(rounds, bits<T>(0x3f403f40u),
                      [](Vec a, Vec b, Vec sum) { return Simd::add_pairs(a, b, sum); });
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

private:
    template <int kFlops, typename Step>
    [[gnu::always_inline]] static int64_t add(int64_t rounds, T factor, Step step) {
        Vec sum[kAccumulators];
#pragma GCC unroll 16
        for (int i = 0; i < kAccumulators; ++i) sum[i] = broadcast<Simd>(T(1 + i));
        Vec a = broadcast<Simd>(factor), b = a;
        for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
            for (int i = 0; i < kAccumulators; ++i) {
                renew(a);
                sum[i] = step(a, b, sum[i]);
            }
        }
#pragma GCC unroll 16
        for (int i = 1; i < kAccumulators; ++i) sum[0] += sum[i];
        return sum[0][0] > 0 ? rounds * kAccumulators * kFlops * Simd::lanes : -1;
    }
};

// Products of bfloat16 tiles, C[16][16] += A[16][32] B[32][16], by a matrix unit (tile/amx.hpp).
// The numbers are random, because the unit's clock depends on them: zeros would show a rate that no
// computation reaches.
template <typename Unit>
struct MatrixProbe {
    static constexpr int64_t kNumbers = 512, kFlops = 2 * 16 * 16 * 32;  // of a tile

    // Returns the flops of `rounds` products, or -1 if a sum is 0 or not finite.
    [[gnu::noinline]] static int64_t multiply(int64_t rounds) {
        alignas(64) uint16_t numbers[4 * kNumbers];
        uint32_t state = 1;
        for (uint16_t& number : numbers) {
            state = state * 1664525 + 1013904223;
            number = static_cast<uint16_t>(0x3f00 | (state >> 16 & 0x80ff));  // 0.5 to 2, any sign
        }
        Unit::template zero<0>();
        Unit::template zero<1>();
        Unit::template zero<2>();
        Unit::template zero<3>();
        Unit::template load<4>(numbers, 64);
        Unit::template load<5>(numbers + kNumbers, 64);
        Unit::template load<6>(numbers + 2 * kNumbers, 64);
        Unit::template load<7>(numbers + 3 * kNumbers, 64);
        int64_t done = 0;
        for (; done < rounds; done += 4) {
            Unit::template multiply<0, 4, 6>();
            Unit::template multiply<1, 4, 7>();
            Unit::template multiply<2, 5, 6>();
            Unit::template multiply<3, 5, 7>();
        }
        alignas(64) float results[kNumbers / 2];
        Unit::template store<0>(results, 64);
        for (const float sum : results)
            if (sum == 0 || !(sum - sum == 0)) return -1;
        return done * kFlops;
    }
};

template <template <typename> class Simd>
constexpr Probes probes_of() {
    Probes probes{};
    probes.fma32 = &Probe<Simd<float>>::fma;
    probes.fma64 = &Probe<Simd<double>>::fma;
    probes.read = &Probe<Simd<float>>::read;
    return probes;
}

}  // namespace
}  // namespace fastattn
