// Any processor: plain loops, which the compiler turns into what its target has.
#define LANES 4
#define ROWS 4
#define TILE_BLOCKS 1
#define DOT_OUTPUTS 2
typedef signed char quantized;
#include "body.h"

namespace {

inline float sum(vf v) { return (v[0] + v[1]) + (v[2] + v[3]); }
inline void sums(const vf* of, float* to) {
    for (int i = 0; i < 4; i++) to[i] = sum(of[i]);
}
inline vf fused(vf a, vf b, vf c) { return a * b + c; }
inline vf widen(const float* p) { return load(p); }
inline vf widen(const int8_t* p) { return vf{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }
inline void narrow(vi v, quantized* p) {
    for (int i = 0; i < LANES; i++) p[i] = (quantized)v[i];
}

template <int R>
void tile_int8(const uint8_t* w, int64_t, int64_t, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums) {
    int32_t acc[R][BLOCK] = {};
    for (int64_t g = 0; g < groups; g++)
        for (int i = 0; i < R; i++) {
            const quantized* x = q + i * ldq + 4 * g;
            for (int j = 0; j < BLOCK; j++) {
                const uint8_t* v = w + g * 64 + j * 4;
                acc[i][j] += v[0] * x[0] + v[1] * x[1] + v[2] * x[2] + v[3] * x[3];
            }
        }
    memcpy(sums, acc, sizeof(acc));
}

}  // namespace

DEED_RUN(run_scalar) { return run_chain(call); }
DEED_ATTEND(attend_scalar) { return run_attention(call); }
