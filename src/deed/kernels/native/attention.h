// Attention of a few queries to many keys: a decoding step's, and that of a block of positions that catch up.
//
// As in chains, what a query gives depends on nothing but that query, its keys and its mask: sums have one order, whatever the
// number of queries or threads, and a key that the mask hides adds nothing, so that a position in a block gets bit for bit
// what it gets alone. Keys and values are read once for a few queries.
#pragma once

namespace {

constexpr int TOGETHER = LANES >= 16 ? 6 : 2;  // queries, as registers allow
constexpr int64_t NEARBY = 32;    // values that stay in the first cache while all of `dim` is summed
constexpr int VECTORS = LANES >= 16 ? 4 : 2;

inline void sums(const vf* of, float* to);  // of four vectors each one's sum, in one order

template <int R, int C>
inline void scores_of(const Attention& a, const float* q, const float* k, float* scores, int64_t width) {
    vf acc[R][C] = {};
    for (int64_t d = 0; d < a.dim; d += LANES) {
        vf keys[C];
        EACH for (int j = 0; j < C; j++) keys[j] = load(k + j * a.k_key + d);
        EACH for (int i = 0; i < R; i++) {
            vf x = load(q + i * a.q_query + d);
            EACH for (int j = 0; j < C; j++) acc[i][j] = fused(x, keys[j], acc[i][j]);
        }
    }
    alignas(16) float four[4];
    EACH for (int i = 0; i < R; i++)
        EACH for (int j = 0; j < C; j += 4) {
            if (C >= 4) sums(acc[i] + j, four);
            else {
                vf padded[4] = {acc[i][j]};
                sums(padded, four);
            }
            for (int m = 0; m < (C < 4 ? C : 4); m++) scores[i * width + j + m] = four[m] * a.scale;
        }
}

template <int R, int V>
inline void add_values(const Attention& a, const float* v, const float* weights, int64_t width, int64_t count, float* out, int64_t ldo) {
    vf acc[R][V];
    EACH for (int i = 0; i < R; i++)
        EACH for (int j = 0; j < V; j++) acc[i][j] = load(out + i * ldo + j * LANES);
    for (int64_t n = 0; n < count; n++) {
        vf values[V];
        EACH for (int j = 0; j < V; j++) values[j] = load(v + n * a.v_key + j * LANES);
        EACH for (int i = 0; i < R; i++) {
            vf weight = all(weights[i * width + n]);
            EACH for (int j = 0; j < V; j++) acc[i][j] = fused(weight, values[j], acc[i][j]);
        }
    }
    EACH for (int i = 0; i < R; i++)
        EACH for (int j = 0; j < V; j++) store(out + i * ldo + j * LANES, acc[i][j]);
}

// In place: scores to what is proportional to their softmax, zeros up to `width`; returns one over their sum.
inline float softmax(float* scores, int64_t n, int64_t width, const float* mask) {
    if (mask)
        for (int64_t i = 0; i < n; i++) scores[i] += mask[i];
    for (int64_t i = n; i < width; i++) scores[i] = -INFINITY;
    vf most = load(scores);
    for (int64_t i = LANES; i < width; i += LANES) most = larger(load(scores + i), most);
    float largest = most[0];
    for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    vf total = {};
    for (int64_t i = 0; i < width; i += LANES) {
        vf x = load(scores + i) - largest;
        vf weight = x < -87.0f ? vf{} : exponential(x);
        store(scores + i, weight);
        total += weight;
    }
    return 1 / sum(total);
}

template <int R>
void attend(const Attention& a, const float* q, const float* k, const float* v, const float* mask, float* out, float* scores) {
    int64_t width = padded(a.keys), ldo = a.heads * a.dim, n = 0;
    constexpr int C = R == 1 ? 8 : 4;
    for (; n + C <= a.keys; n += C) scores_of<R, C>(a, q, k + n * a.k_key, scores + n, width);
    for (; n < a.keys; n++) scores_of<R, 1>(a, q, k + n * a.k_key, scores + n, width);
    float factors[R];
    for (int i = 0; i < R; i++) {
        factors[i] = softmax(scores + i * width, a.keys, width, mask ? mask + i * a.mask_query : nullptr);
        memset(out + i * ldo, 0, a.dim * sizeof(float));
    }
    for (int64_t from = 0; from < a.keys; from += NEARBY) {
        int64_t count = a.keys - from < NEARBY ? a.keys - from : NEARBY, d = 0;
        const float* values = v + from * a.v_key;
        for (; d + VECTORS * LANES <= a.dim; d += VECTORS * LANES) add_values<R, VECTORS>(a, values + d, scores + from, width, count, out + d, ldo);
        for (; d < a.dim; d += LANES) add_values<R, 1>(a, values + d, scores + from, width, count, out + d, ldo);
    }
    for (int i = 0; i < R; i++)
        for (int64_t d = 0; d < a.dim; d += LANES) store(out + i * ldo + d, load(out + i * ldo + d) * factors[i]);
}

template <int R = TOGETHER>
inline void tile(int64_t count, const Attention& a, const float* q, const float* k, const float* v, const float* mask, float* out, float* scores) {
    if constexpr (R > 0) {
        if (count == R) return attend<R>(a, q, k, v, mask, out, scores);
        tile<R - 1>(count, a, q, k, v, mask, out, scores);
    }
}

// All queries of one head of one row.
void attend_head(const Attention& a, int64_t row, int64_t head, float* scores) {
    int64_t shared = head / (a.heads / a.kv_heads);
    const float *k = a.k + row * a.k_row + shared * a.k_head, *v = a.v + row * a.v_row + shared * a.v_head;
    const float* mask = a.mask ? a.mask + row * a.mask_row + head * a.mask_head : nullptr;
    int64_t tiles = (a.queries + TOGETHER - 1) / TOGETHER;  // of nearly the same height
    for (int64_t t = 0; t < tiles; t++) {
        int64_t i = a.queries * t / tiles, count = a.queries * (t + 1) / tiles - i;
        const float *q = a.q + row * a.q_row + head * a.q_head + i * a.q_query, *m = mask ? mask + i * a.mask_query : nullptr;
        tile(count, a, q, k, v, m, a.out + ((row * a.queries + i) * a.heads + head) * a.dim, scores);
    }
}

int run_attention(const Attention& a) {
    int64_t heads = a.rows * a.heads, bytes = TOGETHER * padded(a.keys) * sizeof(float);
    int64_t work = heads * a.queries * a.keys * a.dim * 2;
    int threads = work / SHARE + 1 < a.threads ? work / SHARE + 1 : a.threads;
    threads = threads < heads ? threads : heads;
    if (threads <= 1) {
        float* scores = (float*)scratch.get(bytes);
        if (!scores) return -1;
        for (int64_t i = 0; i < heads; i++) attend_head(a, i / a.heads, i % a.heads, scores);
        return 0;
    }
    int failed = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    {
        float* scores = (float*)scratch.get(bytes);
        int64_t thread = omp_get_thread_num(), of = omp_get_num_threads();
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        } else
            for (int64_t i = heads * thread / of; i < heads * (thread + 1) / of; i++) attend_head(a, i / a.heads, i % a.heads, scores);
    }
#else
    Attention alone = a;
    alone.threads = 1;
    return run_attention(alone);
#endif
    return failed ? -1 : 0;
}

}  // namespace
