/* What a processor has beside C: chosen by the compiler's macros. Nothing here changes a code.
 *
 * BF_DSP: two products of 16 bits at once (Cortex-M4, M7, M33, ...). BF_MVE: vectors of 16 bytes (Cortex-M55, M85).
 */
#ifndef BF_SIMD_H
#define BF_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && !defined(BF_PLAIN)
#define BF_MVE 1
#include <arm_mve.h>
#else
#define BF_MVE 0
#endif

#if defined(__GNUC__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN) && \
    !defined(BF_PLAIN)
#define BF_DSP 1
#include <arm_acle.h>
#else
#define BF_DSP 0
#endif

/* What is called once a pixel: in a function of its own its variables fit into registers. */
#ifdef __GNUC__
#define BF_NOINLINE __attribute__((noinline))
#define BF_INLINE inline __attribute__((always_inline))
#else
#define BF_NOINLINE
#define BF_INLINE inline
#endif

/* The nearest code of 8 bits. */
static inline int32_t bf_to_i8(int32_t v) {
#if BF_DSP
    int32_t code; /* __ssat warns of a sign */
    __asm__("ssat %0, #8, %1" : "=r"(code) : "r"(v));
    return code;
#else
    return v < -128 ? -128 : v > 127 ? 127 : v;
#endif
}

static inline int32_t bf_to_u8(int32_t v) {
#if BF_DSP
    return (int32_t)__usat(v, 8);
#else
    return v < 0 ? 0 : v > 255 ? 255 : v;
#endif
}

#if BF_DSP
/* Two numbers of 16 bits, aligned to 4 bytes. */
typedef uint32_t __attribute__((may_alias)) bf_pair;

/* Four bytes, wherever they lie. */
static inline uint32_t bf_four(const void *x) {
    uint32_t v;
    memcpy(&v, x, 4);
    return v;
}

static inline void bf_store_two(void *to, uint32_t first, uint32_t second) {
    memcpy(to, &first, 4);
    memcpy((uint8_t *)to + 4, &second, 4);
}

/* Two pairs, and on. */
#define bf_next_two(at, first, second) \
    __asm__("ldrd %1, %2, [%0], #8" : "+r"(*(at)), "=&r"(*(first)), "=&r"(*(second)) : : "memory")

/* sum + the products of both pairs */
static inline int32_t bf_dot2(bf_pair a, bf_pair b, int32_t sum) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}

/* Bytes 0 and 2 as a pair, and bytes 1 and 3. */
static inline uint32_t bf_even_i8(uint32_t v) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(v));
    return pair;
}

static inline uint32_t bf_odd_i8(uint32_t v) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(v));
    return pair;
}

static inline uint32_t bf_even_u8(uint32_t v) {
    uint32_t pair;
    __asm__("uxtb16 %0, %1" : "=r"(pair) : "r"(v));
    return pair;
}

static inline uint32_t bf_odd_u8(uint32_t v) {
    uint32_t pair;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(v));
    return pair;
}

/* The lower halves of both, and the upper halves. */
static inline uint32_t bf_lower(uint32_t first, uint32_t second) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(first), "r"(second));
    return pair;
}

static inline uint32_t bf_upper(uint32_t first, uint32_t second) {
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(second), "r"(first));
    return pair;
}
#endif

#endif
