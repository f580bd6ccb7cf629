/* Sums of products of a block's channels with patches that lie `step` numbers apart, for n_pixels pixels, whose codes begin at
 * place `at` of y; included with BF_LANES, BF_X, BF_V, BF_DOTS, BF_LOAD, BF_LOAD_SOME, BF_ADD_DOT, BF_SOME and BF_FLIP defined. */
#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)

/* Four channels at most; is_usual: four, whose codes have 8 bits, as bf_end_8 makes them. */
static BF_INLINE void BF_JOIN(BF_DOTS, _four)(const bf_block *b, const BF_X *patch, int32_t step, int32_t n_pixels, void *y,
                                              int32_t at, int32_t i, int32_t is_usual) {
    const bf_layer *const p = b->p;
    const bf_end end = b->end;
    const int32_t n = b->n, n_now = b->n_rows - i, out_c = p->out_c, lo = p->lo, hi = p->hi, flip = b->flip;
    const BF_X *const row0 = (const BF_X *)b->weights + i * n;
    const BF_X *const row1 = n_now > 1 ? row0 + n : row0;
    const BF_X *const row2 = n_now > 2 ? row1 + n : row1;
    const BF_X *const row3 = n_now > 3 ? row2 + n : row2;
    const int32_t *const starts = b->starts + i;
    const mve_pred16_t some = BF_SOME((uint32_t)(n & (BF_LANES - 1)));
    (void)flip;
    for (; n_pixels > 0; n_pixels--, patch += step, at += out_c) {
        const BF_X *x = patch, *w0 = row0, *w1 = row1, *w2 = row2, *w3 = row3;
        int32_t s0 = starts[0], s1 = starts[1], s2 = starts[2], s3 = starts[3], k;
        int32x4_t sums;
        for (k = n / BF_LANES; k > 0; k--) {
            const BF_V v = BF_FLIP(BF_LOAD(x), flip);
            s0 = BF_ADD_DOT(s0, v, BF_LOAD(w0));
            s1 = BF_ADD_DOT(s1, v, BF_LOAD(w1));
            s2 = BF_ADD_DOT(s2, v, BF_LOAD(w2));
            s3 = BF_ADD_DOT(s3, v, BF_LOAD(w3));
            x += BF_LANES;
            w0 += BF_LANES;
            w1 += BF_LANES;
            w2 += BF_LANES;
            w3 += BF_LANES;
        }
        if (n & (BF_LANES - 1)) { /* the other weights are read as 0 */
            const BF_V v = BF_FLIP(BF_LOAD_SOME(x, some), flip);
            s0 = BF_ADD_DOT(s0, v, BF_LOAD_SOME(w0, some));
            s1 = BF_ADD_DOT(s1, v, BF_LOAD_SOME(w1, some));
            s2 = BF_ADD_DOT(s2, v, BF_LOAD_SOME(w2, some));
            s3 = BF_ADD_DOT(s3, v, BF_LOAD_SOME(w3, some));
        }
        sums = bf_together(s0, s1, s2, s3);
        if (is_usual) {
            vstrbq_s32((int8_t *)y + at, bf_codes(&end, sums, lo, hi));
        } else {
            bf_end_vector(p, &end, y, at, sums, n_now);
        }
    }
}

static BF_NOINLINE void BF_JOIN(BF_DOTS, _usual)(const bf_block *b, const BF_X *patches, int32_t step, int32_t n_pixels, void *y,
                                                 int32_t at, int32_t i) {
    BF_JOIN(BF_DOTS, _four)(b, patches, step, n_pixels, y, at + i, i, 1);
}

static BF_NOINLINE void BF_JOIN(BF_DOTS, _other)(const bf_block *b, const BF_X *patches, int32_t step, int32_t n_pixels, void *y,
                                                 int32_t at, int32_t i) {
    BF_JOIN(BF_DOTS, _four)(b, patches, step, n_pixels, y, at + i, i, 0);
}

static void BF_DOTS(const bf_block *b, const BF_X *patches, int32_t step, int32_t n_pixels, void *y, int32_t at) {
    int32_t i;
    for (i = 0; i < b->n_rows; i += 4) {
        if (i + 4 <= b->n_rows && b->end.kind != BF_END_ANY && b->p->out_type < BF_I16) {
            BF_JOIN(BF_DOTS, _usual)(b, patches, step, n_pixels, y, at, i);
        } else {
            BF_JOIN(BF_DOTS, _other)(b, patches, step, n_pixels, y, at, i);
        }
    }
}

#undef BF_JOIN
#undef BF_JOIN_
#undef BF_LANES
#undef BF_X
#undef BF_V
#undef BF_DOTS
#undef BF_LOAD
#undef BF_LOAD_SOME
#undef BF_ADD_DOT
#undef BF_SOME
#undef BF_FLIP
