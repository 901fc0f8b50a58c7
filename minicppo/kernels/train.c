/* Forward and backward passes of a Llama or Qwen model's layers over tokens end to end, in float32 on one thread.

A segment is a prompt or a response: its first token, its length, and the first token and length of what stands before
it (the prompt; nothing). Attention goes by segment, so no padding is computed, and a group's prompt is computed once.
*/
#include "lanes.h"

enum { Q = KV * G * D, TURNED = Q + KV * D, QKV = TURNED + KV * D, BLOCK = 64 };

void multiply(long M, long N, long K, const float *a, long a_row, long a_step, const float *b, long b_panel, long b_row,
              float *c) {
    product(M, N, K, a, a_row, a_step, b, b_panel, b_row, c, N, 0);
}

void norm(long rows, long width, const float *x, const float *weight, float eps, float *out) {
    for (long row = 0; row < rows; row++) normed(x + row * width, weight, width, eps, out + row * width);
}

/* dx of one norm; dw grows */
static inline void norm_back(const float *x, const float *weight, long width, float eps, const float *grad, float *dx,
                             float *dw) {
    float scale = scale_of(x, width, eps);
    lanes dot = {0};
    for (long i = 0; i < width; i += LANES) dot += AT(grad + i) * AT(weight + i) * AT(x + i);
    float mean = sum(dot) / width * scale * scale;
    for (long i = 0; i < width; i += LANES) {
        AT(dw + i) += AT(grad + i) * AT(x + i) * scale;
        AT(dx + i) = (AT(grad + i) * AT(weight + i) - AT(x + i) * mean) * scale;
    }
}

void norm_backward(long rows, long width, const float *x, const float *weight, float eps, const float *grad, float *dx,
                   float *dw) {
    for (long row = 0; row < rows; row++)
        norm_back(x + row * width, weight, width, eps, grad + row * width, dx + row * width, dw);
}

/* (rows, width) silu(gate) * up of both (rows, 2 width) */
void gate(long rows, long width, const float *both, float *out) {
    for (long row = 0; row < rows; row++, both += 2 * width, out += width)
        for (long i = 0; i < width; i += LANES) AT(out + i) = AT(both + i) * sigmoid(AT(both + i)) * AT(both + width + i);
}

void gate_backward(long rows, long width, const float *both, const float *grad, float *dx) {
    for (long row = 0; row < rows; row++, both += 2 * width, grad += width, dx += 2 * width)
        for (long i = 0; i < width; i += LANES) {
            lanes x = AT(both + i), s = sigmoid(x), g = AT(grad + i);
            AT(dx + i) = g * AT(both + width + i) * s * (1 + x * (1 - s));
            AT(dx + width + i) = g * x * s;
        }
}

/* What stands at the columns of a segment, from rows of `stride` floats: (columns, D), or (D, columns) if across; zeros
beyond */
static void gather(const int64_t *segment, const float *from, long stride, long columns, int across, float *to) {
    memset(to, 0, 4 * columns * D);
    for (long c = 0, before = segment[3]; c < before + segment[1]; c++) {
        const float *row = from + (c < before ? segment[2] + c : segment[0] + c - before) * stride;
        for (int d = 0; d < D; d++) to[across ? d * columns + c : c * D + d] = row[d];
    }
}

static void scatter(const int64_t *segment, const float *from, long stride, float *to) {
    for (long c = 0, before = segment[3]; c < before + segment[1]; c++) {
        float *row = to + (c < before ? segment[2] + c : segment[0] + c - before) * stride;
        for (int d = 0; d < D; d += LANES) AT(row + d) += AT(from + c * D + d);
    }
}

static long columns_of(const int64_t *segment) { return (segment[1] + segment[3] + LANES - 1) / LANES * LANES; }

static float *scratch_for(long segments, const int64_t *segment, long tensors) {
    long columns = 0;
    for (long s = 0; s < segments; s++) columns = columns_of(segment + 4 * s) > columns ? columns_of(segment + 4 * s) : columns;
    return malloc(4 * columns * (2 * BLOCK + tensors * D));
}

/* Attended values out (tokens, Q) of projections qkv (tokens, QKV), and what the backward pass needs: the normalised
and rotated queries and keys, turn (tokens, TURNED), and log-sum-exps of scores lse (tokens, KV * G). */
void attention(long tokens, long segments, const int64_t *segment, const float *qkv, const float *q_weight,
               const float *k_weight, float eps, const float *cos, const float *sin, const int64_t *positions,
               float scaling, float *turn, float *lse, float *out) {
    float *S = scratch_for(segments, segment, 2);
    for (long i = 0; i < tokens; i++)
        for (long h = 0; h < KV * G + KV; h++)
            turned(qkv + i * QKV + h * D, h < KV * G ? q_weight : k_weight, eps, cos + positions[i] * D,
                   sin + positions[i] * D, turn + i * TURNED + h * D);
    for (long s = 0; s < segments; s++, segment += 4) {
        long start = segment[0], before = segment[3], columns = columns_of(segment);
        float *K = S + BLOCK * columns, *V = K + columns * D;
        for (long head = 0; head < KV * G; head++) {
            if (head % G == 0) {
                gather(segment, turn + Q + head / G * D, TURNED, columns, 1, K);
                gather(segment, qkv + TURNED + head / G * D, QKV, columns, 0, V);
            }
            for (long first = 0; first < segment[1]; first += BLOCK) {
                long rows = segment[1] - first < BLOCK ? segment[1] - first : BLOCK, at = start + first;
                long wide = (before + first + rows + LANES - 1) / LANES * LANES;
                product(rows, wide, D, turn + at * TURNED + head * D, TURNED, 1, K, LANES, columns, S, columns, 0);
                for (long i = 0; i < rows; i++) {
                    float *x = S + i * columns;
                    for (long c = before + first + i + 1; c < wide; c++) x[c] = -INFINITY;
                    lanes top = AT(x), total = all(0);
                    for (long c = LANES; c < wide; c += LANES) top = larger(top, AT(x + c));
                    float highest = most(top);
                    for (long c = 0; c < wide; c += LANES) total += AT(x + c) = exponential((AT(x + c) - highest) * scaling);
                    float all_of_it = sum(total);
                    for (long c = 0; c < wide; c += LANES) AT(x + c) /= all_of_it;
                    lse[(at + i) * KV * G + head] = highest * scaling + logf(all_of_it);
                }
                product(rows, D, wide, S, columns, 1, V, LANES, D, out + at * Q + head * D, Q, 0);
            }
        }
    }
    free(S);
}

/* dx (tokens, QKV), all zeros before, of the projections; dq and dk (D,) of the norms' weights, if any, grow */
void attention_backward(long tokens, long segments, const int64_t *segment, const float *qkv, const float *q_weight,
                        const float *k_weight, float eps, const float *cos, const float *sin, const int64_t *positions,
                        float scaling, const float *turn, const float *lse, const float *out, const float *grad,
                        float *dx, float *dq, float *dk) {
    float *S = scratch_for(segments, segment, 5), *turn_grad = calloc(tokens * TURNED, 4);
    for (long s = 0; s < segments; s++, segment += 4) {
        long start = segment[0], before = segment[3], columns = columns_of(segment), size = columns * D;
        float *dS = S + BLOCK * columns, *K = dS + BLOCK * columns, *K_across = K + size, *V_across = K_across + size;
        float *dK = V_across + size, *dV = dK + size;
        for (long head = 0; head < KV * G; head++) {
            if (head % G == 0) {
                gather(segment, turn + Q + head / G * D, TURNED, columns, 0, K);
                gather(segment, turn + Q + head / G * D, TURNED, columns, 1, K_across);
                gather(segment, qkv + TURNED + head / G * D, QKV, columns, 1, V_across);
                memset(dK, 0, 8 * size);
            }
            for (long first = 0; first < segment[1]; first += BLOCK) {
                long rows = segment[1] - first < BLOCK ? segment[1] - first : BLOCK, at = start + first;
                long wide = (before + first + rows + LANES - 1) / LANES * LANES;
                const float *q = turn + at * TURNED + head * D, *g = grad + at * Q + head * D;
                product(rows, wide, D, q, TURNED, 1, K_across, LANES, columns, S, columns, 0);
                product(rows, wide, D, g, Q, 1, V_across, LANES, columns, dS, columns, 0);
                for (long i = 0; i < rows; i++) {
                    float *x = S + i * columns, *d = dS + i * columns, norm = lse[(at + i) * KV * G + head];
                    lanes dot = {0};
                    for (int c = 0; c < D; c += LANES) dot += AT(g + i * Q + c) * AT(out + (at + i) * Q + head * D + c);
                    float mean = sum(dot);
                    for (long c = before + first + i + 1; c < wide; c++) x[c] = -INFINITY;
                    for (long c = 0; c < wide; c += LANES) {
                        AT(x + c) = exponential(AT(x + c) * scaling - norm);
                        AT(d + c) = AT(x + c) * (AT(d + c) - mean) * scaling;
                    }
                }
                product(rows, D, wide, dS, columns, 1, K, LANES, D, turn_grad + at * TURNED + head * D, TURNED, 0);
                product(wide, D, rows, dS, 1, columns, q, LANES, TURNED, dK, D, 1);
                product(wide, D, rows, S, 1, columns, g, LANES, Q, dV, D, 1);
            }
            if (head % G == G - 1) {
                scatter(segment, dK, TURNED, turn_grad + Q + head / G * D);
                scatter(segment, dV, QKV, dx + TURNED + head / G * D);
            }
        }
    }
    for (long i = 0; i < tokens; i++)
        for (long h = 0; h < KV * G + KV; h++) { /* a turn's gradient is the turn back */
            const float *c = cos + positions[i] * D, *n = sin + positions[i] * D, *x = qkv + i * QKV + h * D;
            const float *g = turn_grad + i * TURNED + h * D, *weight = h < KV * G ? q_weight : k_weight;
            float back[D], *to = dx + i * QKV + h * D;
            for (int d = 0; d < D; d++) back[d] = g[d] * c[d] + g[(d + D / 2) % D] * n[(d + D / 2) % D];
            if (weight) norm_back(x, weight, D, eps, back, to, h < KV * G ? dq : dk);
            else memcpy(to, back, 4 * D);
        }
    free(S), free(turn_grad);
}
