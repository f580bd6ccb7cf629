/* Ends of layers and copies, in vectors. */
#ifndef BF_MVE_H
#define BF_MVE_H

#include "bf_layer.h"

/* Four numbers as a vector. */
static BF_INLINE int32x4_t bf_together(int32_t v0, int32_t v1, int32_t v2, int32_t v3) {
    int32x4_t v;
    __asm__("vmov %q0[2], %q0[0], %1, %2" : "=w"(v) : "r"(v0), "r"(v2));
    __asm__("vmov %q0[3], %q0[1], %1, %2" : "+w"(v) : "r"(v1), "r"(v3));
    return v;
}

/* The codes of sums that began as bf_start_for says, of a kind that is not BF_END_ANY. */
static BF_INLINE int32x4_t bf_codes(const bf_end *e, int32x4_t sums, int32_t lo, int32_t hi) {
    /* 1 where a tie's lowest bit goes: what lies below is 0, so 0 - 1 has its highest bit */
    const int32x4_t below = vsubq_s32(vandq_s32(sums, vdupq_n_s32(e->mask)), vdupq_n_s32(1));
    const uint32x4_t odd = vshrq_n_u32(vreinterpretq_u32_s32(below), 31);
    const int32x4_t codes = vbicq_s32(vshlq_r_s32(sums, -e->shift), vreinterpretq_s32_u32(odd));
    return vmaxq_s32(vminq_s32(codes, vdupq_n_s32(hi)), vdupq_n_s32(lo));
}

/* The first n <= 4 places from `at` on of y become codes of sums that began so. */
static BF_INLINE void bf_end_vector(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32x4_t sums, int32_t n) {
    if (e->kind == BF_END_ANY) {
        int32_t each[4], i;
        vst1q_s32(each, sums);
        for (i = 0; i < n && i < 4; i++) { bf_end_1(p, e, y, at + i, each[i]); }
    } else {
        const int32x4_t codes = bf_codes(e, sums, p->lo, p->hi);
        if (p->out_type >= BF_I16) {
            vstrhq_p_s32((int16_t *)y + at, codes, vctp32q((uint32_t)n));
        } else {
            vstrbq_p_s32((int8_t *)y + at, codes, vctp32q((uint32_t)n));
        }
    }
}

/* n bytes. */
static BF_INLINE void bf_copy_8(int8_t *to, const uint8_t *from, uint8_t type, int32_t n) {
    (void)type;
    for (; n > 0; n -= 16, to += 16, from += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)n);
        vstrbq_p_s8(to, vldrbq_z_s8((const int8_t *)from, some), some);
    }
}

/* n codes as numbers of 16 bits. */
static BF_INLINE void bf_copy_16(int16_t *to, const uint8_t *from, uint8_t type, int32_t n) {
    for (; n > 0; n -= 8, to += 8, from += type < BF_I16 ? 8 : 16) {
        const mve_pred16_t some = vctp16q((uint32_t)n);
        const int16x8_t v = type == BF_I8   ? vldrbq_z_s16((const int8_t *)from, some)
                            : type == BF_U8 ? vreinterpretq_s16_u16(vldrbq_z_u16(from, some))
                                            : vldrhq_z_s16((const int16_t *)(const void *)from, some);
        vstrhq_p_s16(to, v, some);
    }
}

#endif
