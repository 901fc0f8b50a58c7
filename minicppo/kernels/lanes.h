/* What decode.c and train.c share: vectors of 16 floats, whose sums have one order everywhere, and a matrix product.

D channels a head, of G queries to each of KV keys, are constants of the compilation.
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

static inline lanes sigmoid(lanes x) { return 1 / (1 + exponential(-larger(x, all(-87)))); }

/* 1 / root mean square of x (width,) */
static inline float scale_of(const float *x, long width, float eps) {
    lanes squares = {0};
    for (long i = 0; i < width; i += LANES) squares += AT(x + i) * AT(x + i);
    return 1 / sqrtf(sum(squares) / width + eps);
}

static inline void normed(const float *x, const float *weight, long width, float eps, float *out) {
    float scale = scale_of(x, width, eps);
    for (long i = 0; i < width; i += LANES) AT(out + i) = AT(x + i) * scale * AT(weight + i);
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

/* A tile of R rows and P times 16 columns stays in registers: 32 of 16 floats, or 16 of 8. */
#ifdef __AVX512F__
#define R 12
#define P 2
#else
#define R 4
#define P 1
#endif
#define TILE(name, rows, panels)                                                                                      \
    static void name(long K, const float *a, long a_row, long a_step, const float *b, long b_panel, long b_row,       \
                     float *c, long c_row, int add) {                                                                 \
        lanes x[rows][panels];                                                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                                       \
            _Pragma("GCC unroll 16") for (int j = 0; j < panels; j++)                                                 \
                x[i][j] = add ? AT(c + i * c_row + j * LANES) : all(0);                                               \
        for (long k = 0; k < K; k++) {                                                                                \
            _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                                   \
                _Pragma("GCC unroll 16") for (int j = 0; j < panels; j++)                                             \
                    x[i][j] += a[i * a_row + k * a_step] * AT(b + j * b_panel + k * b_row);                           \
        }                                                                                                             \
        _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++)                                                       \
            _Pragma("GCC unroll 16") for (int j = 0; j < panels; j++) AT(c + i * c_row + j * LANES) = x[i][j];        \
    }
TILE(tile, R, P)
TILE(tile_of_four, 4, P)
TILE(tile_of_one, 1, P)
TILE(narrow, R, 1)
TILE(narrow_of_four, 4, 1)
TILE(narrow_of_one, 1, 1)

/* C (M, N) = A B, or C += A B. a[m * a_row + k * a_step] is an element of A (M, K); of B (K, N) 16 columns stand beside
each other, from b + k * b_row on, the next 16 b_panel floats further. A row's sums do not depend on the other rows. */
static void product(long M, long N, long K, const float *a, long a_row, long a_step, const float *b, long b_panel,
                    long b_row, float *c, long c_row, int add) {
    for (long k = 0; k < K; k += 512)
        for (long n = 0; n < N;) {
            int wide = P > 1 && N - n >= P * LANES, step;
            for (long m = 0; m < M; m += step) {
                step = M - m >= R ? R : M - m >= 4 ? 4 : 1;
                (step == R   ? wide ? tile : narrow
                 : step == 4 ? wide ? tile_of_four : narrow_of_four
                             : wide ? tile_of_one : narrow_of_one)
                (K - k < 512 ? K - k : 512, a + m * a_row + k * a_step, a_row, a_step,
                 b + n / LANES * b_panel + k * b_row, b_panel, b_row, c + m * c_row + n, c_row, add || k);
            }
            n += wide ? P * LANES : LANES;
        }
}
