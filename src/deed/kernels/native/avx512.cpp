// AVX-512 with VNNI: products of four bytes into 32 bits, sixteen outputs at a time.
#include <immintrin.h>
#define LANES 16
#define ROWS 8
#define TILE_BLOCKS 2
#define DOT_OUTPUTS 4
typedef signed char quantized;
#include "body.h"

namespace {

inline float sum(vf v) { return _mm512_reduce_add_ps((__m512)v); }
inline vf fused(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline vf widen(const float* p) { return load(p); }
inline vf widen(const int8_t* p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
inline void narrow(vi v, quantized* p) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8((__m512i)v)); }

template <int R, int B>
inline void tile_part(const uint8_t* w, int64_t stride, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    constexpr int UNROLL = R * B <= 2 ? 4 : R * B <= 4 ? 2 : 1;
    __m512i acc[UNROLL][R][B] = {};
    for (int64_t g = 0; g < groups; g += UNROLL)
        for (int u = 0; u < UNROLL; u++) {
            __m512i v[B];
            for (int b = 0; b < B; b++) v[b] = _mm512_loadu_si512(w + b * stride + (g + u) * 64);
            for (int i = 0; i < R; i++) {
                int32_t four;
                memcpy(&four, q + i * ldq + 4 * (g + u), 4);
                for (int b = 0; b < B; b++) acc[u][i][b] = _mm512_dpbusd_epi32(acc[u][i][b], v[b], _mm512_set1_epi32(four));
            }
        }
    for (int i = 0; i < R; i++)
        for (int b = 0; b < B; b++) {
            for (int u = 1; u < UNROLL; u++) acc[0][i][b] = _mm512_add_epi32(acc[0][i][b], acc[u][i][b]);
            _mm512_storeu_si512(sums + (i * TILE_BLOCKS + b) * 16, acc[0][i][b]);
        }
}

template <int R>
void tile_int8(const uint8_t* w, int64_t stride, int64_t blocks, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    if (blocks == 2) tile_part<R, 2>(w, stride, groups, q, ldq, sums);
    else tile_part<R, 1>(w, stride, groups, q, ldq, sums);
}

}  // namespace

DEED_RUN(run_avx512) { return run_chain(call); }
