/* Numbers of the fixed-point contract: types of codes, the one rounding, saturation, packed weights.
 *
 * A code q of a tensor with f fractional bits stands for q / 2^f. Every operator computes an exact number in units of its
 * output's step, rounds it once (half to even, or half up), and saturates. That no sum here overflows was proven when
 * the code was generated. Right shifts of negative numbers are arithmetic, as with every compiler in use.
 */
#ifndef BF_NUMERIC_H
#define BF_NUMERIC_H

#include <stdint.h>
#include <string.h>

/* How codes are stored. The lowest bit says unsigned, the one above it two bytes. */
enum { BF_I8 = 0, BF_U8 = 1, BF_I16 = 2, BF_U16 = 3 };

#define BF_BYTES(type) (1 + ((type) >> 1))

static inline int32_t bf_clamp(int32_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

static inline int32_t bf_clamp_wide(int64_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : (int32_t)v;
}

/* v / 2^shift, rounded half to even (even = 1) or half up (even = 0); shift -16..31, |v| + 2^(shift - 1) < 2^31.
 * To the left, what no code can hold is cut off first. */
static inline int32_t bf_scale(int32_t v, int32_t shift, int32_t even) {
    if (shift > 0) {
        const int32_t half = (int32_t)1 << (shift - 1);
        return (v + (half - even) + ((v >> shift) & even)) >> shift;
    }
    if (shift < 0) {
        const int32_t top = (65536 >> -shift) + 1;
        return bf_clamp(v, -top, top) * ((int32_t)1 << -shift);
    }
    return v;
}

/* The same for 64 bits; shift -16..62. */
static inline int64_t bf_scale_wide(int64_t v, int32_t shift, int32_t even) {
    if (shift > 0) {
        const int64_t half = (int64_t)1 << (shift - 1);
        return (v + (half - even) + ((v >> shift) & even)) >> shift;
    }
    if (shift < 0) {
        const int64_t top = (65536 >> -shift) + 1;
        return (v < -top ? -top : v > top ? top : v) * ((int64_t)1 << -shift);
    }
    return v;
}

/* n / d, rounded as above; d > 0, 2 |n| + d < 2^63. */
static inline int64_t bf_divide(int64_t n, int64_t d, int32_t even) {
    int64_t q = n / d, r = n % d;
    if (r < 0) {
        q -= 1;
        r += d;
    }
    if (2 * r > d || (2 * r == d && (!even || (q & 1)))) {
        q += 1;
    }
    return q;
}

/* Codes 0 <= i < n of a tensor, widened. */
static inline void bf_read(int32_t *out, const void *x, uint8_t type, int32_t n) {
    int32_t i;
    if (type == BF_I8) {
        for (i = 0; i < n; i++) { out[i] = ((const int8_t *)x)[i]; }
    } else if (type == BF_U8) {
        for (i = 0; i < n; i++) { out[i] = ((const uint8_t *)x)[i]; }
    } else if (type == BF_I16) {
        for (i = 0; i < n; i++) { out[i] = ((const int16_t *)x)[i]; }
    } else {
        for (i = 0; i < n; i++) { out[i] = ((const uint16_t *)x)[i]; }
    }
}

/* The other way; codes are within their type. */
static inline void bf_write(void *y, uint8_t type, const int32_t *codes, int32_t n) {
    int32_t i;
    if (type < BF_I16) {
        for (i = 0; i < n; i++) { ((uint8_t *)y)[i] = (uint8_t)codes[i]; }
    } else {
        for (i = 0; i < n; i++) { ((uint16_t *)y)[i] = (uint16_t)codes[i]; }
    }
}

static inline int32_t bf_get(const void *x, uint8_t type, int32_t i) {
    int32_t code;
    bf_read(&code, (const uint8_t *)x + i * BF_BYTES(type), type, 1);
    return code;
}

static inline void bf_put(void *y, uint8_t type, int32_t i, int32_t code) {
    if (type < BF_I16) {
        ((uint8_t *)y)[i] = (uint8_t)code;
    } else {
        ((uint16_t *)y)[i] = (uint16_t)code;
    }
}

/* First and last tap (not included) that lie within `size` pixels, of a window that begins at `from`. */
static inline void bf_within(int32_t from, int32_t dilation, int32_t size, int32_t n_taps,
                             int32_t range[2]) {
    range[0] = 0;
    range[1] = n_taps;
    if (from >= 0 && from + (n_taps - 1) * dilation < size) { return; }
    while (range[0] < n_taps && from + range[0] * dilation < 0) { range[0]++; }
    while (range[1] > range[0] && from + (range[1] - 1) * dilation >= size) { range[1]--; }
}

/* n signed numbers of `bits` bits each, packed least significant bit first from the first bit of `packed` on. */
void bf_unpack(int16_t *out, const uint8_t *packed, int32_t bits, int32_t n);

/* Number i of a row packed so, of up to 32 bits. */
int32_t bf_unpack_one(const uint8_t *packed, int32_t bits, int32_t i);

#endif
