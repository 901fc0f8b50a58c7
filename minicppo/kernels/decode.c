/* All of sampling that follows the prompts, for a Llama or Qwen model in float32 on one thread.

Rows are independent, so a few of them at a time go through all their tokens, in `slots` whose cache stays close to the
processor; a row that ends leaves its slot to the next one, and nothing is computed for what has ended. A group's prompt
is kept once.
*/
#include "lanes.h"

typedef struct { /* as `Layer` in native.py: matrices are in panels, each 16 columns of the transposed weight */
    const float *norm, *qkv, *qkv_bias, *q_norm, *k_norm, *o, *mlp_norm, *gate_up, *down;
} Layer;

typedef struct { /* as `Job` in native.py */
    const Layer *layer;
    const float *embedding, *norm, *head, *bias; /* the head has `padded` rows; the bias is -inf from `vocabulary` on */
    const float *cos, *sin;                      /* (positions, D) */
    const float *prompts;                        /* (layers, 2, prompts, KV, prompt_width, D), keys blocked */
    const float *first;                          /* (prompts, padded) logits after each prompt, with the bias */
    const int64_t *lengths;                      /* (prompts,) */
    const double *uniforms;                      /* (rows, most), or NULL: likeliest tokens */
    const int64_t *ends;                         /* (endings,) */
    int64_t *ids, *taken, *top_ids;              /* (rows, most), (rows,) tokens of each, (rows, most, k) or NULL */
    float *log_probs, *top;                      /* (rows, most), and (rows, most, k) or NULL */
    float *cache, *scratch;                      /* (layers, slots, 2, KV, width, D), keys blocked; floats for a step */
    int64_t *state;                              /* (4, slots) row, tokens so far, newest token, place in the cache */
    int64_t layers, hidden, inner, vocabulary, padded, prompt_count, prompt_width, samples, every, rows, most, endings, k;
    int64_t slots, width, next, live;
    float eps, scaling, temperature;
} Job;

enum { Q = KV * G * D, QKV = Q + 2 * KV * D };

/* scores of `columns` blocked keys, a multiple of 16; those from `valid` on are masked */
static inline void scores(float query[G][D], const float *K, long columns, long valid, float *score, long stride) {
    for (long t = 0; t < columns; t += LANES) {
        lanes even[G], odd[G];
        for (int g = 0; g < G; g++) even[g] = odd[g] = all(0);
        for (int d = 0; d < D; d += 2)
            for (int g = 0; g < G; g++) {
                even[g] += query[g][d] * AT(K + t * D + d * LANES);
                odd[g] += query[g][d + 1] * AT(K + t * D + d * LANES + LANES);
            }
        for (int g = 0; g < G; g++) AT(score + g * stride + t) = even[g] + odd[g];
    }
    for (int g = 0; g < G; g++)
        for (long t = valid; t < columns; t++) score[g * stride + t] = -INFINITY;
}

/* mixed += weights of `columns` values (columns, D), D a vector at a time */
static inline void mix(lanes mixed[G][4], const float *weight, long stride, const float *V, long columns) {
    long t = 0;
    for (; t + 3 < columns; t += 4)
        for (int i = 0; i < 4; i++)
            for (int g = 0; g < G; g++) mixed[g][i] += weight[g * stride + t + i] * AT(V + (t + i) * D);
    for (; t < columns; t++)
        for (int g = 0; g < G; g++) mixed[g][0] += weight[g * stride + t] * AT(V + t * D);
}

/* (KV * G * D) attended values of one row's projections; its key and value go to column t of the cache */
static void attend(const Job *job, const Layer *layer, const float *qkv, long prompt, long t, const float *keys,
                   const float *values, float *cache, float *out) {
    long length = job->lengths[prompt], before = (length + LANES - 1) / LANES * LANES;
    long columns = t / LANES * LANES + LANES, stride = before + columns;
    const float *cos = job->cos + (length + t) * D, *sin = job->sin + (length + t) * D;
    for (long h = 0; h < KV; h++) {
        float *K = cache + h * job->width * D, *V = K + KV * job->width * D;
        const float *prompt_keys = keys + h * job->prompt_width * D, *prompt_values = values + h * job->prompt_width * D;
        float key[D], query[G][D], score[G * stride], total[G];
        turned(qkv + Q + h * D, layer->k_norm, job->eps, cos, sin, key);
        for (int d = 0; d < D; d++) K[(t / LANES * D + d) * LANES + t % LANES] = key[d];
        memcpy(V + t * D, qkv + Q + (KV + h) * D, 4 * D);
        for (int g = 0; g < G; g++) {
            turned(qkv + (h * G + g) * D, layer->q_norm, job->eps, cos, sin, query[g]);
            for (int d = 0; d < D; d += LANES) AT(query[g] + d) *= job->scaling;
        }
        scores(query, prompt_keys, before, length, score, stride);
        scores(query, K, columns, t + 1, score + before, stride);
        for (int g = 0; g < G; g++) {
            float *s = score + g * stride;
            lanes top = AT(s), weights = all(0);
            for (long i = LANES; i < stride; i += LANES) top = larger(top, AT(s + i));
            float highest = most(top);
            for (long i = 0; i < stride; i += LANES) weights += AT(s + i) = exponential(AT(s + i) - highest);
            total[g] = sum(weights);
        }
        for (int d = 0; d < D; d += LANES) {
            lanes mixed[G][4];
            for (int g = 0; g < G; g++)
                for (int i = 0; i < 4; i++) mixed[g][i] = all(0);
            mix(mixed, score, stride, prompt_values + d, length);
            mix(mixed, score + before, stride, V + d, t + 1);
            for (int g = 0; g < G; g++)
                AT(out + (h * G + g) * D + d) = (mixed[g][0] + mixed[g][1] + mixed[g][2] + mixed[g][3]) / total[g];
        }
    }
}

/* The next token of a row at step t from its logits, which are overwritten: the first whose cumulative probability
exceeds the row's random number, or the likeliest. With it go its log-prob and those of the k likeliest tokens, or, with
k the vocabulary, of all. */
static int64_t draw(const Job *job, float *z, long row, long t) {
    long blocks = job->padded / LANES, vocabulary = job->vocabulary, place = row * job->most + t, token = vocabulary - 1;
    float *e = job->scratch;
    lanes tops = all(-INFINITY);
    for (long v = 0; v < job->padded; v += LANES) tops = larger(tops, AT(z + v) /= job->temperature);
    float top = most(tops);
    double total = 0, before = 0, part[blocks];
    for (long b = 0; b < blocks; b++) {
        double four[4] = {0};
        AT(e + b * LANES) = exponential(AT(z + b * LANES) - top);
        for (int i = 0; i < LANES; i++) four[i % 4] += e[b * LANES + i];
        total += part[b] = four[0] + four[1] + four[2] + four[3];
    }
    if (!job->uniforms || (job->every && row % job->every == 0))
        for (token = 0; token < vocabulary - 1 && z[token] != top;) token++;
    else {
        double target = fmin(job->uniforms[place] * total, nextafter(total, 0));
        long b = 0;
        for (; b < blocks - 1 && before + part[b] <= target; b++) before += part[b];
        for (long v = b * LANES; v < vocabulary && v < (b + 1) * LANES && before <= target; v++) {
            if (e[v] > 0) token = v;
            before += e[v];
        }
    }
    float norm = top + logf(total);
    job->ids[place] = token;
    job->log_probs[place] = z[token] - norm;
    float *kept = job->top + place * job->k;
    if (job->top_ids) {
        int64_t *ids = job->top_ids + place * job->k;
        for (long v = 0; v < vocabulary; v++) {
            long i = v < job->k ? v : job->k;
            if (i == job->k && !(z[v] - norm > kept[i - 1])) continue;
            for (i -= i == job->k; i > 0 && z[v] - norm > kept[i - 1]; i--) kept[i] = kept[i - 1], ids[i] = ids[i - 1];
            kept[i] = z[v] - norm, ids[i] = v;
        }
    } else if (job->top)
        for (long v = 0; v < vocabulary; v++) kept[v] = z[v] - norm;
    return token;
}

/* Draws for slot i; true where its row goes on */
static int goes_on(Job *job, long i, float *logits) {
    int64_t *row = job->state, *taken = row + job->slots, *newest = taken + job->slots;
    newest[i] = draw(job, logits, row[i], taken[i]);
    int on = ++taken[i] < job->most;
    for (long e = 0; e < job->endings; e++) on &= newest[i] != job->ends[e];
    job->taken[row[i]] = taken[i];
    return on;
}

/* Some steps more; how many rows have not ended after them. All that are on their way may end with the last step, and
others still wait. */
long decode(Job *job, long steps) {
    int64_t *row = job->state, *taken = row + job->slots, *newest = taken + job->slots, *place = newest + job->slots;
    long hidden = job->hidden, inner = job->inner, B = job->slots, size = job->width * D * KV;
    long prompt_size = job->prompt_count * KV * job->prompt_width * D, wide = 2 * inner > QKV ? 2 * inner : QKV;
    float *x = job->scratch + job->padded, *h = x + B * hidden, *p = h + B * (hidden > Q ? hidden : Q);
    float *logits = p + B * wide;
    for (; steps > 0; steps--) {
        while (job->live < B && job->next < job->rows) {
            row[job->live] = job->next++, taken[job->live] = 0;
            memcpy(logits, job->first + row[job->live] / job->samples * job->padded, 4 * job->padded);
            job->live += goes_on(job, job->live, logits);
        }
        long live = job->live;
        if (!live) return 0;
        for (long i = 0; i < live; i++) memcpy(x + i * hidden, job->embedding + newest[i] * hidden, 4 * hidden);
        for (long l = 0; l < job->layers; l++) {
            const Layer *layer = job->layer + l;
            const float *keys = job->prompts + 2 * l * prompt_size, *values = keys + prompt_size;
            for (long i = 0; i < live; i++) {
                normed(x + i * hidden, layer->norm, hidden, job->eps, h + i * hidden);
                if (layer->qkv_bias) memcpy(p + i * QKV, layer->qkv_bias, 4 * QKV);
            }
            product(live, QKV, hidden, h, hidden, 1, layer->qkv, hidden * LANES, LANES, p, QKV, !!layer->qkv_bias);
            for (long i = 0; i < live; i++) {
                long prompt = row[i] / job->samples, at = prompt * KV * job->prompt_width * D;
                float *cache = job->cache + (l * B + place[i]) * 2 * size;
                attend(job, layer, p + i * QKV, prompt, taken[i] - 1, keys + at, values + at, cache, h + i * Q);
            }
            product(live, hidden, Q, h, Q, 1, layer->o, Q * LANES, LANES, x, hidden, 1);
            for (long i = 0; i < live; i++) normed(x + i * hidden, layer->mlp_norm, hidden, job->eps, h + i * hidden);
            product(live, 2 * inner, hidden, h, hidden, 1, layer->gate_up, hidden * LANES, LANES, p, 2 * inner, 0);
            for (long i = 0; i < live; i++)
                for (float *gate = p + i * 2 * inner, *end = gate + inner; gate < end; gate += LANES)
                    AT(gate) *= sigmoid(AT(gate)) * AT(gate + inner);
            product(live, hidden, inner, p, 2 * inner, 1, layer->down, inner * LANES, LANES, x, hidden, 1);
        }
        for (long i = 0; i < live; i++) {
            normed(x + i * hidden, job->norm, hidden, job->eps, h + i * hidden);
            memcpy(logits + i * job->padded, job->bias, 4 * job->padded);
        }
        product(live, job->padded, hidden, h, hidden, 1, job->head, hidden * LANES, LANES, logits, job->padded, 1);
        job->live = 0;
        for (long i = 0; i < live; i++) { /* who goes on moves down to the place of who has ended */
            int64_t at = place[i];
            long to = job->live;
            if (!goes_on(job, i, logits + i * job->padded)) continue;
            row[to] = row[i], taken[to] = taken[i], newest[to] = newest[i], place[i] = place[to], place[to] = at;
            job->live++;
        }
    }
    return job->live + job->rows - job->next;
}
