/* What convolutions and dense layers share: how their weights and sums begin, and how a sum becomes a code. */
#ifndef BF_LAYER_H
#define BF_LAYER_H

#include "bf_kernels.h"
#include "bf_end.h"

/* Weights of a row in scratch: whole words. */
#define BF_EVEN(n) (((n) + 1) & ~1)
#define BF_FOURS(n) (((n) + 3) & ~3)

static inline int32_t bf_row_bytes(const bf_layer *p, int32_t n_weights) {
    return (n_weights * p->weight_bits + 7) >> 3;
}

/* How bf_conv has the weights of a block: where they have 8 bits, beside codes of 8 bits, and whole fours a line, as they lie
 * in flash; else unpacked, in one byte or two. */
static inline int32_t bf_is_small(const bf_layer *p) {
    return p->in_type < BF_I16 && p->weight_bits <= 8;
}

static inline int32_t bf_is_direct(const bf_layer *p) {
    return bf_is_small(p) && p->weight_bits == 8 && (p->kernel_w * (p->in_c / p->groups) & 3) == 0;
}

/* Rows of weights of channels from `first` on; zeros fill lines of `line` up to `padded`. `row` has space for one. */
void bf_unpack_rows(const bf_layer *p, int32_t first, int32_t n_rows, int32_t line, int32_t padded, int16_t *row,
                    void *weights);

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

static inline bf_end bf_end_of(const bf_layer *p) {
    return bf_end_for(p->out_type, p->lo, p->hi, p->shifts ? -1 : p->shift, p->even);
}

static inline int32_t bf_start_for(const bf_layer *p, const bf_end *e, int32_t channel) {
    return bf_start(p, channel) + e->half;
}

/* Place `at` of y becomes the code of a sum that began so. */
void bf_end_1(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t sum);

/* Places at, at + more, at + next, at + next + more of y become the codes of four sums. */
static inline void bf_end_4(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t more, int32_t next, int32_t s0,
                            int32_t s1, int32_t s2, int32_t s3) {
    uint8_t *const to = (uint8_t *)y + at;
    if (e->kind == BF_END_I8) {
        to[0] = bf_code_8(e, s0, BF_END_I8);
        to[more] = bf_code_8(e, s1, BF_END_I8);
        to[next] = bf_code_8(e, s2, BF_END_I8);
        to[next + more] = bf_code_8(e, s3, BF_END_I8);
    } else if (e->kind == BF_END_U8) {
        to[0] = bf_code_8(e, s0, BF_END_U8);
        to[more] = bf_code_8(e, s1, BF_END_U8);
        to[next] = bf_code_8(e, s2, BF_END_U8);
        to[next + more] = bf_code_8(e, s3, BF_END_U8);
    } else {
        bf_end_1(p, e, y, at, s0);
        bf_end_1(p, e, y, at + more, s1);
        bf_end_1(p, e, y, at + next, s2);
        bf_end_1(p, e, y, at + next + more, s3);
    }
}

/* The same for sums of 64 bits, to which nothing was added. */
static inline int32_t bf_start_for_wide(const bf_layer *p, const bf_end *e, int32_t channel) {
    (void)e;
    return bf_start(p, channel);
}

static inline void bf_end_1_wide(const bf_layer *p, const bf_end *e, void *y, int32_t at, int64_t sum) {
    (void)e;
    bf_finish_wide(p, y, at, sum, bf_shift_of(p, at % p->out_c));
}

static inline void bf_end_4_wide(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t more, int32_t next,
                                 int64_t s0, int64_t s1, int64_t s2, int64_t s3) {
    bf_end_1_wide(p, e, y, at, s0);
    bf_end_1_wide(p, e, y, at + more, s1);
    bf_end_1_wide(p, e, y, at + next, s2);
    bf_end_1_wide(p, e, y, at + next + more, s3);
}

/* Codes as 16-bit numbers; not for unsigned 16-bit codes. */
static inline void bf_widen_16(int16_t *out, const uint8_t *x, uint8_t type, int32_t n) {
    int32_t i = 0;
    if (type == BF_I8) {
#if BF_DSP
        for (; i + 4 <= n; i += 4) {
            const uint32_t v = bf_four(x + i), even = bf_even_i8(v), odd = bf_odd_i8(v);
            bf_store_two(out + i, bf_lower(even, odd), bf_upper(even, odd));
        }
#endif
        for (; i < n; i++) { out[i] = ((const int8_t *)x)[i]; }
    } else if (type == BF_U8) {
#if BF_DSP
        for (; i + 4 <= n; i += 4) {
            const uint32_t v = bf_four(x + i), even = bf_even_u8(v), odd = bf_odd_u8(v);
            bf_store_two(out + i, bf_lower(even, odd), bf_upper(even, odd));
        }
#endif
        for (; i < n; i++) { out[i] = x[i]; }
    } else {
        memcpy(out, x, (size_t)n * 2U);
    }
}

static inline void bf_widen_32(int32_t *out, const uint8_t *x, uint8_t type, int32_t n) {
    bf_read(out, x, type, n);
}

#endif
