// Calls of the driver with all their arrays, drawn from the bytes of a fuzzer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <vector>

#include "driver.hpp"

namespace fastattn {

// What the fuzzer's bytes say; zeros after their end, which are the simplest choices.
class Draw {
public:
    Draw(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
    int64_t between(int64_t low, int64_t high) {
        int64_t number = byte();
        if (high - low > 255) number = number << 8 | byte();
        return low + number % (high - low + 1);
    }
    bool chance(int one_in) { return between(1, one_in) == one_in; }
    template <typename T>
    T among(std::initializer_list<T> values) {
        return values.begin()[between(0, static_cast<int64_t>(values.size()) - 1)];
    }
    int64_t length() {
        switch (between(0, 3)) {
            case 0: return between(0, 9);
            case 1: return between(1, 33);
            case 2: return between(0, 70);
            default: return among<int64_t>({64, 127, 128, 129, 193, 257, 400, 1100});
        }
    }
    int64_t width() {
        return chance(4) ? among<int64_t>({64, 65, 80, 128, 130, 257, 600}) : between(1, 40);
    }

private:
    uint8_t byte() { return at_ < end_ ? *at_++ : 0; }
    const uint8_t *at_, *end_;
};

inline int64_t bytes_of(DType type) {
    return type == DType::kFloat64 ? 8 : type == DType::kFloat32 ? 4 : type == DType::kBool ? 1 : 2;
}

template <typename T>
T read(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
}

inline double load(DType type, const char* from) {
    switch (type) {
        case DType::kFloat32: return read<float>(from);
        case DType::kFloat64: return read<double>(from);
        case DType::kFloat16: return static_cast<double>(read<_Float16>(from));
        case DType::kBool: return *from;
        case DType::kBFloat16: break;
    }
    const uint32_t bits = static_cast<uint32_t>(read<uint16_t>(from)) << 16;
    return read<float>(reinterpret_cast<const char*>(&bits));
}

inline void store(DType type, char* to, double value) {
    const float single = static_cast<float>(value);
    const _Float16 half = static_cast<_Float16>(single);
    uint32_t bits = read<uint32_t>(reinterpret_cast<const char*>(&single));
    if (single == single) bits += 0x7fff + (bits >> 16 & 1);
    const uint16_t upper = static_cast<uint16_t>(bits >> 16);
    const char flag = value != 0;
    const void* from = type == DType::kFloat32   ? static_cast<const void*>(&single)
                       : type == DType::kFloat64 ? static_cast<const void*>(&value)
                       : type == DType::kFloat16 ? static_cast<const void*>(&half)
                       : type == DType::kBool    ? static_cast<const void*>(&flag)
                                                 : static_cast<const void*>(&upper);
    std::memcpy(to, from, static_cast<size_t>(bytes_of(type)));
}

// An array of drawn strides in memory of exactly its extent: axes are batch, batch, head, row,
// column.
struct Tensor {
    static constexpr int kRank = 5;
    static constexpr int64_t kMostPadded = int64_t{256}
                                           << 10;  // bytes, as all of them are compared
    DType type{};
    int64_t shape[kRank]{}, strides[kRank]{}, size = 0, first = 0;
    std::unique_ptr<char[]> memory;

    Tensor(Draw& draw, DType of, std::initializer_list<int64_t> axes, bool repeats) : type(of) {
        std::copy(axes.begin(), axes.end(), shape);
        int order[kRank] = {0, 1, 2, 3, 4};
        if (draw.chance(3)) std::swap(order[draw.between(0, 4)], order[draw.between(0, 4)]);
        const int64_t odd = draw.chance(8);
        int64_t pitch = bytes_of(type) + odd, elements = 1;
        for (const int64_t extent : shape) elements *= std::max<int64_t>(1, extent);
        for (int i = kRank; i-- > 0;) {
            const int axis = order[i];
            if (repeats && draw.chance(12)) {  // a stride of 0
                elements /= std::max<int64_t>(1, shape[axis]);
                continue;
            }
            if (draw.chance(10)) pitch += (bytes_of(type) + odd) * draw.between(0, 5);
            const int64_t whole = (pitch + 4095) / 4096 * 4096;
            if (draw.chance(40) && whole * elements <= kMostPadded) pitch = whole;
            strides[axis] = pitch;
            pitch *= std::max<int64_t>(1, shape[axis]);
            elements /= std::max<int64_t>(1, shape[axis]);
        }
        size = odd + bytes_of(type);
        first = odd;
        for (int axis = 0; axis < kRank; ++axis) {
            const int64_t span = strides[axis] * std::max<int64_t>(0, shape[axis] - 1);
            size += span;
            if (draw.chance(12)) strides[axis] = -strides[axis], first += span;
        }
        memory.reset(new char[static_cast<size_t>(size)]);
        std::memset(memory.get(), 0xa5, static_cast<size_t>(size));
    }
    int64_t count() const { return shape[0] * shape[1] * shape[2] * shape[3] * shape[4]; }
    // Element by its number in C order.
    char* at(int64_t number) const {
        int64_t offset = first;
        for (int axis = kRank; axis-- > 0; number /= shape[axis])
            offset += number % shape[axis] * strides[axis];
        return memory.get() + offset;
    }
    // Calls `visit(element)` for each, in C order.
    template <typename Visit>
    void each(Visit visit) const {
        for (int64_t row = 0; row < (shape[4] ? count() / shape[4] : 0); ++row) {
            char* element = at(row * shape[4]);
            for (int64_t i = 0; i < shape[4]; ++i, element += strides[4]) visit(element);
        }
    }
    Array array() const {
        return {memory.get() + first, strides, strides[2], strides[3], strides[4]};
    }
    std::vector<double> values() const {
        std::vector<double> all;
        all.reserve(static_cast<size_t>(count()));
        each([&](const char* element) { all.push_back(load(type, element)); });
        return all;
    }
    std::vector<char> bytes() const { return {memory.get(), memory.get() + size}; }
    bool holds(const std::vector<char>& expected) const {
        return std::memcmp(expected.data(), memory.get(), expected.size()) == 0;
    }
    // Whether each element is the expected one, to the bit: NaN of any sign and payload is one.
    bool equals(const std::vector<char>& expected) const {
        bool same = true;
        if (!holds(expected))
            each([&](const char* element) {
                const char* const other = expected.data() + (element - memory.get());
                same = same &&
                       (std::memcmp(other, element, static_cast<size_t>(bytes_of(type))) == 0 ||
                        (std::isnan(load(type, other)) && std::isnan(load(type, element))));
            });
        return same;
    }
    // Whether memory is as it was, but for the elements.
    bool only_elements_differ(std::vector<char> before) const {
        each([&](const char* element) {
            std::memcpy(before.data() + (element - memory.get()), element,
                        static_cast<size_t>(bytes_of(type)));
        });
        return holds(before);
    }
};

using Random = std::minstd_rand;

// About normal, of variance 1: the sum of four uniform numbers.
inline double normal(Random& random) {
    uint64_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += random();
    return (static_cast<double>(sum) * 0x1p-31 - 2) * 1.7320508;
}

// Numbers of one of several kinds.
inline void fill(Draw& draw, Random& random, const Tensor& tensor, double size) {
    const int64_t kind = draw.chance(3) ? draw.between(1, 6) : 0;
    const auto power = [&](int low, int high) {
        const int exponent = low + static_cast<int>(random() % static_cast<unsigned>(high - low));
        return std::ldexp(random() % 2 ? 1.5 : -1.0, exponent);
    };
    tensor.each([&](char* element) {
        double x = kind < 2 || kind == 6 ? normal(random) * size : 0;
        if (kind == 1) x = std::abs(x) + size;
        if (kind == 2) x = static_cast<double>(random() % 5) - 2;
        if (kind == 3) x = power(-30, 20);
        if (kind == 4) x = power(-150, -100);
        if (kind == 5) x = power(40, 127);
        if (kind == 6) x = random() % 64 ? x : power(-149, 127);
        store(tensor.type, element, x);
    });
}

inline void poison(Draw& draw, const Tensor& tensor) {
    if (!tensor.count() || !draw.chance(12)) return;
    const double bad = draw.among({std::nan(""), HUGE_VAL, -HUGE_VAL});
    store(tensor.type, tensor.at(draw.between(0, 60000) % tensor.count()), bad);
}

inline constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16,
                                   DType::kBFloat16};

// A call, its arrays, and what they hold.
struct Problem {
    Call call{};
    int64_t batch[2] = {1, 1};
    std::vector<Tensor> tensors;  // q, k, v, out, mask
    std::vector<double> q, k, v, mask, sinks;
    std::vector<int64_t> lengths, offsets;
    double scale = 1;

    explicit Problem(Draw draw) {
        Random random(static_cast<unsigned>(draw.between(1, 65535)));
        Call& c = call;
        c.type = kTypes[draw.between(0, 3)];
        c.batch_shape = batch, c.batch_axes = 2;
        if (draw.chance(3)) batch[0] = draw.between(0, 3);
        if (draw.chance(3)) batch[1] = draw.between(1, 2);
        c.heads_kv = draw.chance(3) ? draw.between(1, 3) : 1;
        c.heads_q = c.heads_kv * draw.between(1, 5);
        c.length_q = draw.length(), c.length_k = draw.length();
        c.dim = draw.width(), c.dim_v = draw.chance(2) ? c.dim : draw.width();
        const double most = draw.chance(32) ? 5e5 : draw.chance(3) ? 6e4 : 1.5e4;
        while (static_cast<double>(entries() * c.heads_q * c.length_q * c.length_k) *
                   static_cast<double>(c.dim + c.dim_v) >
               most) {
            if (c.length_q >= c.length_k)
                c.length_q /= 2;
            else
                c.length_k /= 2;
        }
        const int64_t hq = c.heads_q, hk = c.heads_kv, lq = c.length_q, lk = c.length_k;
        const double sharp = draw.among({1.0, 0.01, 6.0});
        for (const double size : {sharp, 1.0, 1.0}) {
            const bool of_q = tensors.empty(), of_v = tensors.size() == 2;
            tensors.emplace_back(
                draw, c.type,
                std::initializer_list<int64_t>{batch[0], batch[1], of_q ? hq : hk, of_q ? lq : lk,
                                               of_v ? c.dim_v : c.dim},
                true);
            fill(draw, random, tensors.back(), size);
            poison(draw, tensors.back());
        }
        tensors.emplace_back(draw, c.type,
                             std::initializer_list<int64_t>{batch[0], batch[1], hq, lq, c.dim_v},
                             false);
        if (draw.chance(3)) {
            c.mask_type = draw.among({DType::kBool, DType::kFloat32, c.type});
            tensors.emplace_back(draw, c.mask_type,
                                 std::initializer_list<int64_t>{batch[0], batch[1], hq, lq, lk},
                                 true);
            const unsigned share = draw.among({2u, 1u, 10u, 1000u});
            const bool numbers = c.mask_type != DType::kBool, any = draw.chance(2);
            tensors[4].each([&](char* element) {
                const bool shown = random() % share == 0;
                const double x = any || shown ? normal(random) * 2 : -HUGE_VAL;
                store(c.mask_type, element, numbers ? x : shown);
            });
            mask = tensors[4].values(), c.mask = tensors[4].array();
        }
        q = tensors[0].values(), k = tensors[1].values(), v = tensors[2].values();
        c.q = tensors[0].array(), c.k = tensors[1].array(), c.v = tensors[2].array();
        c.out = tensors[3].array();
        for (int64_t b = 0; b < entries(); ++b) {
            lengths.push_back(draw.chance(2) ? lk : draw.between(0, lk));
            offsets.push_back(draw.chance(2) ? 0 : draw.between(-lq - 2, lk + 3));
        }
        if (draw.chance(3)) c.lengths = lengths.data();
        if (draw.chance(3)) c.offsets = offsets.data();
        c.left = draw.chance(4) ? draw.between(0, 40) : kUnlimited;
        c.right = draw.chance(3) ? draw.among<int64_t>({0, 0, 7, int64_t{1} << 40}) : kUnlimited;
        if (draw.chance(4)) {
            const double size = draw.among({1.0, 10.0, 100.0});
            for (int64_t h = 0; h < hq; ++h)
                sinks.push_back(draw.chance(8) ? -HUGE_VAL : draw.between(-100, 100) / 100. * size);
            c.sinks = sinks.data();
        }
        if (draw.chance(5)) c.softcap = draw.among({5.0, 0.5, 50.0});
        scale = draw.chance(2) ? 1 / std::sqrt(static_cast<double>(c.dim))
                               : draw.among({1.0, -0.3, 0.0, 3.0, 0x1p-90, 1e-30, 1e20, 1e38});
        set_factors();
        configure(draw);
    }
    int64_t entries() const { return batch[0] * batch[1]; }

    // As CallSpec.factors does.
    void set_factors() {
        call.scale = scale, call.score_factor = 1;
        if (scale == 0 || (std::abs(scale) >= 0x1p-16 && std::abs(scale) <= 1)) return;
        int exponent;
        std::frexp(scale, &exponent);
        exponent = exponent > 0 ? exponent : (exponent - (exponent & 1)) / 2;
        const int most = call.type == DType::kFloat64 ? 1023 : 127;
        call.score_factor = std::ldexp(1.0, std::min(exponent, most));
        call.scale = scale / call.score_factor;
    }
    // Blocks and threads: at most 32 steps of each kind, as each rounds.
    void configure(Draw& draw) {
        const int64_t least = (call.length_k + 31) / 32;
        call.block_k = std::max(least, draw.among<int64_t>({65536, 16, 1, 3, 7, 8, 33, 64, 128}));
        call.keys_per_split = std::max(
            least, draw.chance(3) ? draw.among<int64_t>({16, 1, 5, 64, 200}) : int64_t{1} << 48);
        choose_rows(draw);
    }
    // What changes no bit of the result.
    void choose_rows(Draw& draw) {
        call.block_q = draw.among<int64_t>({65536, 64, 1, 2, 5, 8, 16, 100});
        const int count = draw.chance(6) ? static_cast<int>(draw.between(2, 4)) : 1;
        // 64: as many as wanted, whatever else runs.
        call.threads = {count, draw.among({64, 1, 2, 4}), Threading::kPool};
    }
    void describe(const char* kernels, const char* what) const {
        const Call& c = call;
        std::printf(
            "%s: %s\n  type %d batch %lld x %lld heads %lld / %lld lengths %lld x %lld "
            "dim %lld, %lld scale %g softcap %g left %lld right %lld\n"
            "  block_q %lld block_k %lld keys_per_split %lld threads %d mask %d "
            "lengths %d offsets %d sinks %d\n",
            kernels, what, static_cast<int>(c.type), (long long)batch[0], (long long)batch[1],
            (long long)c.heads_q, (long long)c.heads_kv, (long long)c.length_q,
            (long long)c.length_k, (long long)c.dim, (long long)c.dim_v, scale, c.softcap,
            (long long)c.left, (long long)c.right, (long long)c.block_q, (long long)c.block_k,
            (long long)c.keys_per_split, c.threads.count,
            c.mask.data ? static_cast<int>(c.mask_type) : -1, c.lengths != nullptr,
            c.offsets != nullptr, c.sinks != nullptr);
    }
};

}  // namespace fastattn
