#include "bf_numeric.h"

/* What reads past nothing: a byte is fetched only when bits of it are needed. */
static void unpack_any(int16_t *out, const uint8_t *packed, int32_t bits, int32_t n) {
    const uint32_t mask = ((uint32_t)1 << bits) - 1U, sign = (uint32_t)1 << (bits - 1);
    uint32_t held = 0;
    int32_t n_held = 0, i;
    for (i = 0; i < n; i++) {
        while (n_held < bits) {
            held |= (uint32_t)*packed++ << n_held;
            n_held += 8;
        }
        out[i] = (int16_t)((int32_t)((held & mask) ^ sign) - (int32_t)sign);
        held >>= bits;
        n_held -= bits;
    }
}

void bf_unpack(int16_t *out, const uint8_t *packed, int32_t bits, int32_t n) {
    int32_t i;
    if (bits == 8) {
        for (i = 0; i < n; i++) { out[i] = ((const int8_t *)packed)[i]; }
    } else if (bits == 4) {
        for (i = 0; i + 2 <= n; i += 2) {
            const uint32_t both = *packed++;
            out[i] = (int16_t)((int32_t)((both & 15U) ^ 8U) - 8);
            out[i + 1] = (int16_t)((int32_t)((both >> 4) ^ 8U) - 8);
        }
        if (i < n) { out[i] = (int16_t)((int32_t)((*packed & 15U) ^ 8U) - 8); }
    } else {
        unpack_any(out, packed, bits, n);
    }
}

int32_t bf_unpack_one(const uint8_t *packed, int32_t bits, int32_t i) {
    const int32_t first = i * bits;
    const uint8_t *at = packed + (first >> 3);
    uint64_t held = 0;
    int32_t n_held = 0;
    while (n_held < bits + (first & 7)) {
        held |= (uint64_t)*at++ << n_held;
        n_held += 8;
    }
    held = (held >> (first & 7)) & (((uint64_t)1 << bits) - 1U);
    return (int32_t)((int64_t)(held ^ ((uint64_t)1 << (bits - 1))) - (int64_t)((uint64_t)1 << (bits - 1)));
}
