/* One of them; included with BF_NAME, BF_X, BF_LOAD and BF_LOAD_SOME defined. */
#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)
#define BF_PIXEL BF_JOIN(BF_NAME, _pixel)

static BF_NOINLINE void BF_PIXEL(const window *v, const void *codes, void *y, int32_t at) {
    const BF_X *x = codes;
    const int32_t *start = v->starts;
    const int16_t *weight = v->weights + v->first_tap;
    const int32_t step = v->step;
    int32_t n, ky, kx;
    for (n = v->n; n > 0; n -= 4, x += 4, at += 4, start += 4, weight += 4 * v->n_taps) {
        const int16_t *w = weight;
        const BF_X *line = x;
        int32x4_t sums = vldrwq_s32(start);
        if (n >= 4) {
            for (ky = v->n_y; ky > 0; ky--, line += v->line) {
                const BF_X *code = line;
                if (v->is_three) {
                    sums = vaddq_s32(sums, vmulq_s32(BF_LOAD(code), vldrhq_s32(w)));
                    sums = vaddq_s32(sums, vmulq_s32(BF_LOAD(code + step), vldrhq_s32(w + 4)));
                    sums = vaddq_s32(sums, vmulq_s32(BF_LOAD(code + 2 * step), vldrhq_s32(w + 8)));
                    w += 12;
                } else {
                    for (kx = v->n_x; kx > 0; kx--, code += step, w += 4) {
                        sums = vaddq_s32(sums, vmulq_s32(BF_LOAD(code), vldrhq_s32(w)));
                    }
                    w += v->skip;
                }
            }
        } else {
            const mve_pred16_t some = vctp32q((uint32_t)n);
            for (ky = v->n_y; ky > 0; ky--, line += v->line, w += v->skip) {
                const BF_X *code = line;
                for (kx = v->n_x; kx > 0; kx--, code += step, w += 4) {
                    sums = vaddq_s32(sums, vmulq_s32(BF_LOAD_SOME(code, some), vldrhq_s32(w)));
                }
            }
        }
        if (v->is_usual && n >= 4) {
            vstrbq_s32((int8_t *)y + at, bf_codes(&v->end, sums, v->p->lo, v->p->hi));
        } else {
            bf_end_vector(v->p, &v->end, y, at, sums, n);
        }
    }
}

void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    walk(p, x, y, scratch, BF_PIXEL, 0, 0);
}

#undef BF_JOIN
#undef BF_JOIN_
#undef BF_PIXEL
#undef BF_NAME
#undef BF_X
#undef BF_LOAD
#undef BF_LOAD_SOME
