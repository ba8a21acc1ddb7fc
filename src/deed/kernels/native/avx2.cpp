// AVX2: there are no products of bytes into 32 bits, and those into 16 bits overflow; so both sides are widened to 16 bits,
// weights as they are loaded, activations when they are rounded. Exact with all 127 levels.
#include <immintrin.h>
#define LANES 8
#define ROWS 6
#define TILE_BLOCKS 1
#define DOT_OUTPUTS 2
typedef short quantized;
#include "body.h"

namespace {
#include "avx2_floats.h"

inline void narrow(vi v, quantized* p) {
    __m256i packed = _mm256_packs_epi32((__m256i)v, (__m256i)v);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000)));
}

// In place: compilers run out of registers over copies of the sums.
inline void add_products(__m256i& sum, __m256i w, __m256i x) {
    __m256i product;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(w), "x"(x));
}

// C times 4 outputs, each with two partial sums.
template <int R, int C, int UNROLL>
inline void tile_part(const uint8_t* w, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    __m256i acc[UNROLL * R * C];
    EACH for (int i = 0; i < UNROLL * R * C; i++) acc[i] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g += UNROLL) {
        EACH for (int u = 0; u < UNROLL; u++) {
            __m256i v[C];
            EACH for (int c = 0; c < C; c++) v[c] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(w + (g + u) * 64 + c * 16)));
            EACH for (int i = 0; i < R; i++) {
                int64_t four;
                memcpy(&four, q + i * ldq + 4 * (g + u), 8);
                __m256i x = _mm256_set1_epi64x(four);
                EACH for (int c = 0; c < C; c++) add_products(acc[(u * R + i) * C + c], v[c], x);
            }
        }
    }
    EACH for (int i = 0; i < R; i++)
        EACH for (int c = 0; c < C; c += 2) {
            __m256i a = acc[i * C + c], b = acc[i * C + c + 1];
            EACH for (int u = 1; u < UNROLL; u++) {
                a = _mm256_add_epi32(a, acc[(u * R + i) * C + c]);
                b = _mm256_add_epi32(b, acc[(u * R + i) * C + c + 1]);
            }
            _mm256_storeu_si256((__m256i*)(sums + i * 16 + c * 4), _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0b11011000));
        }
}

template <int R>
void tile_int8(const uint8_t* w, int64_t, int64_t, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    if constexpr (R == 1) tile_part<1, 4, 2>(w, groups, q, ldq, sums);
    else if constexpr (R == 2) tile_part<2, 4, 1>(w, groups, q, ldq, sums);
    else {
        tile_part<R, 2, 1>(w, groups, q, ldq, sums);
        tile_part<R, 2, 1>(w + 32, groups, q, ldq, sums + 8);
    }
}

}  // namespace

DEED_RUN(run_avx2) { return run_chain(call); }
DEED_ATTEND(attend_avx2) { return run_attention(call); }
