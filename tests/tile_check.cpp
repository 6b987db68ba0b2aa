// Compares the instructions of src_cpp/tile/amx.hpp with their model, bit for bit; NaN as NaN.
// Built and run by test_amx.py: exit status 0 if nothing differs.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "../src_cpp/cpu.hpp"
#include "../src_cpp/tile/amx.hpp"
#include "../src_cpp/tile/flush.hpp"
#include "amx_model.hpp"

using namespace fastattn;

namespace {

std::mt19937_64 source(20261129);
long differences = 0;

uint32_t between(uint32_t low, uint32_t high) { return low + source() % (high - low + 1); }

// A float32 number's upper half, of one of several kinds of data.
uint16_t half_number(int kind) {
    const uint16_t sign = source() & 0x8000, mantissa = source() & 0x7f;
    const auto with = [&](uint32_t exponent) -> uint16_t {
        return sign | exponent << 7 | mantissa;
    };
    switch (kind) {
        case 0: return with(between(120, 130));  // ordinary
        case 1: return with(between(100, 154));  // of many sizes
        case 2: return with(between(60, 67));    // products near 2^-126
        case 3: return with(between(0, 3));      // tiny and subnormal
        case 4: return with(between(185, 192));  // products near 2^128
        case 5:
            return source() % 32 ? with(between(120, 130)) : static_cast<uint16_t>(sign | 0x7f80);
        case 6: return source() % 2 ? sign : with(between(126, 127));  // zeros of both signs
        default: return static_cast<uint16_t>(source());               // any bits
    }
}

void compare(const void* a, const void* b, const char* what) {
    float x[256], y[256];
    std::memcpy(x, a, sizeof(x));
    std::memcpy(y, b, sizeof(y));
    for (int i = 0; i < 256; ++i) {
        if ((x[i] != x[i] && y[i] != y[i]) || std::memcmp(x + i, y + i, 4) == 0) continue;
        if (++differences < 10)
            std::printf("%s: %a by the instruction, %a by the model\n", what, x[i], y[i]);
    }
}

template <typename Unit>
void product(const void* c, const void* a, const void* b, void* result) {
    Unit::template load<0>(c, 64);
    Unit::template load<1>(a, 64);
    Unit::template load<2>(b, 64);
    Unit::template multiply<0, 1, 2>();
    Unit::template store<0>(result, 64);
}

void check_tile(int kind) {
    alignas(64) uint16_t a[512], b[512];
    alignas(64) uint32_t c[256], hardware[256], model[256];
    for (auto& x : a) x = half_number(kind);
    for (auto& x : b) x = half_number(kind);
    const bool zero = source() % 4 == 0;
    for (auto& x : c)
        x = zero ? 0 : static_cast<uint32_t>(half_number(kind)) << 16 | (source() & 0xffff);
    product<AmxUnit>(c, a, b, hardware);
    {
        const FlushSubnormals flush;
        product<ModelUnit>(c, a, b, model);
    }
    compare(hardware, model, "product");
}

// The arguments that the softmax has: y in [2^24, 2^25], x anything.
void check_vectors() {
    const FlushSubnormals flush;
    alignas(64) uint32_t from[256], y[256], hardware[256], model[256];
    for (auto& x : from) {
        const float wide = static_cast<float>(static_cast<int64_t>(source())) * 0x1p-55f;
        x = source() % 4 ? bits<uint32_t>(wide) : static_cast<uint32_t>(source());
    }
    for (auto& x : y) x = 0x4b800000u + static_cast<uint32_t>(source() & 0x7fffff);
    const auto each = [&](auto apply, const char* what) {
        for (int i = 0; i < 256; i += 16) {
            const auto x = load<ModelUnit::Vec>(from + i), z = load<ModelUnit::Vec>(y + i);
            apply(AmxUnit{}, x, z, hardware + i);
            apply(ModelUnit{}, x, z, model + i);
        }
        compare(hardware, model, what);
    };
    each([](auto unit, auto x, auto, auto* to) { store(to, unit.fraction(x)); }, "fraction");
    each(
        [](auto unit, auto x, auto y, auto* to) {
            const decltype(x) none{}, most = none + 0x1p17f;
            store(to, unit.entry(y, -y, ((x < most) & (x > -most)) ? x : none));
        },
        "entry");
    each([](auto unit, auto x, auto y, auto* to) { store(to, unit.scale(y, x)); }, "scale");
    each([](auto unit, auto x, auto, auto* to) { store(to, unit.ceil(x)); }, "ceil");
    each([](auto unit, auto x, auto y, auto* to) { store(to, unit.pairs(x, y)); }, "pairs");
}

}  // namespace

int main(int count, char** arguments) {
    const long tiles = count > 1 ? std::atol(arguments[1]) : 100000;
    if (!tiles_permitted()) return 2;
    AmxUnit::configure();
    for (long i = 0; i < tiles; ++i) check_tile(static_cast<int>(i % 8));
    AmxUnit::release();
    for (long i = 0; i < tiles / 10; ++i) check_vectors();
    std::printf("%ld differences in %ld tiles\n", differences, tiles);
    return differences != 0;
}
