/* Convolutions of any kernel, stride, padding, dilation and groups. */
#include "bf_layer.h"

#if BF_MVE
#include "bf_conv_mve.h"
#elif BF_DSP
#include "bf_conv_dsp.h"
#else
/* sums[2 i + j] += w_i . x_j */
static void dots(const int16_t *w0, const int16_t *w1, const int16_t *x0, const int16_t *x1, int32_t n,
                 int32_t sums[4]) {
    int32_t s00 = sums[0], s01 = sums[1], s10 = sums[2], s11 = sums[3], i;
    for (i = 0; i < n; i++) {
        s00 += (int32_t)w0[i] * x0[i];
        s01 += (int32_t)w0[i] * x1[i];
        s10 += (int32_t)w1[i] * x0[i];
        s11 += (int32_t)w1[i] * x1[i];
    }
    sums[0] = s00;
    sums[1] = s01;
    sums[2] = s10;
    sums[3] = s11;
}

#define BF_NAME bf_conv
#define BF_SUM int32_t
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_DOTS dots
#define BF_START bf_start_for
#define BF_END_4 bf_end_4
#include "bf_conv_body.h"
#undef BF_NAME
#undef BF_SUM
#undef BF_PATCH
#undef BF_WIDEN
#undef BF_DOTS
#undef BF_START
#undef BF_END_4
#endif

static void dots_wide(const int16_t *w0, const int16_t *w1, const int16_t *x0, const int16_t *x1, int32_t n,
                      int64_t sums[4]) {
    int32_t i;
    for (i = 0; i < n; i++) {
        sums[0] += (int64_t)w0[i] * x0[i];
        sums[1] += (int64_t)w0[i] * x1[i];
        sums[2] += (int64_t)w1[i] * x0[i];
        sums[3] += (int64_t)w1[i] * x1[i];
    }
}

static void dots_x32(const int16_t *w0, const int16_t *w1, const int32_t *x0, const int32_t *x1, int32_t n,
                     int64_t sums[4]) {
    int32_t i;
    for (i = 0; i < n; i++) {
        sums[0] += (int64_t)w0[i] * x0[i];
        sums[1] += (int64_t)w0[i] * x1[i];
        sums[2] += (int64_t)w1[i] * x0[i];
        sums[3] += (int64_t)w1[i] * x1[i];
    }
}

#define BF_SUM int64_t
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
