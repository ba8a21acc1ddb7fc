// What Python calls: which instruction sets there are, how weights are packed, and the run of a chain and of an attention.
#include "abi.h"

#include <cmath>
#include <cstring>
#if defined(__x86_64__) && defined(DEED_X86)
#include <cpuid.h>
#define X86 1
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

bool has(int isa) {
    if (isa == 0) return true;
#ifdef X86
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == 1) return avx2;
    if (isa == 2) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        return avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
    }
    if (isa == 3)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#endif
    return false;
}

}  // namespace

// 0 scalar, 1 AVX2, 2 AVX-VNNI, 3 AVX-512 VNNI
EXPORT int deed_has(int isa) { return has(isa); }

EXPORT int64_t deed_abi() { return sizeof(Attention) * 1000000 + sizeof(Call) * 10000 + sizeof(Stage) * 100 + sizeof(Weight) + 2; }

EXPORT int deed_run(const Call* call, int isa) {
    if (call->rows <= 0) return 0;
    switch (isa) {
#ifdef X86
        case 1: return run_avx2(*call);
        case 2: return run_avx_vnni(*call);
        case 3: return run_avx512(*call);
#endif
        default: return run_scalar(*call);
    }
}

EXPORT int deed_attend(const Attention* call, int isa) {
    switch (isa) {
#ifdef X86
        case 1: return attend_avx2(*call);
        case 2: return attend_avx_vnni(*call);
        case 3: return attend_avx512(*call);
#endif
        default: return attend_scalar(*call);
    }
}

// `to`: blocks of 16 outputs; in a block, groups of 4 inputs: 16 x 4 bytes, raised by 128. Padding is 128, which is zero.
EXPORT void deed_pack(const int8_t* w, int64_t out, int64_t in, uint8_t* to) {
    int64_t width = (in + 15) / 16 * 16, blocks = (out + 15) / 16;
    memset(to, 128, blocks * 16 * width);
    for (int64_t o = 0; o < out; o++)
        for (int64_t k = 0; k < in; k++)
            to[(o / 16) * 16 * width + (k / 4) * 64 + (o % 16) * 4 + k % 4] = (uint8_t)(w[o * in + k] + 128);
}
