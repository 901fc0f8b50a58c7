/* What a CPU computes of one new token a row between the matrix products: norms, attention over a cache, gates, a draw.

The twins of `DirectDecoder._attend_to` and of the model's own norms and gates, in float32. D channels a head, of G
queries to each of KV keys, are constants of the compilation. Vectors are explicit, so sums have one order everywhere.
*/
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define AT(pointer) (*(lanes *)(pointer))
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

static inline lanes all(float x) { return (lanes){0} + x; }

/* a where it is no number: that must stay visible */
static inline lanes larger(lanes a, lanes b) {
    ints other = (ints)(b > a);
    return (lanes)(((ints)b & other) | ((ints)a & ~other));
}

static inline float sum(lanes x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

static inline float most(lanes x) {
    float top = x[0];
    for (int i = 1; i < LANES; i++) top = top >= x[i] ? top : x[i];
    return top;
}

/* e^x for x <= 88, 0 below -87; 2^n e^f with |f| <= log(2) / 2: the Taylor series' terms beyond f^7 are below rounding */
static inline lanes exponential(lanes x) {
    ints kept = ~(ints)(x < -87);
    x = larger(x, all(-87));
    lanes n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds: 1.5 * 2^23 */
    lanes f = (x - n * 0.693145751953125f) - n * 1.42860682e-6f; /* log(2) in two parts */
    lanes p = all(1.0f / 5040);
    for (int k = 6; k >= 0; k--) p = p * f + (float[]){1, 1, 1.0f / 2, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720}[k];
    p *= (lanes)((__builtin_convertvector(n, ints) + 127) << 23);
    return (lanes)((ints)p & kept);
}

static inline void normed(const float *x, const float *weight, long width, float eps, float *out) {
    lanes squares = {0};
    for (long i = 0; i < width; i += LANES) squares += AT(x + i) * AT(x + i);
    float scale = 1 / sqrtf(sum(squares) / width + eps);
    for (long i = 0; i < width; i += LANES) AT(out + i) = AT(x + i) * scale * AT(weight + i);
}

/* (rows, width) root-mean-square norms */
void norm(long rows, long width, const float *x, const float *weight, float eps, float *out) {
    for (long row = 0; row < rows; row++) normed(x + row * width, weight, width, eps, out + row * width);
}

/* (rows, width) silu(gate) * up, both with `stride` floats from row to row */
void gate(long rows, long width, const float *gates, const float *ups, long stride, float *out) {
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < width; i += LANES) {
            lanes x = AT(gates + row * stride + i);
            AT(out + row * width + i) = x / (1 + exponential(-larger(x, all(-87)))) * AT(ups + row * stride + i);
        }
}

/* a head's channels, normalised and rotated; `sin` has its sign, so that half a turn of the channels is a plain roll */
static inline void turned(const float *x, const float *weight, float eps, const float *cos, const float *sin,
                          float *out) {
    float twice[2 * D];
    if (weight) normed(x, weight, D, eps, twice);
    else memcpy(twice, x, 4 * D);
    memcpy(twice + D, twice, 4 * D);
    for (int d = 0; d < D; d += LANES)
        AT(out + d) = AT(twice + d) * AT(cos + d) + AT(twice + d + D / 2) * AT(sin + d);
}

/* Attended values (rows, KV * G * D) of projections q (rows, KV * G * D), k and v (rows, KV * D), whose key and value
go to `column` of the cache: keys (rows, KV, width / LANES, D, LANES), values (rows, KV, width, D). A row's columns are
filled from its start on; the others are never read. */
void attend(long rows, long width, const float *q, const float *k, const float *v, long stride, const float *q_weight,
            const float *k_weight, float eps, const float *cos, const float *sin, float scaling,
            const int64_t *positions, const int64_t *starts, const int64_t *column, float *keys, float *values,
            float *out) {
    for (long row = 0; row < rows; row++) {
        const float *c = cos + positions[row] * D, *s = sin + positions[row] * D;
        long now = *column, start = starts[row], from = start / LANES * LANES, to = now / LANES * LANES + LANES;
        for (long h = 0; h < KV; h++) {
            float *K = keys + (row * KV + h) * width * D, *V = values + (row * KV + h) * width * D;
            float key[D], query[G][D], score[G][to], total[G];
            turned(k + row * stride + h * D, k_weight, eps, c, s, key);
            for (int d = 0; d < D; d++) K[(now / LANES * D + d) * LANES + now % LANES] = key[d];
            memcpy(V + now * D, v + row * stride + h * D, 4 * D);
            for (int g = 0; g < G; g++) turned(q + row * stride + (h * G + g) * D, q_weight, eps, c, s, query[g]);
            for (long t = from; t < to; t += LANES) {
                lanes even[G], odd[G];
                for (int g = 0; g < G; g++) even[g] = odd[g] = all(0);
                for (int d = 0; d < D; d += 2)
                    for (int g = 0; g < G; g++) {
                        even[g] += query[g][d] * AT(K + t * D + d * LANES);
                        odd[g] += query[g][d + 1] * AT(K + t * D + d * LANES + LANES);
                    }
                for (int d = 0; d < D; d++) __builtin_prefetch(V + t * D + d * LANES); /* memory is the limit here */
                for (int g = 0; g < G; g++) AT(score[g] + t) = (even[g] + odd[g]) * scaling;
            }
            for (int g = 0; g < G; g++) {
                for (long t = from; t < start; t++) score[g][t] = -INFINITY;
                for (long t = now + 1; t < to; t++) score[g][t] = -INFINITY;
                lanes top = AT(score[g] + from), weights = all(0);
                for (long t = from; t < to; t += LANES) top = larger(top, AT(score[g] + t));
                float highest = most(top);
                for (long t = from; t < to; t += LANES)
                    weights += AT(score[g] + t) = exponential(AT(score[g] + t) - highest);
                total[g] = sum(weights);
            }
            for (int d = 0; d < D; d += LANES) {
                lanes mixed[G][4];
                for (int g = 0; g < G; g++)
                    for (int i = 0; i < 4; i++) mixed[g][i] = all(0);
                long t = start;
                for (; t + 3 <= now; t += 4)
                    for (int i = 0; i < 4; i++)
                        for (int g = 0; g < G; g++) mixed[g][i] += score[g][t + i] * AT(V + (t + i) * D + d);
                for (; t <= now; t++)
                    for (int g = 0; g < G; g++) mixed[g][0] += score[g][t] * AT(V + t * D + d);
                for (int g = 0; g < G; g++)
                    AT(out + ((row * KV + h) * G + g) * D + d) =
                        (mixed[g][0] + mixed[g][1] + mixed[g][2] + mixed[g][3]) / total[g];
            }
        }
    }
}

/* The next token of each row, into tokens (rows,) and, of the rows `at` of those that a sampler keeps, into column t of
ids and log_probs (.., width): the first whose cumulative probability exceeds uniforms[.., t]; or the likeliest, without
uniforms and of every row that is a multiple of `every`, unless that is 0. Log-probs of the whole vocabulary go to
full (.., width, V) unless that is NULL. `alive` becomes false at an end. bar (V,), added to the logits, may be NULL. */
void draw(long rows, long vocabulary, const float *logits, const float *bar, float temperature, const double *uniforms,
          long every, const int64_t *at, const int64_t *t, long width, const int64_t *ends, long number,
          int64_t *tokens, int64_t *ids, float *log_probs, uint8_t *alive, float *full) {
    long blocks = (vocabulary + LANES - 1) / LANES;
    double *part = malloc(blocks * sizeof(double));
    float *z = malloc(2 * blocks * sizeof(lanes)), *e = z + blocks * LANES;
    for (long row = 0; row < rows; row++) {
        lanes tops = all(-INFINITY);
        for (long v = 0; v < blocks * LANES; v++)
            z[v] = v < vocabulary ? (logits[row * vocabulary + v] + (bar ? bar[v] : 0)) / temperature : -INFINITY;
        for (long b = 0; b < blocks; b++) tops = larger(tops, AT(z + b * LANES));
        float top = most(tops);
        double total = 0, before = 0;
        for (long b = 0; b < blocks; b++) {
            AT(e + b * LANES) = exponential(AT(z + b * LANES) - top);
            part[b] = 0;
            for (int i = 0; i < LANES; i++) part[b] += e[b * LANES + i];
            total += part[b];
        }
        long place = at[row] * width + *t, token = vocabulary - 1;
        if (!uniforms || (every && at[row] % every == 0))
            for (token = 0; token < vocabulary - 1 && z[token] != top;) token++;
        else {
            double target = fmin(uniforms[place] * total, nextafter(total, 0));
            long b = 0;
            for (; b < blocks - 1 && before + part[b] <= target; b++) before += part[b];
            for (long v = b * LANES; v < vocabulary && v < (b + 1) * LANES && before <= target; v++) {
                if (e[v] > 0) token = v;
                before += e[v];
            }
        }
        float norm = top + logf(total);
        tokens[row] = ids[place] = token;
        log_probs[place] = z[token] - norm;
        for (long v = 0; full && v < vocabulary; v++) full[place * vocabulary + v] = z[v] - norm;
        for (long i = 0; i < number; i++) alive[row] &= token != ends[i];
    }
    free(part), free(z);
}
