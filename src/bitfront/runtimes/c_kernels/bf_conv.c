/* Convolutions of any kernel, stride, padding, dilation and groups. */
#include "bf_layer.h"

#if BF_MVE
#include "bf_conv_mve.h"
#elif BF_DSP
#include "bf_conv_dsp.h"
#else
/* sums[2 i + j] += w_i . x_j */
#define DOTS(w0, w1, x0, x1, n, sums)                                                  \
    do {                                                                               \
        int32_t s00 = sums[0], s01 = sums[1], s10 = sums[2], s11 = sums[3], i_;        \
        for (i_ = 0; i_ < n; i_++) {                                                   \
            s00 += (int32_t)(w0)[i_] * x0[i_];                                         \
            s01 += (int32_t)(w0)[i_] * x1[i_];                                         \
            s10 += (int32_t)(w1)[i_] * x0[i_];                                         \
            s11 += (int32_t)(w1)[i_] * x1[i_];                                         \
        }                                                                              \
        sums[0] = s00;                                                                 \
        sums[1] = s01;                                                                 \
        sums[2] = s10;                                                                 \
        sums[3] = s11;                                                                 \
    } while (0)

static void dots(const bf_layer *p, const void *w0, const void *w1, const int16_t *x0, const int16_t *x1, int32_t n,
                 int32_t sums[4]) {
    if (bf_is_small(p)) {
        DOTS((const int8_t *)w0, (const int8_t *)w1, x0, x1, n, sums);
    } else {
        DOTS((const int16_t *)w0, (const int16_t *)w1, x0, x1, n, sums);
    }
}

#define BF_NAME bf_conv
#define BF_SUM int32_t
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_DOTS dots
#define BF_IS_DIRECT bf_is_direct
#define BF_WEIGHT_BYTES(p) (bf_is_small(p) ? 1 : 2)
#define BF_UNPACK bf_unpack_rows
#define BF_START bf_start_for
#define BF_END_4 bf_end_4
#include "bf_conv_body.h"
#undef BF_NAME
#undef BF_SUM
#undef BF_PATCH
#undef BF_WIDEN
#undef BF_DOTS
#undef BF_IS_DIRECT
#undef BF_WEIGHT_BYTES
#undef BF_UNPACK
#undef BF_START
#undef BF_END_4
#endif

static void dots_wide(const bf_layer *p, const void *row0, const void *row1, const int16_t *x0, const int16_t *x1, int32_t n,
                      int64_t sums[4]) {
    const int16_t *const w0 = row0, *const w1 = row1;
    int32_t i;
    (void)p;
    for (i = 0; i < n; i++) {
        sums[0] += (int64_t)w0[i] * x0[i];
        sums[1] += (int64_t)w0[i] * x1[i];
        sums[2] += (int64_t)w1[i] * x0[i];
        sums[3] += (int64_t)w1[i] * x1[i];
    }
}

static void dots_x32(const bf_layer *p, const void *row0, const void *row1, const int32_t *x0, const int32_t *x1, int32_t n,
                     int64_t sums[4]) {
    const int16_t *const w0 = row0, *const w1 = row1;
    int32_t i;
    (void)p;
    for (i = 0; i < n; i++) {
        sums[0] += (int64_t)w0[i] * x0[i];
        sums[1] += (int64_t)w0[i] * x1[i];
        sums[2] += (int64_t)w1[i] * x0[i];
        sums[3] += (int64_t)w1[i] * x1[i];
    }
}

static void unpack_wide(const bf_layer *p, int32_t first, int32_t n_rows, int32_t line, int32_t padded, int16_t *row,
                        void *weights) {
    const int32_t n = line * p->kernel_h, row_bytes = bf_row_bytes(p, n);
    int16_t *const rows = weights;
    int32_t i;
    (void)row;
    (void)padded;
    for (i = 0; i < n_rows; i++) { bf_unpack(rows + i * n, p->weight + (first + i) * row_bytes, p->weight_bits, n); }
}

#define BF_SUM int64_t
#define BF_IS_DIRECT(p) 0
#define BF_WEIGHT_BYTES(p) 2
#define BF_UNPACK unpack_wide
#define BF_START bf_start_for_wide
#define BF_END_4 bf_end_4_wide
#define BF_NAME bf_conv_wide
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_DOTS dots_wide
#include "bf_conv_body.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN
#undef BF_DOTS

#define BF_NAME bf_conv_x32
#define BF_PATCH int32_t
#define BF_WIDEN bf_widen_32
#define BF_DOTS dots_x32
#include "bf_conv_body.h"
