/* Largest codes and means of windows. */
#include "bf_kernels.h"

#define BLOCK 16 /* channels at a time; on the stack */

static void pool(const bf_pool_layer *p, const void *x, void *y, int is_max) {
    const int32_t in_bytes = BF_BYTES(p->in_type), out_bytes = BF_BYTES(p->out_type);
    int32_t held[BLOCK], codes[BLOCK], rows[2], columns[2], oy, ox, c, i, ky, kx, at = 0;
    int64_t sums[BLOCK];
    for (oy = 0; oy < p->out_h; oy++) {
        const int32_t top = oy * p->stride_h - p->pad_top;
        bf_within(top, p->dilation_h, p->in_h, p->kernel_h, rows);
        for (ox = 0; ox < p->out_w; ox++) {
            const int32_t left = ox * p->stride_w - p->pad_left;
            int32_t n_taps;
            bf_within(left, p->dilation_w, p->in_w, p->kernel_w, columns);
            n_taps = (rows[1] - rows[0]) * (columns[1] - columns[0]);
            if (p->count_padding || n_taps == 0) { n_taps = p->kernel_h * p->kernel_w; }
            for (c = 0; c < p->channels; c += BLOCK) {
                const int32_t n = bf_clamp(p->channels - c, 0, BLOCK);
                for (i = 0; i < n; i++) {
                    held[i] = -65536;
                    sums[i] = 0;
                }
                for (ky = rows[0]; ky < rows[1]; ky++) {
                    for (kx = columns[0]; kx < columns[1]; kx++) {
                        const int32_t pixel = (top + ky * p->dilation_h) * p->in_w + left + kx * p->dilation_w;
                        bf_read(codes, (const uint8_t *)x + (pixel * p->channels + c) * in_bytes, p->in_type, n);
                        for (i = 0; i < n; i++) {
                            if (is_max) {
                                held[i] = codes[i] > held[i] ? codes[i] : held[i];
                            } else {
                                sums[i] += codes[i];
                            }
                        }
                    }
                }
                for (i = 0; i < n; i++) {
                    const int64_t v = is_max ? bf_scale(held[i], p->shift, p->even)
                                             : bf_divide(sums[i] * ((int64_t)1 << p->left),
                                                         (int64_t)n_taps * ((int64_t)1 << p->right), p->even);
                    held[i] = bf_clamp_wide(v, p->lo, p->hi);
                }
                bf_write((uint8_t *)y + at * out_bytes, p->out_type, held, n);
                at += n;
            }
        }
    }
}

void bf_max_pool(const bf_pool_layer *p, const void *x, void *y) {
    pool(p, x, y, 1);
}

void bf_average_pool(const bf_pool_layer *p, const void *x, void *y) {
    pool(p, x, y, 0);
}
