/* Other sizes of a map. */
#include "bf_end.h"
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

/* Two rows of the input become one, `in_w` pixels of n channels from `first` on, and the last pixel again; weights add up to
 * 128. */
static void blend(const bf_resize_layer *p, const uint8_t *x, int32_t oy, int32_t first, int32_t n, int32_t *line) {
    const int32_t bytes = BF_BYTES(p->in_type), weight = p->row_weights[oy];
    const int32_t upper = p->rows[oy], lower = upper + 1 < p->in_h ? upper + 1 : upper;
    const int32_t is_whole = n == p->channels, n_rows = is_whole ? 1 : p->in_w, n_row = is_whole ? n * p->in_w : n;
    int32_t held[BLOCK], ix, c, i;
    for (ix = 0; ix < n_rows; ix++) { /* of all channels one row, else a row for each pixel */
        for (c = 0; c < n_row; c += BLOCK) {
            const int32_t m = bf_clamp(n_row - c, 0, BLOCK), at = first + c;
            int32_t *const out = line + ix * n + c;
            bf_read(out, x + ((upper * p->in_w + ix) * p->channels + at) * bytes, p->in_type, m);
            bf_read(held, x + ((lower * p->in_w + ix) * p->channels + at) * bytes, p->in_type, m);
            for (i = 0; i < m; i++) { out[i] = out[i] * (128 - weight) + held[i] * weight; }
        }
    }
    memcpy(line + p->in_w * n, line + (p->in_w - 1) * n, (size_t)n * sizeof *line);
}

/* One row of the output, of codes of 8 bits: n channels of every pixel. */
static BF_INLINE void row_8(const bf_resize_layer *p, const bf_end *end, const int32_t *line, uint8_t *to, int32_t n,
                            int32_t kind) {
    const bf_end e = *end;
    const int32_t more = p->channels - n;
    const uint16_t *column = p->columns;
    const uint8_t *weight = p->column_weights, *const last = weight + p->out_w;
    for (; weight < last; weight++, to += more) {
        const int32_t w = *weight;
        const int32_t *left = line + *column++ * n, *const stop = left + n, *right = stop;
        do {
            const int32_t l = *left++;
            *to++ = bf_code_8(&e, l * 128 + e.half + (*right++ - l) * w, kind);
        } while (left < stop);
    }
}

/* The same where there is one channel. */
static BF_INLINE void row_1(const bf_resize_layer *p, const bf_end *end, const int32_t *line, uint8_t *to, int32_t kind) {
    const bf_end e = *end;
    const uint16_t *column = p->columns;
    const uint8_t *weight = p->column_weights, *const last = weight + p->out_w;
    while (weight < last) {
        const int32_t *const pixel = line + *column++;
        const int32_t l = pixel[0];
        *to++ = bf_code_8(&e, l * 128 + e.half + (pixel[1] - l) * *weight++, kind);
    }
}

static BF_NOINLINE void row_i8(const bf_resize_layer *p, const bf_end *e, const int32_t *line, uint8_t *to, int32_t n) {
    if (p->channels == 1) {
        row_1(p, e, line, to, BF_END_I8);
    } else {
        row_8(p, e, line, to, n, BF_END_I8);
    }
}

static BF_NOINLINE void row_u8(const bf_resize_layer *p, const bf_end *e, const int32_t *line, uint8_t *to, int32_t n) {
    if (p->channels == 1) {
        row_1(p, e, line, to, BF_END_U8);
    } else {
        row_8(p, e, line, to, n, BF_END_U8);
    }
}

static BF_NOINLINE void row_any(const bf_resize_layer *p, const int32_t *line, void *y, int32_t at, int32_t n) {
    int32_t ox, c;
    for (ox = 0; ox < p->out_w; ox++, at += p->channels) {
        const int32_t *const left = line + p->columns[ox] * n, *const right = left + n;
        const int32_t weight = p->column_weights[ox];
        for (c = 0; c < n; c++) {
            const int32_t v = left[c] * (128 - weight) + right[c] * weight;
            bf_put(y, p->out_type, at + c, bf_clamp(bf_scale(v, p->shift, p->even), p->lo, p->hi));
        }
    }
}

void bf_resize_linear(const bf_resize_layer *p, const void *x, void *y, void *scratch) {
    const bf_end end = bf_end_for(p->out_type, p->lo, p->hi, p->shift, p->even);
    int32_t *const line = scratch;
    int32_t oy, first;
    for (first = 0; first < p->channels; first += p->block) {
        const int32_t n = bf_clamp(p->channels - first, 0, p->block);
        for (oy = 0; oy < p->out_h; oy++) {
            const int32_t at = oy * p->out_w * p->channels + first;
            blend(p, x, oy, first, n, line);
            if (end.kind == BF_END_I8) {
                row_i8(p, &end, line, (uint8_t *)y + at, n);
            } else if (end.kind == BF_END_U8) {
                row_u8(p, &end, line, (uint8_t *)y + at, n);
            } else {
                row_any(p, line, y, at, n);
            }
        }
    }
}
