/* One convolution kernel; included with BF_NAME, BF_SUM, BF_PATCH, BF_WIDEN, BF_DOTS, BF_IS_DIRECT,
 * BF_WEIGHT_BYTES, BF_UNPACK, BF_START and BF_END_4 defined.
 *
 * The weights of a block of output channels are unpacked once; then the map is walked in pairs of pixels, whose patches of
 * the input are copied to a row each, and two channels of two pixels are summed at a time.
 */
#include "bf_patch.h"

#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)
#define BF_GATHER BF_JOIN(BF_NAME, _patch)

void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_in = p->in_c / p->groups, n_out = p->out_c / p->groups, block = p->block;
    const int32_t line = p->kernel_w * n_in, n = p->kernel_h * line, is_direct = BF_IS_DIRECT(p);
    const int32_t stride = n * BF_WEIGHT_BYTES(p);
    const bf_end end = bf_end_of(p);
    int32_t *const starts = scratch;
    BF_PATCH *const patches = (BF_PATCH *)(starts + BF_EVEN(block));
    void *const unpacked = patches + 2 * p->kernel_h * BF_FOURS(line);
    int32_t group, first, oy, ox, i;
    for (group = 0; group < p->groups; group++) {
        for (first = group * n_out; first < (group + 1) * n_out; first += block) {
            const int32_t n_rows = bf_clamp((group + 1) * n_out - first, 0, block);
            const uint8_t *const weights = is_direct ? p->weight + first * n : (const uint8_t *)unpacked;
            if (!is_direct) { BF_UNPACK(p, first, n_rows, line, line, (int16_t *)patches, unpacked); }
            for (i = 0; i < n_rows; i++) { starts[i] = BF_START(p, &end, first + i); }
            for (oy = 0; oy < p->out_h; oy++) {
                for (ox = 0; ox < p->out_w; ox += 2) {
                    const int32_t two = ox + 1 < p->out_w, at = (oy * p->out_w + ox) * p->out_c + first;
                    const int32_t next = two ? p->out_c : 0;
                    const BF_PATCH *const second = two ? patches + n : patches;
                    BF_GATHER(p, x, oy, ox, group * n_in, n_in, patches);
                    if (two) { BF_GATHER(p, x, oy, ox + 1, group * n_in, n_in, patches + n); }
                    for (i = 0; i < n_rows; i += 2) {
                        const int32_t more = i + 1 < n_rows;
                        const uint8_t *const row = weights + i * stride;
                        BF_SUM sums[4];
                        sums[0] = sums[1] = starts[i];
                        sums[2] = sums[3] = starts[i + more];
                        BF_DOTS(p, row, more ? row + stride : row, patches, second, n, sums);
                        BF_END_4(p, &end, y, at + i, more, next, sums[0], sums[2], sums[1], sums[3]);
                    }
                }
            }
        }
    }
}

#undef BF_GATHER
#undef BF_JOIN
#undef BF_JOIN_
