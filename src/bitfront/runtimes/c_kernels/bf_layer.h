/* What convolutions and dense layers share: how their weights and sums begin, and how a sum becomes a code. */
#ifndef BF_LAYER_H
#define BF_LAYER_H

#include "bf_kernels.h"

/* Weights of a row in scratch: whole words. */
#define BF_EVEN(n) (((n) + 1) & ~1)

static inline int32_t bf_row_bytes(const bf_layer *p, int32_t n_weights) {
    return (n_weights * p->weight_bits + 7) >> 3;
}

static inline int32_t bf_start(const bf_layer *p, int32_t channel) {
    if (!p->bias) {
        return 0;
    }
    return bf_unpack_one(p->bias, p->bias_bits, channel) * ((int32_t)1 << p->bias_shift);
}

static inline int32_t bf_shift_of(const bf_layer *p, int32_t channel) {
    return p->shifts ? p->shifts[channel] : p->shift;
}

/* Place i of y becomes the code of a sum. */
static inline void bf_finish(const bf_layer *p, void *y, int32_t i, int32_t sum, int32_t shift) {
    bf_put(y, p->out_type, i, bf_clamp(bf_scale(sum, shift, p->even), p->lo, p->hi));
}

static inline void bf_finish_wide(const bf_layer *p, void *y, int32_t i, int64_t sum, int32_t shift) {
    bf_put(y, p->out_type, i, bf_clamp_wide(bf_scale_wide(sum, shift, p->even), p->lo, p->hi));
}

/* Codes as 16-bit numbers; not for unsigned 16-bit codes. */
static inline void bf_widen_16(int16_t *out, const uint8_t *x, uint8_t type, int32_t n) {
    int32_t i;
    if (type == BF_I8) {
        for (i = 0; i < n; i++) { out[i] = ((const int8_t *)x)[i]; }
    } else if (type == BF_U8) {
        for (i = 0; i < n; i++) { out[i] = x[i]; }
    } else {
        memcpy(out, x, (size_t)n * 2U);
    }
}

static inline void bf_widen_32(int32_t *out, const uint8_t *x, uint8_t type, int32_t n) {
    bf_read(out, x, type, n);
}

#endif
