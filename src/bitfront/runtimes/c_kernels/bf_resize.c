/* Other sizes of a map. */
#include "bf_kernels.h"

#define BLOCK 32 /* elements at a time; on the stack */

void bf_resize_nearest(const bf_resize_layer *p, const void *x, void *y) {
    const int32_t in_bytes = BF_BYTES(p->in_type), out_bytes = BF_BYTES(p->out_type), channels = p->channels;
    int32_t held[BLOCK], oy, ox, c, i;
    for (oy = 0; oy < p->out_h; oy++) {
        for (ox = 0; ox < p->out_w; ox++) {
            const int32_t pixel = p->rows[oy] * p->in_w + p->columns[ox];
            const uint8_t *const from = (const uint8_t *)x + pixel * channels * in_bytes;
            uint8_t *const to = (uint8_t *)y + (oy * p->out_w + ox) * channels * out_bytes;
            if (p->plain) {
                memcpy(to, from, (size_t)(channels * in_bytes));
                continue;
            }
            for (c = 0; c < channels; c += BLOCK) {
                const int32_t n = bf_clamp(channels - c, 0, BLOCK);
                bf_read(held, from + c * in_bytes, p->in_type, n);
                for (i = 0; i < n; i++) { held[i] = bf_clamp(bf_scale(held[i], p->shift, p->even), p->lo, p->hi); }
                bf_write(to + c * out_bytes, p->out_type, held, n);
            }
        }
    }
}

/* Two rows of the input become one, `columns` pixels of n channels from `first` on; weights add up to 128. */
static void blend(const bf_resize_layer *p, const uint8_t *x, int32_t oy, int32_t first, int32_t n, int32_t *line) {
    const int32_t bytes = BF_BYTES(p->in_type), weight = p->row_weights[oy];
    const int32_t upper = p->rows[oy], lower = upper + 1 < p->in_h ? upper + 1 : upper;
    int32_t held[BLOCK], ix, c, i;
    for (ix = 0; ix < p->in_w; ix++) {
        for (c = 0; c < n; c += BLOCK) {
            const int32_t m = bf_clamp(n - c, 0, BLOCK), at = first + c;
            int32_t *const out = line + ix * n + c;
            bf_read(out, x + ((upper * p->in_w + ix) * p->channels + at) * bytes, p->in_type, m);
            bf_read(held, x + ((lower * p->in_w + ix) * p->channels + at) * bytes, p->in_type, m);
            for (i = 0; i < m; i++) { out[i] = out[i] * (128 - weight) + held[i] * weight; }
        }
    }
}

void bf_resize_linear(const bf_resize_layer *p, const void *x, void *y, void *scratch) {
    int32_t *const line = scratch;
    int32_t oy, ox, c, first;
    for (first = 0; first < p->channels; first += p->block) {
        const int32_t n = bf_clamp(p->channels - first, 0, p->block);
        for (oy = 0; oy < p->out_h; oy++) {
            blend(p, x, oy, first, n, line);
            for (ox = 0; ox < p->out_w; ox++) {
                const int32_t left = p->columns[ox], right = left + 1 < p->in_w ? left + 1 : left;
                const int32_t weight = p->column_weights[ox], at = (oy * p->out_w + ox) * p->channels + first;
                for (c = 0; c < n; c++) {
                    const int32_t v = line[left * n + c] * (128 - weight) + line[right * n + c] * weight;
                    bf_put(y, p->out_type, at + c, bf_clamp(bf_scale(v, p->shift, p->even), p->lo, p->hi));
                }
            }
        }
    }
}
