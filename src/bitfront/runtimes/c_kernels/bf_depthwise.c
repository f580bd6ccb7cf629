/* Depthwise convolutions, one for each type of codes and width of sums. */
#include "bf_layer.h"

/* Four channels of one tap: sums[k] += weight[k] code[k]. Where the processor multiplies pairs, four weights beside codes of
 * 8 bits lie in the order 0, 2, 1, 3. */
#define PLAIN_TAP(sum, weight, code)         \
    do {                                     \
        sums[0] += (sum)weight[0] * code[0]; \
        sums[1] += (sum)weight[1] * code[1]; \
        sums[2] += (sum)weight[2] * code[2]; \
        sums[3] += (sum)weight[3] * code[3]; \
    } while (0)

#if BF_DSP
#define BF_SWAPPED 1
static inline void products(int32_t sums[4], bf_pair low, bf_pair high, uint32_t x_low, uint32_t x_high, int32_t second) {
    sums[0] = __smlabb((int32_t)low, (int32_t)x_low, sums[0]);
    sums[second] = __smlatt((int32_t)low, (int32_t)x_low, sums[second]);
    sums[3 - second] = __smlabb((int32_t)high, (int32_t)x_high, sums[3 - second]);
    sums[3] = __smlatt((int32_t)high, (int32_t)x_high, sums[3]);
}

static inline void tap_i8(int32_t sums[4], const int16_t *weight, const int8_t *code) {
    const bf_pair *const w = (const bf_pair *)weight;
    const uint32_t v = bf_four(code);
    products(sums, w[0], w[1], bf_even_i8(v), bf_odd_i8(v), 2);
}

static inline void tap_u8(int32_t sums[4], const int16_t *weight, const uint8_t *code) {
    const bf_pair *const w = (const bf_pair *)weight;
    const uint32_t v = bf_four(code);
    products(sums, w[0], w[1], bf_even_u8(v), bf_odd_u8(v), 2);
}

static inline void tap_i16(int32_t sums[4], const int16_t *weight, const int16_t *code) {
    const bf_pair *const w = (const bf_pair *)weight;
    products(sums, w[0], w[1], bf_four(code), bf_four(code + 2), 1);
}
#else
#define BF_SWAPPED 0
static inline void tap_i8(int32_t sums[4], const int16_t *weight, const int8_t *code) { PLAIN_TAP(int32_t, weight, code); }
static inline void tap_u8(int32_t sums[4], const int16_t *weight, const uint8_t *code) { PLAIN_TAP(int32_t, weight, code); }
static inline void tap_i16(int32_t sums[4], const int16_t *weight, const int16_t *code) { PLAIN_TAP(int32_t, weight, code); }
#endif
