/* What goes element by element. */
#include "bf_end.h"
#include "bf_kernels.h"

#define BLOCK 32 /* elements at a time; on the stack */

static void read_block(int32_t *out, const void *x, uint8_t type, int32_t at, int32_t step, int32_t n) {
    int32_t i;
    if (step) {
        bf_read(out, (const uint8_t *)x + at * BF_BYTES(type), type, n);
    } else {
        const int32_t code = bf_get(x, type, at);
        for (i = 0; i < n; i++) { out[i] = code; }
    }
}

/* n codes of y from place `at` on. */
static void narrow(const bf_binary_layer *p, const int32_t *a, const int32_t *b, int32_t n, void *y, int32_t at) {
    const int32_t factor_a = (int32_t)1 << p->a_left;
    const int32_t factor_b = p->op == BF_SUB ? -((int32_t)1 << p->b_left) : (int32_t)1 << p->b_left;
    int32_t i;
    for (i = 0; i < n; i++) {
        const int32_t v = p->op == BF_MUL ? a[i] * b[i] : a[i] * factor_a + b[i] * factor_b;
        bf_put(y, p->out_type, at + i, bf_clamp(bf_scale(v, p->shift, p->even), p->lo, p->hi));
    }
}

/* A row of codes of 8 bits, of which nothing repeats; the lowest bit of a byte's sign is that of its type. */
static BF_INLINE void row_8(const bf_binary_layer *p, const bf_end *end, const uint8_t *a, const uint8_t *b, uint8_t *y,
                            int32_t kind) {
    const bf_end e = *end;
    const int32_t factor_a = (int32_t)1 << p->a_left, sign_a = p->a_type == BF_I8 ? 128 : 0;
    const int32_t factor_b = p->op == BF_SUB ? -((int32_t)1 << p->b_left) : (int32_t)1 << p->b_left;
    const int32_t sign_b = p->b_type == BF_I8 ? 128 : 0;
    /* (code ^ 128) - 128 gives a byte its sign; what is taken away is the same for all */
    const int32_t start = e.half - sign_a * factor_a - sign_b * factor_b;
    const uint8_t *const last = a + p->n;
    while (a < last) {
        *y++ = bf_code_8(&e, start + (*a ^ sign_a) * factor_a + (*b ^ sign_b) * factor_b, kind);
        a++;
        b++;
    }
}

static int32_t is_row_8(const bf_binary_layer *p) {
    return p->op != BF_MUL && p->a_type < BF_I16 && p->b_type < BF_I16 && p->a_step && p->b_step && p->a_left < 20 &&
           p->b_left < 20;
}

static void rows_8(const bf_binary_layer *p, const bf_end *e, const uint8_t *a, const uint8_t *b, uint8_t *y) {
    int32_t i, j;
    for (i = 0; i < p->outer; i++) {
        for (j = 0; j < p->inner; j++, y += p->n) {
            const uint8_t *const row_a = a + i * p->a_outer + j * p->a_inner;
            const uint8_t *const row_b = b + i * p->b_outer + j * p->b_inner;
            if (e->kind == BF_END_I8) {
                row_8(p, e, row_a, row_b, y, BF_END_I8);
            } else {
                row_8(p, e, row_a, row_b, y, BF_END_U8);
            }
        }
    }
}

static void wide(const bf_binary_layer *p, const int32_t *a, const int32_t *b, int32_t n, void *y, int32_t at) {
    const int64_t factor_a = (int64_t)1 << p->a_left;
    const int64_t factor_b = p->op == BF_SUB ? -((int64_t)1 << p->b_left) : (int64_t)1 << p->b_left;
    int32_t i;
    for (i = 0; i < n; i++) {
        const int64_t v = p->op == BF_MUL ? (int64_t)a[i] * b[i] : a[i] * factor_a + b[i] * factor_b;
        bf_put(y, p->out_type, at + i, bf_clamp_wide(bf_scale_wide(v, p->shift, p->even), p->lo, p->hi));
    }
}

static void walk(const bf_binary_layer *p, const void *a, const void *b, void *y,
                 void (*compute)(const bf_binary_layer *, const int32_t *, const int32_t *, int32_t, void *, int32_t)) {
    int32_t held_a[BLOCK], held_b[BLOCK], i, j, k, at = 0;
    for (i = 0; i < p->outer; i++) {
        for (j = 0; j < p->inner; j++) {
            const int32_t from_a = i * p->a_outer + j * p->a_inner, from_b = i * p->b_outer + j * p->b_inner;
            for (k = 0; k < p->n; k += BLOCK) {
                const int32_t n = bf_clamp(p->n - k, 0, BLOCK);
                read_block(held_a, a, p->a_type, from_a + k * p->a_step, p->a_step, n);
                read_block(held_b, b, p->b_type, from_b + k * p->b_step, p->b_step, n);
                compute(p, held_a, held_b, n, y, at);
                at += n;
            }
        }
    }
}

void bf_binary(const bf_binary_layer *p, const void *a, const void *b, void *y) {
    const bf_end e = bf_end_for(p->out_type, p->lo, p->hi, p->shift, p->even);
    if (is_row_8(p) && (e.kind == BF_END_I8 || e.kind == BF_END_U8)) {
        rows_8(p, &e, a, b, y);
    } else {
        walk(p, a, b, y, narrow);
    }
}

void bf_binary_wide(const bf_binary_layer *p, const void *a, const void *b, void *y) {
    walk(p, a, b, y, wide);
}

void bf_table(const bf_table_layer *p, const void *x, void *y) {
    int32_t i;
    if (p->in_type < BF_I16 && p->out_type < BF_I16) {
        /* bytes less the lowest code's are its places, whatever their sign */
        const uint8_t *const codes = x, *const table = p->table, low = (uint8_t)p->low;
        uint8_t *const to = y;
        for (i = 0; i < p->n; i++) { to[i] = table[(uint8_t)(codes[i] - low)]; }
        return;
    }
    for (i = 0; i < p->n; i++) {
        const int32_t at = bf_get(x, p->in_type, i) - p->low;
        bf_put(y, p->out_type, i, bf_get(p->table, p->out_type, at));
    }
}

void bf_argmax(const bf_along_layer *p, const void *x, void *y) {
    int32_t i, j, k;
    for (i = 0; i < p->outer; i++) {
        for (j = 0; j < p->inner; j++) {
            const int32_t first = i * p->n * p->inner + j;
            int32_t best = 0, most = bf_get(x, p->in_type, first);
            for (k = 1; k < p->n; k++) {
                const int32_t code = bf_get(x, p->in_type, first + k * p->inner);
                if (code > most) {
                    most = code;
                    best = k;
                }
            }
            bf_put(y, p->out_type, i * p->inner + j, best);
        }
    }
}

void bf_softmax(const bf_along_layer *p, const void *x, void *y) {
    int32_t i, j, k;
    for (i = 0; i < p->outer; i++) {
        for (j = 0; j < p->inner; j++) {
            const int32_t first = i * p->n * p->inner + j;
            int32_t most = bf_get(x, p->in_type, first);
            uint64_t total = 0;
            for (k = 1; k < p->n; k++) {
                const int32_t code = bf_get(x, p->in_type, first + k * p->inner);
                if (code > most) { most = code; }
            }
            for (k = 0; k < p->n; k++) {
                total += p->exponentials[most - bf_get(x, p->in_type, first + k * p->inner)];
            }
            for (k = 0; k < p->n; k++) {
                const int32_t at = first + k * p->inner;
                const uint64_t e = p->exponentials[most - bf_get(x, p->in_type, at)];
                const uint64_t steps = (e * (uint64_t)p->steps_of_one + total / 2U) / total;
                bf_put(y, p->out_type, at, bf_clamp_wide((int64_t)steps, p->lo, p->hi));
            }
        }
    }
}
