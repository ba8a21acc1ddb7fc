// The C interface between Python (ctypes, `__init__.py`) and the kernels. Plain structures that Python owns; nothing of torch.
#pragma once
#include <cstdint>

enum Kind : int32_t { INT8 = 0, WEIGHT_ONLY = 1, FLOAT32 = 2 };
enum Activation : int32_t { NONE = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4 };
enum NormKind : int32_t { NO_NORM = 0, RMS = 1, LAYER = 2 };
// OUTPUT: t = act(W norm(h) + b).  GATE: t = t * act(W norm(h) + b).  RESIDUAL: h = norm(h + W t + b), where t is the input
// if no OUTPUT came before.
enum Role : int32_t { OUTPUT = 0, GATE = 1, RESIDUAL = 2 };

struct Weight {
    int64_t out, in;
    const void* data;    // INT8: packed by deed_pack; WEIGHT_ONLY: int8 [out, in padded to 16]; FLOAT32: [out, in], in % 16 == 0
    const float* scale;  // [out padded to 16], worth of one step (INT8: of weight and activation step); not of FLOAT32
    int32_t kind;
    float levels;        // INT8: of activations to either side of zero
};

struct Norm {
    const float* weight;  // or null: ones
    const float* bias;    // or null: zeros
    int32_t kind;
    float eps;
};

struct Stage {
    const Weight* weight;
    const float* bias;  // [out] or null
    Norm before;        // of what the product reads
    Norm after;         // of the residual sum
    int32_t role, activation;
    int32_t dynamic;    // INT8: 1: a row's scale is its largest value; 0: values are in -1..1 already
    int32_t same_input; // reads what the stage before read, with the same norm, kind and levels
    int64_t column;     // OUTPUT: where its outputs begin in a row of what is written …
    int64_t stride;     // … and how long that row is
};

struct Call {
    const Stage* stages;
    int64_t count;
    const float* x;       // [rows, in of the first stage], where that is RESIDUAL
    const float* hidden;  // [rows, width]
    float* hidden_out;    // where there is a RESIDUAL
    float* out;           // where the last stage is not RESIDUAL
    int64_t rows;
    int64_t threads;
};

// Attention of a few queries to keys and values, which are float32: out = softmax(scale q k' + mask) v. Steps are in floats; the
// last dimension of each lies without gaps, and `dim` is a multiple of 16.
struct Attention {
    const float *q, *k, *v;
    const float* mask;  // or null; a step of 0 repeats
    float* out;         // [rows, queries, heads, dim]
    int64_t rows, heads, kv_heads, queries, keys, dim;
    int64_t q_row, q_head, q_query, k_row, k_head, k_key, v_row, v_head, v_key, mask_row, mask_head, mask_query;
    int64_t threads;
    float scale;
};

// One per instruction set: 0, or -1 where memory ran out.
#define DEED_RUN(name) int name(const Call& call)
#define DEED_ATTEND(name) int name(const Attention& call)
DEED_ATTEND(attend_scalar);
DEED_ATTEND(attend_avx2);
DEED_ATTEND(attend_avx_vnni);
DEED_ATTEND(attend_avx512);
DEED_RUN(run_scalar);
DEED_RUN(run_avx2);
DEED_RUN(run_avx_vnni);
DEED_RUN(run_avx512);
