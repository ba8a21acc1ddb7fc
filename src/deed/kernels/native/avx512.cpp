// AVX-512 with VNNI: products of four bytes into 32 bits, sixteen outputs at a time.
#include <immintrin.h>
#define LANES 16
#define ROWS 12
#define TILE_BLOCKS 2
#define DOT_OUTPUTS 4
typedef signed char quantized;
#include "body.h"

namespace {

inline float sum(vf v) { return _mm512_reduce_add_ps((__m512)v); }
inline void sums(const vf* of, float* to) {
    __m512 a = (__m512)of[0], b = (__m512)of[1], c = (__m512)of[2], d = (__m512)of[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
inline vf fused(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline vf widen(const float* p) { return load(p); }
inline vf widen(const int8_t* p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
inline void narrow(vi v, quantized* p) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8((__m512i)v)); }

// In place: of the intrinsic, compilers make copies of every accumulator, which take as long as the products.
inline void add_products(__m512i& sum, __m512i w, __m512i x) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x)); }

template <int R, int B>
inline void tile_part(const uint8_t* w, int64_t stride, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    constexpr int UNROLL = R * B <= 2 ? 4 : R * B <= 4 ? 2 : 1;
    __m512i acc[UNROLL * R * B];
    EACH for (int i = 0; i < UNROLL * R * B; i++) acc[i] = _mm512_setzero_si512();
    for (int64_t g = 0; g < groups; g += UNROLL) {
        EACH for (int u = 0; u < UNROLL; u++) {
            __m512i v[B];
            // The next tile, since what fetches ahead by itself stops at the end of a page.
            EACH for (int b = 0; b < B; b++) _mm_prefetch((const char*)(w + (b + B) * stride + (g + u) * 64), _MM_HINT_T0);
            EACH for (int b = 0; b < B; b++) v[b] = _mm512_loadu_si512(w + b * stride + (g + u) * 64);
            EACH for (int i = 0; i < R; i++) {
                int32_t four;
                memcpy(&four, q + i * ldq + 4 * (g + u), 4);
                __m512i x = _mm512_set1_epi32(four);
                EACH for (int b = 0; b < B; b++) add_products(acc[(u * R + i) * B + b], v[b], x);
            }
        }
    }
    EACH for (int i = 0; i < R; i++)
        EACH for (int b = 0; b < B; b++) {
            EACH for (int u = 1; u < UNROLL; u++) acc[i * B + b] = _mm512_add_epi32(acc[i * B + b], acc[(u * R + i) * B + b]);
            _mm512_storeu_si512(sums + (i * TILE_BLOCKS + b) * 16, acc[i * B + b]);
        }
}

template <int R>
void tile_int8(const uint8_t* w, int64_t stride, int64_t blocks, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    if (blocks == 2) tile_part<R, 2>(w, stride, groups, q, ldq, sums);
    else tile_part<R, 1>(w, stride, groups, q, ldq, sums);
}

}  // namespace

DEED_RUN(run_avx512) { return run_chain(call); }
DEED_ATTEND(attend_avx512) { return run_attention(call); }
