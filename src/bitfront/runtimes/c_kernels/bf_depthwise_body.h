/* One depthwise kernel; included with BF_NAME, BF_X (type of the input's codes), BF_SUM, BF_TAP, BF_IS_WIDE, BF_IS_SWAPPED,
 * BF_END_4 and BF_END_1 defined. */
#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)
#define BF_PIXEL BF_JOIN(BF_NAME, _pixel)
#define BF_REST BF_JOIN(BF_NAME, _rest)

/* The channels of a block that make no whole four. */
static BF_NOINLINE void BF_REST(const window *v, const BF_X *x, const int16_t *weight, void *y, int32_t at) {
    const int32_t n = v->n & 3;
    int32_t k, ky, kx;
    for (k = 0; k < n; k++) {
        const BF_X *line = x + k;
        const int16_t *w = weight + k;
        BF_SUM sum = v->starts[v->n - n + k];
        for (ky = v->n_y; ky > 0; ky--, line += v->line, w += v->skip) {
            const BF_X *code = line;
            for (kx = v->n_x; kx > 0; kx--, code += v->step, w += 4) { sum += (BF_SUM)*w * *code; }
        }
        BF_END_1(v->p, &v->end, y, at + k, sum);
    }
}

/* All channels of a block at place `at` of y; x: the first code of the first tap. */
static BF_NOINLINE void BF_PIXEL(const window *v, const void *codes, void *y, int32_t at) {
    const BF_X *x = codes;
    const int32_t *start = v->starts;
    const int16_t *weight = v->weights;
    const int32_t step = v->step;
    int32_t n;
    for (n = v->n; n >= 4; n -= 4, x += 4, at += 4, start += 4, weight += 4 * v->n_taps) {
        BF_SUM s0 = start[0], s1 = start[1], s2 = start[2], s3 = start[3];
        const int16_t *w = weight + v->first_tap;
        const BF_X *line = x;
        int32_t ky;
        for (ky = v->n_y; ky > 0; ky--, line += v->line) {
            const BF_X *code = line;
            if (v->is_three) {
                BF_TAP(w, code);
                code += step;
                BF_TAP(w, code);
                code += step;
                BF_TAP(w, code);
            } else {
                int32_t kx;
                for (kx = v->n_x; kx > 0; kx--, code += step) { BF_TAP(w, code); }
                w += v->skip;
            }
        }
        BF_END_4(v->p, &v->end, y, at, 1, 2, s0, s1, s2, s3);
    }
    if (n) { BF_REST(v, x, weight + v->first_tap, y, at); }
}

void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    walk(p, x, y, scratch, BF_PIXEL, BF_IS_WIDE, BF_IS_SWAPPED);
}

#undef BF_JOIN
#undef BF_JOIN_
#undef BF_PIXEL
#undef BF_REST
