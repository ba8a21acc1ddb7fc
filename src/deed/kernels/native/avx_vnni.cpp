// AVX-VNNI: products of four bytes into 32 bits, eight outputs at a time.
#include <immintrin.h>
#define LANES 8
#define ROWS 4
#define TILE_BLOCKS 1
#define DOT_OUTPUTS 2
typedef signed char quantized;
#include "body.h"

namespace {
#include "avx2_floats.h"

inline void narrow(vi v, quantized* p) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}

template <int R>
void tile_int8(const uint8_t* w, int64_t, int64_t, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    constexpr int UNROLL = R == 1 ? 4 : R == 2 ? 2 : 1;
    __m256i acc[UNROLL][R][2] = {};
    for (int64_t g = 0; g < groups; g += UNROLL)
        for (int u = 0; u < UNROLL; u++) {
            const __m256i* at = (const __m256i*)(w + (g + u) * 64);
            __m256i a = _mm256_loadu_si256(at), b = _mm256_loadu_si256(at + 1);
            for (int i = 0; i < R; i++) {
                int32_t four;
                memcpy(&four, q + i * ldq + 4 * (g + u), 4);
                __m256i x = _mm256_set1_epi32(four);
                acc[u][i][0] = _mm256_dpbusd_avx_epi32(acc[u][i][0], a, x);
                acc[u][i][1] = _mm256_dpbusd_avx_epi32(acc[u][i][1], b, x);
            }
        }
    for (int i = 0; i < R; i++)
        for (int c = 0; c < 2; c++) {
            for (int u = 1; u < UNROLL; u++) acc[0][i][c] = _mm256_add_epi32(acc[0][i][c], acc[u][i][c]);
            _mm256_storeu_si256((__m256i*)(sums + i * 16 + c * 8), acc[0][i][c]);
        }
}

}  // namespace

DEED_RUN(run_avx_vnni) { return run_chain(call); }
