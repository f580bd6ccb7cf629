/* How the sums of most layers become codes. */
#ifndef BF_END_H
#define BF_END_H

#include "bf_numeric.h"
#include "bf_simd.h"

/* Most layers shift all sums to the right by the same. Theirs begin with the half that rounding adds, so that what is left
 * is a shift; a tie, whose bits below are then 0, loses its lowest bit where ties go to even. */
enum { BF_END_I8, BF_END_U8, BF_END_CLAMP, BF_END_ANY };
typedef struct {
    int32_t kind, shift, half;
    int32_t mask; /* of the bits below; all, so that only 0 is a tie, where there are none or ties go up */
} bf_end;

static inline bf_end bf_end_for(uint8_t type, int32_t lo, int32_t hi, int32_t shift, int32_t even) {
    bf_end e;
    const int32_t i8 = type == BF_I8 && lo == -128 && hi == 127;
    const int32_t u8 = type == BF_U8 && lo == 0 && hi == 255;
    const int32_t is_any = shift < 0 || shift > 30;
    e.kind = is_any ? BF_END_ANY : i8 ? BF_END_I8 : u8 ? BF_END_U8 : BF_END_CLAMP;
    e.shift = is_any ? 0 : shift;
    e.half = ((int32_t)1 << e.shift) >> 1;
    e.mask = even && e.shift ? ((int32_t)1 << e.shift) - 1 : INT32_MAX;
    return e;
}

static inline int32_t bf_rounded(const bf_end *e, int32_t sum) {
    const int32_t code = sum >> e->shift;
    return sum & e->mask ? code : code & ~1;
}

static inline uint8_t bf_code_8(const bf_end *e, int32_t sum, int32_t kind) {
    const int32_t code = bf_rounded(e, sum);
    return (uint8_t)(kind == BF_END_I8 ? bf_to_i8(code) : bf_to_u8(code));
}

#endif
