#include "bf_layer.h"

void bf_end_1(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t sum) {
    if (e->kind == BF_END_ANY) {
        bf_finish(p, y, at, sum, bf_shift_of(p, at % p->out_c));
    } else {
        bf_put(y, p->out_type, at, bf_clamp(bf_rounded(e, sum), p->lo, p->hi));
    }
}

void bf_unpack_rows(const bf_layer *p, int32_t first, int32_t n_rows, int32_t line, int32_t padded, int16_t *row,
                    void *weights) {
    const int32_t n = line * p->kernel_h, row_bytes = bf_row_bytes(p, n), is_small = bf_is_small(p);
    int32_t i, y, k, at = 0;
    for (i = 0; i < n_rows; i++) {
        const int16_t *from = row;
        bf_unpack(row, p->weight + (first + i) * row_bytes, p->weight_bits, n);
        for (y = 0; y < p->kernel_h; y++, from += line, at += padded) {
            if (is_small) {
                int8_t *const to = (int8_t *)weights + at;
                for (k = 0; k < line; k++) { to[k] = (int8_t)from[k]; }
                for (; k < padded; k++) { to[k] = 0; }
            } else {
                int16_t *const to = (int16_t *)weights + at;
                for (k = 0; k < line; k++) { to[k] = from[k]; }
                for (; k < padded; k++) { to[k] = 0; }
            }
        }
    }
}
