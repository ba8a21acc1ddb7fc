// AVX-VNNI: products of four bytes into 32 bits, eight outputs at a time.
#include <immintrin.h>
#define LANES 8
#define ROWS 6
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

// In place: of the intrinsic, compilers make copies of every sum, which take as long as the products.
inline void add_products(__m256i& sum, __m256i w, __m256i x) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x)); }

template <int R>
void tile_int8(const uint8_t* w, int64_t, int64_t, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    constexpr int UNROLL = R == 1 ? 4 : R == 2 ? 2 : 1;
    __m256i acc[UNROLL * R * 2];
    EACH for (int i = 0; i < UNROLL * R * 2; i++) acc[i] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g += UNROLL) {
        EACH for (int u = 0; u < UNROLL; u++) {
            const __m256i* at = (const __m256i*)(w + (g + u) * 64);
            __m256i a = _mm256_loadu_si256(at), b = _mm256_loadu_si256(at + 1);
            EACH for (int i = 0; i < R; i++) {
                int32_t four;
                memcpy(&four, q + i * ldq + 4 * (g + u), 4);
                __m256i x = _mm256_set1_epi32(four);
                add_products(acc[(u * R + i) * 2], a, x);
                add_products(acc[(u * R + i) * 2 + 1], b, x);
            }
        }
    }
    EACH for (int i = 0; i < R; i++)
        EACH for (int c = 0; c < 2; c++) {
            EACH for (int u = 1; u < UNROLL; u++) acc[i * 2 + c] = _mm256_add_epi32(acc[i * 2 + c], acc[(u * R + i) * 2 + c]);
            _mm256_storeu_si256((__m256i*)(sums + i * 16 + c * 8), acc[i * 2 + c]);
        }
}

}  // namespace

DEED_RUN(run_avx_vnni) { return run_chain(call); }
DEED_ATTEND(attend_avx_vnni) { return run_attention(call); }
