/* What convolutions and dense layers share: how their weights and sums begin, and how a sum becomes a code. */
#ifndef BF_LAYER_H
#define BF_LAYER_H

#include "bf_kernels.h"
#include "bf_simd.h"

/* Weights of a row in scratch: whole words. */
#define BF_EVEN(n) (((n) + 1) & ~1)
#define BF_FOURS(n) (((n) + 3) & ~3)

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

/* Most layers shift all sums to the right by the same. Theirs begin with the half that rounding adds, so that what is left
 * is a shift; a tie, whose bits below are then 0, loses its lowest bit where ties go to even. */
enum { BF_END_I8, BF_END_U8, BF_END_CLAMP, BF_END_ANY };
typedef struct {
    int32_t kind, shift, mask, kept;
} bf_end;

static inline bf_end bf_end_of(const bf_layer *p) {
    bf_end e;
    const int32_t right = p->shift > 0 && p->shift < 31 ? p->shift : 1;
    const int32_t i8 = p->out_type == BF_I8 && p->lo == -128 && p->hi == 127;
    const int32_t u8 = p->out_type == BF_U8 && p->lo == 0 && p->hi == 255;
    e.shift = right;
    e.mask = ((int32_t)1 << right) - 1;
    e.kept = p->even ? ~1 : ~0;
    e.kind = p->shifts || p->shift != right ? BF_END_ANY : i8 ? BF_END_I8 : u8 ? BF_END_U8 : BF_END_CLAMP;
    return e;
}

static inline int32_t bf_start_for(const bf_layer *p, const bf_end *e, int32_t channel) {
    return bf_start(p, channel) + (e->kind == BF_END_ANY ? 0 : (e->mask + 1) >> 1);
}

static inline int32_t bf_rounded(const bf_end *e, int32_t sum) {
    int32_t code = sum >> e->shift;
    if (!(sum & e->mask)) { code &= e->kept; }
    return code;
}

/* Places at + d0 and at + d1 of y, of channels c and c + more, become codes, and the places `pixel` behind them. */
static inline void bf_end_4(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t channel, int32_t more,
                            int32_t pixel, const int32_t sums[4]) {
    uint8_t *const to = (uint8_t *)y + at;
    switch (e->kind) {
    case BF_END_I8:
        to[0] = (uint8_t)bf_to_i8(bf_rounded(e, sums[0]));
        to[pixel] = (uint8_t)bf_to_i8(bf_rounded(e, sums[1]));
        to[more] = (uint8_t)bf_to_i8(bf_rounded(e, sums[2]));
        to[pixel + more] = (uint8_t)bf_to_i8(bf_rounded(e, sums[3]));
        break;
    case BF_END_U8:
        to[0] = (uint8_t)bf_to_u8(bf_rounded(e, sums[0]));
        to[pixel] = (uint8_t)bf_to_u8(bf_rounded(e, sums[1]));
        to[more] = (uint8_t)bf_to_u8(bf_rounded(e, sums[2]));
        to[pixel + more] = (uint8_t)bf_to_u8(bf_rounded(e, sums[3]));
        break;
    case BF_END_CLAMP:
        bf_put(y, p->out_type, at, bf_clamp(bf_rounded(e, sums[0]), p->lo, p->hi));
        bf_put(y, p->out_type, at + pixel, bf_clamp(bf_rounded(e, sums[1]), p->lo, p->hi));
        bf_put(y, p->out_type, at + more, bf_clamp(bf_rounded(e, sums[2]), p->lo, p->hi));
        bf_put(y, p->out_type, at + pixel + more, bf_clamp(bf_rounded(e, sums[3]), p->lo, p->hi));
        break;
    default: {
        const int32_t shift = bf_shift_of(p, channel), shift_more = bf_shift_of(p, channel + more);
        bf_finish(p, y, at, sums[0], shift);
        bf_finish(p, y, at + pixel, sums[1], shift);
        bf_finish(p, y, at + more, sums[2], shift_more);
        bf_finish(p, y, at + pixel + more, sums[3], shift_more);
    }
    }
}

static inline void bf_end_1(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t channel, int32_t sum) {
    if (e->kind == BF_END_ANY) {
        bf_finish(p, y, at, sum, bf_shift_of(p, channel));
    } else {
        bf_put(y, p->out_type, at, bf_clamp(bf_rounded(e, sum), p->lo, p->hi));
    }
}

/* The same for sums of 64 bits, to which nothing was added. */
static inline int32_t bf_start_for_wide(const bf_layer *p, const bf_end *e, int32_t channel) {
    (void)e;
    return bf_start(p, channel);
}

static inline void bf_end_4_wide(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t channel, int32_t more,
                                 int32_t pixel, const int64_t sums[4]) {
    const int32_t shift = bf_shift_of(p, channel), shift_more = bf_shift_of(p, channel + more);
    (void)e;
    bf_finish_wide(p, y, at, sums[0], shift);
    bf_finish_wide(p, y, at + pixel, sums[1], shift);
    bf_finish_wide(p, y, at + more, sums[2], shift_more);
    bf_finish_wide(p, y, at + pixel + more, sums[3], shift_more);
}

static inline void bf_end_1_wide(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t channel, int64_t sum) {
    (void)e;
    bf_finish_wide(p, y, at, sum, bf_shift_of(p, channel));
}

/* Codes as 16-bit numbers; not for unsigned 16-bit codes. */
static inline void bf_widen_16(int16_t *out, const uint8_t *x, uint8_t type, int32_t n) {
    int32_t i = 0;
    if (type == BF_I8) {
#if BF_DSP
        for (; i + 4 <= n; i += 4) {
            const uint32_t v = bf_four(x + i), even = bf_even_i8(v), odd = bf_odd_i8(v);
            const uint32_t pairs[2] = {bf_lower(even, odd), bf_upper(even, odd)};
            memcpy(out + i, pairs, 8);
        }
#endif
        for (; i < n; i++) { out[i] = ((const int8_t *)x)[i]; }
    } else if (type == BF_U8) {
#if BF_DSP
        for (; i + 4 <= n; i += 4) {
            const uint32_t v = bf_four(x + i), even = bf_even_u8(v), odd = bf_odd_u8(v);
            const uint32_t pairs[2] = {bf_lower(even, odd), bf_upper(even, odd)};
            memcpy(out + i, pairs, 8);
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

/* sums[2 i + j] += w_i . x_j: rows of n numbers, the weights followed by a 0 where n is odd. */
static inline void bf_dots(const int16_t *w0, const int16_t *w1, const int16_t *x0, const int16_t *x1, int32_t n,
                           int32_t sums[4]) {
    int32_t s00 = sums[0], s01 = sums[1], s10 = sums[2], s11 = sums[3], i;
#if BF_DSP
    const bf_pair *a = (const bf_pair *)w0, *b = (const bf_pair *)w1, *c = (const bf_pair *)x0, *d = (const bf_pair *)x1;
    for (i = (n + 1) >> 2; i > 0; i--, a += 2, b += 2, c += 2, d += 2) {
        s00 = bf_dot2(a[1], c[1], bf_dot2(a[0], c[0], s00));
        s01 = bf_dot2(a[1], d[1], bf_dot2(a[0], d[0], s01));
        s10 = bf_dot2(b[1], c[1], bf_dot2(b[0], c[0], s10));
        s11 = bf_dot2(b[1], d[1], bf_dot2(b[0], d[0], s11));
    }
    if ((n + 1) & 2) {
        s00 = bf_dot2(a[0], c[0], s00);
        s01 = bf_dot2(a[0], d[0], s01);
        s10 = bf_dot2(b[0], c[0], s10);
        s11 = bf_dot2(b[0], d[0], s11);
    }
#else
    for (i = 0; i < n; i++) {
        s00 += (int32_t)w0[i] * x0[i];
        s01 += (int32_t)w0[i] * x1[i];
        s10 += (int32_t)w1[i] * x0[i];
        s11 += (int32_t)w1[i] * x1[i];
    }
#endif
    sums[0] = s00;
    sums[1] = s01;
    sums[2] = s10;
    sums[3] = s11;
}

#endif
