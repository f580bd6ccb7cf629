/* What moves codes, and changes at most their step. */
#include "bf_kernels.h"

#define BLOCK 32 /* elements at a time; on the stack */

void bf_move(const bf_move_layer *p, const void *x, void *y) {
    const int32_t in_bytes = BF_BYTES(p->in_type), out_bytes = BF_BYTES(p->out_type);
    int32_t held[BLOCK], row, i, k;
    for (row = 0; row < p->rows; row++) {
        const uint8_t *const from = (const uint8_t *)x + row * p->x_step * in_bytes;
        uint8_t *const to = (uint8_t *)y + row * p->y_step * out_bytes;
        if (p->plain) {
            if (to != from) { memcpy(to, from, (size_t)(p->n * in_bytes)); }
            continue;
        }
        for (k = 0; k < p->n; k += BLOCK) {
            const int32_t n = bf_clamp(p->n - k, 0, BLOCK);
            bf_read(held, from + k * in_bytes, p->in_type, n);
            for (i = 0; i < n; i++) {
                const int32_t v = p->negate ? -held[i] : held[i];
                held[i] = bf_clamp(bf_scale(v, p->shift, p->even), p->lo, p->hi);
            }
            bf_write(to + k * out_bytes, p->out_type, held, n);
        }
    }
}

void bf_fill(void *y, uint8_t type, int32_t n, int32_t code) {
    int32_t i;
    for (i = 0; i < n; i++) { bf_put(y, type, i, code); }
}

void bf_gather(const bf_gather_layer *p, const void *x, void *y) {
    int32_t i, j, k, l, at = 0;
    for (i = 0; i < p->sizes[0]; i++) {
        for (j = 0; j < p->sizes[1]; j++) {
            for (k = 0; k < p->sizes[2]; k++) {
                const int32_t from = p->first + i * p->steps[0] + j * p->steps[1] + k * p->steps[2];
                for (l = 0; l < p->sizes[3]; l++) {
                    const int32_t code = bf_get(x, p->in_type, from + l * p->steps[3]);
                    bf_put(y, p->out_type, at++, bf_clamp(bf_scale(code, p->shift, p->even), p->lo, p->hi));
                }
            }
        }
    }
}
