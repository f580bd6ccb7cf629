/* Dense layers, and convolutions from one pixel to one. */
#include "bf_layer.h"

/* The sum of n products, from `sum` on; `row` ends with a 0 where n is odd. */
static inline int32_t dot(const int16_t *row, const int16_t *patch, int32_t n, int32_t sum) {
    int32_t i;
#if BF_DSP
    const bf_pair *const a = (const bf_pair *)(const void *)row, *const b = (const bf_pair *)(const void *)patch;
    for (i = 0; i < (n + 1) >> 1; i++) { sum = bf_dot2(a[i], b[i], sum); }
#else
    for (i = 0; i < n; i++) { sum += (int32_t)row[i] * patch[i]; }
#endif
    return sum;
}

/* The same where weights of 8 bits lie in flash. */
static inline int32_t dot_8(const uint8_t *row, const int16_t *patch, int32_t n, int32_t sum) {
    int32_t i = 0;
#if BF_MVE
    for (; i < n; i += 8) {
        const mve_pred16_t some = vctp16q((uint32_t)(n - i));
        sum = vmladavaq_s16(sum, vldrbq_z_s16((const int8_t *)row + i, some), vldrhq_z_s16(patch + i, some));
    }
#elif BF_DSP
    for (; i + 4 <= n; i += 4) {
        const uint32_t v = bf_four(row + i), even = bf_even_i8(v), odd = bf_odd_i8(v);
        sum = bf_dot2(bf_lower(even, odd), bf_four(patch + i), sum);
        sum = bf_dot2(bf_upper(even, odd), bf_four(patch + i + 2), sum);
    }
#endif
    for (; i < n; i++) { sum += (int8_t)row[i] * (int32_t)patch[i]; }
    return sum;
}

static inline int64_t dot_wide(const int16_t *row, const int16_t *patch, int32_t n, int64_t sum) {
    int32_t i;
    for (i = 0; i < n; i++) { sum += (int64_t)row[i] * patch[i]; }
    return sum;
}

static inline int64_t dot_x32(const int16_t *row, const int32_t *patch, int32_t n, int64_t sum) {
    int32_t i;
    for (i = 0; i < n; i++) { sum += (int64_t)row[i] * patch[i]; }
    return sum;
}

#define BF_NAME bf_dense
#define BF_SUM int32_t
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_DOT dot
#define BF_DOT_8 dot_8
#define BF_FINISH bf_finish
#include "bf_dense_body.h"
#undef BF_NAME
#undef BF_SUM
#undef BF_DOT
#undef BF_DOT_8
#undef BF_FINISH

#define BF_SUM int64_t
#define BF_FINISH bf_finish_wide
#define BF_NAME bf_dense_wide
#define BF_DOT dot_wide
#include "bf_dense_body.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN
#undef BF_DOT

#define BF_NAME bf_dense_x32
#define BF_PATCH int32_t
#define BF_WIDEN bf_widen_32
#define BF_DOT dot_x32
#include "bf_dense_body.h"
