// Chains of linears for a few rows: norm, row scale, rounding, product, bias, activation and residual in one call.
//
// Included once per instruction set, after LANES (floats per vector), `quantized` (type of rounded activations), ROWS (rows
// per tile), TILE_BLOCKS, DOT_OUTPUTS and the functions declared below are there. What a row gives depends on nothing but the row: integer sums are exact, and float
// sums have one order whatever the number of rows, threads, or the alignment. So the compiler must neither contract nor
// reorder (-ffp-contract=off, no -ffast-math).
#include <cmath>
#include <cstdlib>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "abi.h"

// A loop over registers: what they are called must be known early, or they go through memory.
#if defined(__clang__)
#define EACH _Pragma("unroll")
#else
#define EACH _Pragma("GCC unroll 64")
#endif

namespace {

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline float sum(vf v);                            // in one order
inline vf fused(vf a, vf b, vf c);                 // a * b + c
inline vf widen(const float* p);                   // LANES of them
inline vf widen(const int8_t* p);
inline void narrow(vi v, quantized* p);
// `sums` [R, TILE_BLOCKS * BLOCK] of R rows `q` times packed blocks: `groups` (a multiple of 4) of 16 outputs x 4 inputs,
// weights raised by 128.
template <int R>
void tile_int8(const uint8_t* w, int64_t stride, int64_t blocks, int64_t groups, const quantized* q, int64_t ldq, int32_t* sums);


constexpr int64_t BLOCK = 16;      // outputs that are packed together
constexpr int64_t CHUNK = 256;     // rows that go through a chain at a time, so that scratch memory has a bound
constexpr int64_t SHARE = 1 << 17; // products worth a thread
constexpr float TINY = 1.17549435e-38f;

inline int64_t padded(int64_t n, int64_t to = 16) { return (n + to - 1) / to * to; }
inline vf load(const float* p) { return *(const vf_any*)p; }
inline void store(float* p, vf v) { *(vf_any*)p = v; }
inline vf all(float v) { return v - vf{}; }
inline vf larger(vf a, vf b) { return a > b ? a : b; }

inline vf exponential(vf x) {
    x = larger(x, all(-87.0f));
    x = x < 88.0f ? x : all(88.0f);
    vf shifted = x * 1.44269504088896341f + 12582912.0f;
    vf n = shifted - 12582912.0f;
    vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi power = ((vi)shifted - 0x4B400000 + 127) << 23;
    return p * (vf)power;
}

inline vf hyperbolic_tangent(vf x) { return 1.0f - 2.0f / (exponential(x * 2.0f) + 1.0f); }

// Abramowitz and Stegun 7.1.26: 1.5e-7 at most from the true value.
inline vf error_function(vf x) {
    vf size = x < 0.0f ? -x : x;
    vf t = 1.0f / (size * 0.3275911f + 1.0f);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf y = 1.0f - p * t * exponential(-(size * size));
    return x < 0.0f ? -y : y;
}

inline vf activate(vf x, int32_t activation) {
    switch (activation) {
        case RELU: return x < 0.0f ? vf{} : x;
        case GELU: return x * 0.5f * (error_function(x * 0.70710678118654752f) + 1.0f);
        case GELU_TANH: return x * 0.5f * (hyperbolic_tangent((x * x * x * 0.044715f + x) * 0.79788456080286536f) + 1.0f);
        case SILU: return x / (exponential(-x) + 1.0f);
        default: return x;
    }
}

// A row with zeros after it, up to a multiple of 16.
inline void copy_row(const float* x, int64_t n, float* y) {
    memcpy(y, x, n * sizeof(float));
    memset(y + n, 0, (padded(n) - n) * sizeof(float));
}

// In place; `y` is padded with zeros and stays so.
void normalize(float* y, int64_t n, const Norm& norm) {
    int64_t full = n / LANES * LANES, left = n - full;
    float mean = 0;
    if (norm.kind == LAYER) {
        vf total = {};
        for (int64_t k = 0; k < padded(n); k += LANES) total += load(y + k);
        mean = sum(total) / n;
    }
    vf squares = {};
    for (int64_t k = 0; k < full; k += LANES) {
        vf d = load(y + k) - mean;
        squares += d * d;
    }
    float rest = 0;
    for (int64_t k = full; k < n; k++) rest += (y[k] - mean) * (y[k] - mean);
    float factor = 1 / sqrtf((sum(squares) + rest) / n + norm.eps);
    alignas(64) float weight[LANES] = {}, bias[LANES] = {};
    for (int64_t k = 0; k < n; k += LANES) {
        int64_t count = k == full ? left : LANES;
        const float *w = norm.weight ? norm.weight + k : nullptr, *b = norm.bias ? norm.bias + k : nullptr;
        if (count < LANES) {
            if (w) w = (const float*)memcpy(weight, w, count * sizeof(float));
            if (b) b = (const float*)memcpy(bias, b, count * sizeof(float));
        }
        vf v = (load(y + k) - mean) * factor;
        if (w) v *= load(w);
        if (b) v += load(b);
        store(y + k, v);
        for (int64_t i = count; i < LANES; i++) y[k + i] = 0;
    }
}

struct Row {
    float largest;
    int32_t sum;
};

// `x` is padded; so is `q`, with zeros.
Row round_row(const float* x, int64_t n, quantized* q, float levels, bool dynamic) {
    int64_t width = padded(n);
    float largest = 1;
    if (dynamic) {
        vf most = {};
        vi bad = {};
        for (int64_t k = 0; k < width; k += LANES) {
            vf v = load(x + k);
            most = larger(v < 0.0f ? -v : v, most);
            bad |= v != v;
        }
        largest = TINY;
        for (int i = 0; i < LANES; i++) {
            largest = most[i] > largest ? most[i] : largest;
            if (bad[i]) return memset(q, 0, width * sizeof(quantized)), Row{NAN, 0};
        }
    }
    vi total = {};
    for (int64_t k = 0; k < width; k += LANES) {
        vi v = (vi)(load(x + k) / largest * levels + 12582912.0f) - 0x4B400000;  // to the nearest, ties to even
        total += v;
        narrow(v, q + k);
    }
    int32_t all = 0;
    for (int i = 0; i < LANES; i++) all += total[i];
    return {largest, all};
}

// What becomes of a product: one row, outputs c..c+count of a padded block of accumulated values `v`.
struct Sink {
    const Stage& stage;
    float* to;          // [rows, stride], from the stage's column on
    const float* from;  // RESIDUAL: what is added
    int64_t stride;

    void put(float* v, int64_t row, int64_t c, int64_t count) const {
        alignas(64) float side[BLOCK];
        float* y = to + row * stride + c;
        bool whole = count == BLOCK;
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            vf value = load(v + i);
            if (stage.bias) value += load(whole ? stage.bias + c + i : part(stage.bias + c, count, side) + i);
            value = activate(value, stage.activation);
            if (stage.role == RESIDUAL) value += load(whole ? from + row * stride + c + i : part(from + row * stride + c, count, side) + i);
            if (stage.role == GATE) value *= load(whole ? y + i : part(y, count, side) + i);
            store(whole ? y + i : v + i, value);
        }
        if (!whole) memcpy(y, v, count * sizeof(float));
    }

    static const float* part(const float* p, int64_t count, float* side) {
        memset(side, 0, BLOCK * sizeof(float));
        return (const float*)memcpy(side, p, count * sizeof(float));
    }
};

template <int R>
inline void int8_rows(const Weight& w, const quantized* q, const Row* row, int64_t r, int64_t block, int64_t blocks, const Sink& sink) {
    int64_t ldq = padded(w.in);
    alignas(64) int32_t sums[R][TILE_BLOCKS * BLOCK];
    const uint8_t* data = (const uint8_t*)w.data + block * BLOCK * ldq;
    tile_int8<R>(data, BLOCK * ldq, blocks, ldq / 4, q + r * ldq, ldq, sums[0]);
    for (int i = 0; i < R; i++) {
        for (int64_t b = 0; b < blocks; b++) {
            alignas(64) float values[BLOCK];
            int64_t c = (block + b) * BLOCK;
            for (int64_t j = 0; j < BLOCK; j += LANES) {
                vi exact = *(const vi_any*)(sums[i] + b * BLOCK + j) - 128 * row[r + i].sum;
                store(values + j, __builtin_convertvector(exact, vf) * load(w.scale + c + j) * row[r + i].largest);
            }
            sink.put(values, r + i, c, w.out - c < BLOCK ? w.out - c : BLOCK);
        }
    }
}

template <int R = ROWS>
inline void int8_tile(int64_t height, const Weight& w, const quantized* q, const Row* row, int64_t r, int64_t block, int64_t blocks, const Sink& sink) {
    if constexpr (R > 0) {
        if (height == R) return int8_rows<R>(w, q, row, r, block, blocks, sink);
        int8_tile<R - 1>(height, w, q, row, r, block, blocks, sink);
    }
}

// Tiles of nearly the same height: a low one at the end would take nearly as long as a high one.
void int8_product(const Weight& w, const quantized* q, const Row* row, int64_t rows, int64_t first, int64_t last, const Sink& sink) {
    int64_t tiles = (rows + ROWS - 1) / ROWS;
    for (int64_t block = first; block < last; block += TILE_BLOCKS) {
        int64_t blocks = last - block < TILE_BLOCKS ? last - block : TILE_BLOCKS;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t r = rows * t / tiles;
            int8_tile(rows * (t + 1) / tiles - r, w, q, row, r, block, blocks, sink);
        }
    }
}

// Float activations: R rows times C outputs, each sum in one vector over the input.
template <int R, int C, class T>
inline void dot(const T* w, int64_t ldw, const float* x, int64_t ldx, int64_t width, float (*sums)[BLOCK], int64_t c) {
    vf acc[R][C] = {};
    for (int64_t k = 0; k < width; k += LANES) {
        vf values[C];
        for (int j = 0; j < C; j++) values[j] = widen(w + j * ldw + k);
        for (int i = 0; i < R; i++) {
            vf a = load(x + i * ldx + k);
            for (int j = 0; j < C; j++) acc[i][j] = fused(a, values[j], acc[i][j]);
        }
    }
    for (int i = 0; i < R; i++)
        for (int j = 0; j < C; j++) sums[i][c + j] = sum(acc[i][j]);
}

template <int R, class T>
inline void float_rows(const Weight& w, const float* x, int64_t ldx, int64_t r, int64_t c, int64_t count, const Sink& sink) {
    alignas(64) float sums[R][BLOCK] = {};
    int64_t width = padded(w.in), j = 0;
    const T* data = (const T*)w.data + c * width;
    constexpr int C = R == 1 ? 8 : R == 2 ? 4 : DOT_OUTPUTS;
    for (; j + C <= count; j += C) dot<R, C>(data + j * width, width, x + r * ldx, ldx, width, sums, j);
    for (; j < count; j++) dot<R, 1>(data + j * width, width, x + r * ldx, ldx, width, sums, j);
    for (int i = 0; i < R; i++) {
        if (w.kind == WEIGHT_ONLY)
            for (int64_t k = 0; k < BLOCK; k += LANES) store(sums[i] + k, load(sums[i] + k) * load(w.scale + c + k));
        sink.put(sums[i], r + i, c, count);
    }
}

template <class T>
void float_product(const Weight& w, const float* x, int64_t ldx, int64_t rows, int64_t first, int64_t last, const Sink& sink) {
    for (int64_t block = first; block < last; block++) {
        int64_t c = block * BLOCK, count = w.out - c < BLOCK ? w.out - c : BLOCK, r = 0;
        for (; r + 4 <= rows; r += 4) float_rows<4, T>(w, x, ldx, r, c, count, sink);
        if (rows - r >= 2) float_rows<2, T>(w, x, ldx, r, c, count, sink), r += 2;
        if (rows - r) float_rows<1, T>(w, x, ldx, r, c, count, sink);
    }
}

struct Scratch {
    char* memory = nullptr;
    int64_t size = 0;

    char* get(int64_t bytes) {
        if (bytes > size) {
            free(memory);
            size = padded(bytes, 4096);
            memory = (char*)aligned_alloc(64, size);
            if (!memory) size = 0;
        }
        return memory;
    }
    ~Scratch() { free(memory); }
};

// The rows as a product reads them. Few rows are prepared by every thread for itself, so that none waits for another.
struct Prepared {
    quantized* q;
    Row* row;
    float* x;
};

constexpr int64_t ALONE = 2;  // rows up to which that is so

inline void prepare(const Stage& stage, const float* x, int64_t first, int64_t last, const Prepared& to) {
    const Weight& w = *stage.weight;
    int64_t width = padded(w.in);
    for (int64_t r = first; r < last; r++) {
        float* row = to.x + r * width;
        copy_row(x + r * w.in, w.in, row);
        if (stage.before.kind) normalize(row, w.in, stage.before);
        if (w.kind == INT8) to.row[r] = round_row(row, w.in, to.q + r * width, w.levels, stage.dynamic);
    }
}

inline void barrier(int threads) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp barrier
    }
#endif
}

struct Chain {
    const Call& call;
    int64_t rows;
    const float *x, *hidden;
    float *hidden_out, *out, *t;
    int threads;
    int64_t last_output;  // from this stage on, outputs are the chain's
    bool apart;           // `own` has room for all rows; else for one, also where few are left for the last chunk

    void run(int thread, const Prepared& own, const Prepared& shared) const {
        const float *h = hidden, *source = x;
        for (int64_t s = 0; s < call.count; s++) {
            const Stage& stage = call.stages[s];
            const Weight& w = *stage.weight;
            bool residual = stage.role == RESIDUAL;
            const float* reads = residual ? source : h;
            // What a product reads is prepared once for all rows by all threads, or by each for itself.
            const Prepared& at = apart ? own : shared;
            if (!stage.same_input) {
                if (apart) prepare(stage, reads, 0, rows, at);
                else {
                    prepare(stage, reads, rows * thread / threads, rows * (thread + 1) / threads, at);
                    barrier(threads);
                }
            }
            float* to = residual ? hidden_out : s >= last_output ? out : t;
            Sink sink{stage, to + stage.column, h, stage.stride};
            int64_t units = (padded(w.out) / BLOCK + TILE_BLOCKS - 1) / TILE_BLOCKS, blocks = padded(w.out) / BLOCK;
            int64_t first = units * thread / threads * TILE_BLOCKS, last = units * (thread + 1) / threads * TILE_BLOCKS;
            last = last < blocks ? last : blocks;
            if (w.kind == INT8) int8_product(w, at.q, at.row, rows, first, last, sink);
            else if (w.kind == WEIGHT_ONLY) float_product<int8_t>(w, at.x, padded(w.in), rows, first, last, sink);
            else float_product<float>(w, at.x, padded(w.in), rows, first, last, sink);
            if (residual) h = hidden_out;
            else source = to;
            bool more = s + 1 < call.count;
            if ((more && !call.stages[s + 1].same_input) || stage.after.kind) barrier(threads);
            if (stage.after.kind) {
                for (int64_t r = rows * thread / threads; r < rows * (thread + 1) / threads; r++) {
                    copy_row(hidden_out + r * w.out, w.out, own.x);
                    normalize(own.x, w.out, stage.after);
                    memcpy(hidden_out + r * w.out, own.x, w.out * sizeof(float));
                }
                if (more) barrier(threads);
            }
        }
    }
};

thread_local Scratch scratch;

int run_chain(const Call& call) {
    int64_t widest = 0, work = 0, rows = call.rows < CHUNK ? call.rows : CHUNK;
    for (int64_t s = 0; s < call.count; s++) {
        const Weight& w = *call.stages[s].weight;
        widest = padded(w.in) > widest ? padded(w.in) : widest;
        int64_t written = padded(call.stages[s].stride);
        if ((s + 1 < call.count && !call.stages[s + 1].same_input) || call.stages[s].after.kind) widest = written > widest ? written : widest;
        work += w.in * w.out * rows;
    }
    int64_t last_output = call.count;
    while (last_output && call.stages[last_output - 1].role != RESIDUAL && (last_output == call.count || call.stages[last_output].same_input))
        last_output--;
    int threads = work / SHARE + 1 < call.threads ? work / SHARE + 1 : call.threads;
    int64_t per = padded(rows * widest * sizeof(float), 64), q = padded(rows * widest * sizeof(quantized), 64);
    int64_t info = padded(rows * sizeof(Row), 64), set = per + q + info;
    int64_t sets = rows <= ALONE ? threads : 1, one = padded(widest * sizeof(float), 64) * threads;
    char* memory = scratch.get(per + sets * set + one);
    if (!memory) return -1;
    for (int64_t done = 0; done < call.rows; done += rows) {
        const Stage &start = call.stages[0], &end = call.stages[call.count - 1];
        rows = call.rows - done < CHUNK ? call.rows - done : CHUNK;
        int64_t in = start.weight->in, width = start.role == RESIDUAL ? start.weight->out : in;
        Chain chain{call,
                    rows,
                    call.x ? call.x + done * in : nullptr,
                    call.hidden + done * width,
                    call.hidden_out ? call.hidden_out + done * width : nullptr,
                    call.out ? call.out + done * end.stride : nullptr,
                    (float*)memory,
                    threads,
                    last_output,
                    sets > 1};
        auto prepared = [&](int64_t i) {
            char* at = memory + per + i * set;
            return Prepared{(quantized*)(at + per), (Row*)(at + per + q), (float*)at};
        };
        if (threads == 1) {
            chain.run(0, prepared(0), prepared(0));
            continue;
        }
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
        {
            int thread = omp_get_thread_num();
            Chain mine = chain;
            mine.threads = omp_get_num_threads();
            Prepared own = prepared(sets == 1 ? 0 : thread);
            if (sets == 1) own.x = (float*)(memory + per + sets * set) + thread * padded(widest, 16);
            mine.run(thread, own, prepared(0));
        }
#endif
    }
    return 0;
}

}  // namespace

#include "attention.h"
