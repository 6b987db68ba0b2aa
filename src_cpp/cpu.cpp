// CPUID and operating-system state.  Built without ISA flags, because this code must run on every
// CPU.
//
// An AVX feature counts only if the operating system saves its registers (XCR0): otherwise they
// would be lost at the first context switch.
// Source: Intel SDM vol. 1, sections 14.3 and 15.2.
// SPDX-License-Identifier: Apache-2.0
#include "cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastattn {
namespace {

struct Name {
    uint32_t feature;
    const char* name;
};

constexpr Name kNames[] = {
    {kFma, "fma"},           {kF16c, "f16c"},         {kAvx2, "avx2"},
    {kAvx512f, "avx512f"},   {kAvx512bw, "avx512bw"}, {kAvx512dq, "avx512dq"},
    {kAvx512vl, "avx512vl"}, {kAmxBf16, "amx_bf16"},  {kAvx512Bf16, "avx512_bf16"},
};

#if defined(__x86_64__)
// Features that say how fast another one is, which only the vendor tells.
struct Speed {
    char vendor[13];
    uint32_t feature, fast;
};
constexpr Speed kSpeeds[] = {
    // VDPBF16PS, of 512 bits: as many cycles as an FMA on Zen 4 (1) and Zen 5 (0.5 or, mobile, 1);
    // on Intel four times as many (2).
    {"AuthenticAMD", kAvx512Bf16, kFastPairs},
};

bool is_vendor(const char* name) {
    unsigned eax, text[3];
    return __get_cpuid(0, &eax, &text[0], &text[2], &text[1]) &&
           __builtin_memcmp(text, name, sizeof(text)) == 0;
}

uint32_t detect() {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
    const bool os_saves = ecx & (1u << 27);  // OSXSAVE
    const bool avx = ecx & (1u << 28);
    if (!os_saves || !avx) return 0;
    uint32_t found = 0;
    if (ecx & (1u << 12)) found |= kFma;
    if (ecx & (1u << 29)) found |= kF16c;

    unsigned xcr0, xcr0_high;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    constexpr unsigned kYmm = 0x06, kZmm = 0xE6;
    if ((xcr0 & kYmm) != kYmm) return 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
    if (ebx & (1u << 5)) found |= kAvx2;
    if ((xcr0 & kZmm) != kZmm) return found;
    if (ebx & (1u << 16)) found |= kAvx512f;
    if (ebx & (1u << 17)) found |= kAvx512dq;
    if (ebx & (1u << 30)) found |= kAvx512bw;
    if (ebx & (1u << 31)) found |= kAvx512vl;
    constexpr unsigned kTiles = 0x60000;
    if ((xcr0 & kTiles) == kTiles && edx & (1u << 22) && edx & (1u << 24)) found |= kAmxBf16;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax & (1u << 5))
        found |= kAvx512Bf16;
    for (const Speed& row : kSpeeds)
        if (found & row.feature && is_vendor(row.vendor)) found |= row.fast;
    return found;
}
#else
uint32_t detect() { return 0; }
#endif

}  // namespace

uint32_t cpu_features() {
    static const uint32_t features = detect();
    return features;
}

bool tiles_permitted() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool permitted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    return permitted;
#else
    return false;
#endif
}

const char* feature_name(uint32_t features) {
    for (const Name& row : kNames)
        if (features & row.feature) return row.name;
    return nullptr;
}

}  // namespace fastattn
