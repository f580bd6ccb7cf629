/* Largest codes and means of windows. */
#include "bf_kernels.h"
#include "bf_simd.h"

#define BLOCK 16 /* channels at a time; on the stack */

/* What of a window lies within the map: its first pixel, and how many rows and columns of it. */
typedef struct {
    int32_t pixel, n_y, n_x;
} window;

static window window_at(const bf_pool_layer *p, int32_t oy, int32_t ox) {
    const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
    int32_t rows[2], columns[2];
    window v;
    bf_within(top, p->dilation_h, p->in_h, p->kernel_h, rows);
    bf_within(left, p->dilation_w, p->in_w, p->kernel_w, columns);
    v.pixel = (top + rows[0] * p->dilation_h) * p->in_w + left + columns[0] * p->dilation_w;
    v.n_y = rows[1] - rows[0];
    v.n_x = columns[1] - columns[0];
    return v;
}

/* The largest codes of 8 bits of all channels, which stay as they are; `sign` is 128 for signed ones, and moves them to 0..255. */
static void largest_8(const bf_pool_layer *p, const window *v, const uint8_t *x, uint8_t *y, uint8_t sign) {
    const int32_t channels = p->channels, step = p->dilation_w * channels, line = p->dilation_h * p->in_w * channels;
    int32_t c = 0, ky, kx;
#if BF_DSP
    const uint32_t signs = sign * 0x01010101U;
    for (; c + 4 <= channels; c += 4) { /* the larger of two bytes: what one has more than the other, and that other */
        uint32_t most = 0;
        for (ky = 0; ky < v->n_y; ky++) {
            const uint8_t *code = x + c + ky * line;
            for (kx = v->n_x; kx > 0; kx--, code += step) { most = __uadd8(__uqsub8(bf_four(code) ^ signs, most), most); }
        }
        most ^= signs;
        memcpy(y + c, &most, 4);
    }
#endif
    for (; c < channels; c++) {
        uint8_t most = 0;
        for (ky = 0; ky < v->n_y; ky++) {
            const uint8_t *code = x + c + ky * line;
            for (kx = v->n_x; kx > 0; kx--, code += step) {
                const uint8_t moved = *code ^ sign;
                if (moved > most) { most = moved; }
            }
        }
        y[c] = most ^ sign;
    }
}

void bf_max_pool(const bf_pool_layer *p, const void *x, void *y) {
    const int32_t in_bytes = BF_BYTES(p->in_type), out_bytes = BF_BYTES(p->out_type), channels = p->channels;
    const int32_t lowest = p->in_type == BF_I8 ? -128 : 0;
    const int32_t is_plain = p->in_type < BF_I16 && p->in_type == p->out_type && p->shift == 0 && p->lo <= lowest &&
                             p->hi >= lowest + 255;
    int32_t held[BLOCK], codes[BLOCK], oy, ox, c, i, ky, kx, at = 0;
    for (oy = 0; oy < p->out_h; oy++) {
        for (ox = 0; ox < p->out_w; ox++) {
            const window v = window_at(p, oy, ox);
            if (is_plain) {
                const uint8_t *const from = (const uint8_t *)x + v.pixel * channels;
                largest_8(p, &v, from, (uint8_t *)y + at, p->in_type == BF_I8 ? 128 : 0);
                at += channels;
                continue;
            }
            for (c = 0; c < channels; c += BLOCK) {
                const int32_t n = bf_clamp(channels - c, 0, BLOCK);
                for (i = 0; i < n; i++) { held[i] = -65536; }
                for (ky = 0; ky < v.n_y; ky++) {
                    for (kx = 0; kx < v.n_x; kx++) {
                        const int32_t pixel = v.pixel + ky * p->dilation_h * p->in_w + kx * p->dilation_w;
                        bf_read(codes, (const uint8_t *)x + (pixel * channels + c) * in_bytes, p->in_type, n);
                        for (i = 0; i < n; i++) { held[i] = codes[i] > held[i] ? codes[i] : held[i]; }
                    }
                }
                for (i = 0; i < n; i++) { held[i] = bf_clamp(bf_scale(held[i], p->shift, p->even), p->lo, p->hi); }
                bf_write((uint8_t *)y + at * out_bytes, p->out_type, held, n);
                at += n;
            }
        }
    }
}

/* sums[i] += the codes of a row of channels. */
static void add(int64_t *sums, const void *x, uint8_t type, int32_t n) {
    int32_t codes[BLOCK], i;
    bf_read(codes, x, type, n);
    for (i = 0; i < n; i++) { sums[i] += codes[i]; }
}

/* The same for 8 bits, of which 2^23 fit. */
static void add_8(int32_t *sums, const uint8_t *x, uint8_t type, int32_t n) {
    int32_t i;
    if (type == BF_I8) {
        for (i = 0; i < n; i++) { sums[i] += ((const int8_t *)x)[i]; }
    } else {
        for (i = 0; i < n; i++) { sums[i] += x[i]; }
    }
}

void bf_average_pool(const bf_pool_layer *p, const void *x, void *y) {
    const int32_t in_bytes = BF_BYTES(p->in_type), out_bytes = BF_BYTES(p->out_type), channels = p->channels;
    int32_t held[BLOCK], oy, ox, c, i, ky, kx, at = 0;
    int64_t sums[BLOCK];
    for (oy = 0; oy < p->out_h; oy++) {
        for (ox = 0; ox < p->out_w; ox++) {
            const window v = window_at(p, oy, ox);
            int32_t n_taps = v.n_y * v.n_x;
            if (p->count_padding || n_taps == 0) { n_taps = p->kernel_h * p->kernel_w; }
            for (c = 0; c < channels; c += BLOCK) {
                const int32_t n = bf_clamp(channels - c, 0, BLOCK);
                memset(held, 0, sizeof held);
                memset(sums, 0, sizeof sums);
                for (ky = 0; ky < v.n_y; ky++) {
                    for (kx = 0; kx < v.n_x; kx++) {
                        const int32_t pixel = v.pixel + ky * p->dilation_h * p->in_w + kx * p->dilation_w;
                        const uint8_t *const from = (const uint8_t *)x + (pixel * channels + c) * in_bytes;
                        if (p->in_type < BF_I16) {
                            add_8(held, from, p->in_type, n);
                        } else {
                            add(sums, from, p->in_type, n);
                        }
                    }
                }
                for (i = 0; i < n; i++) {
                    const int64_t v64 = (sums[i] + held[i]) * ((int64_t)1 << p->left);
                    const int64_t mean = bf_divide(v64, (int64_t)n_taps * ((int64_t)1 << p->right), p->even);
                    held[i] = bf_clamp_wide(mean, p->lo, p->hi);
                }
                bf_write((uint8_t *)y + at * out_bytes, p->out_type, held, n);
                at += n;
            }
        }
    }
}
