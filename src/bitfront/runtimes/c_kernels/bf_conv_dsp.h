/* bf_conv where the processor multiplies two pairs of 16 bits at once.
 *
 * As bf_conv_body.h, but lines of a patch, and of weights that are unpacked, end with fillers up to whole fours, where weights
 * are 0. Four numbers of the first pixel and four of the second lie beside each other; those of the codes of 8 bits in the order
 * 0, 2, 1, 3, in which pairs of bytes come out of words, of patches as of weights.
 */
typedef struct {
    const bf_layer *p;
    const int32_t *starts;
    const void *weights; /* of a block */
    int16_t *patches;    /* of two pixels */
    bf_end end;
    int32_t n_in, line, padded, n; /* channels; numbers in a line of a patch, with fillers, in all lines */
    int32_t n_rows, source;        /* channels of the block; first input channel */
    int32_t map_line, height;      /* codes from a line of the patch to the next in the map; lines of the map */
    int32_t together;              /* neighbours in a line of the map are neighbours in the patch */
    int32_t swapped;
} bf_block;

/* s0 and s2 += a row of weights times both patches, s1 and s3 another row; w0 and w1 end behind the rows. */
#define BF_SUM_8(w0, w1, x, last, s0, s1, s2, s3)                      \
    do {                                                               \
        const uint32_t v0 = bf_four(w0), v1 = bf_four(w1);             \
        const bf_pair a0 = bf_even_i8(v0), b0 = bf_odd_i8(v0), a1 = bf_even_i8(v1), b1 = bf_odd_i8(v1); \
        bf_pair xa, xb;                                                \
        w0 += 4;                                                       \
        w1 += 4;                                                       \
        bf_next_two(&x, &xa, &xb);                                     \
        s0 = bf_dot2(b0, xb, bf_dot2(a0, xa, s0));                     \
        s1 = bf_dot2(b1, xb, bf_dot2(a1, xa, s1));                     \
        bf_next_two(&x, &xa, &xb);                                     \
        s2 = bf_dot2(b0, xb, bf_dot2(a0, xa, s2));                     \
        s3 = bf_dot2(b1, xb, bf_dot2(a1, xa, s3));                     \
    } while (w0 != last)

#define BF_SUM_16(w0, w1, x, last, s0, s1, s2, s3)                     \
    do {                                                               \
        bf_pair a0, b0, a1, b1, xa, xb;                                \
        bf_next_two(&w0, &a0, &b0);                                    \
        bf_next_two(&w1, &a1, &b1);                                    \
        bf_next_two(&x, &xa, &xb);                                     \
        s0 = bf_dot2(b0, xb, bf_dot2(a0, xa, s0));                     \
        s1 = bf_dot2(b1, xb, bf_dot2(a1, xa, s1));                     \
        bf_next_two(&x, &xa, &xb);                                     \
        s2 = bf_dot2(b0, xb, bf_dot2(a0, xa, s2));                     \
        s3 = bf_dot2(b1, xb, bf_dot2(a1, xa, s3));                     \
    } while (w0 != last)

/* Channels from number i of the block on, two after the other, at two pixels each. */
static BF_NOINLINE void bf_rows_any(const bf_block *b, void *y, int32_t at, int32_t next, int32_t i) {
    const int32_t is_small = bf_is_small(b->p), bytes = is_small ? b->n : 2 * b->n;
    for (; i < b->n_rows; i += 2) {
        const int32_t more = i + 1 < b->n_rows;
        const uint8_t *w0 = (const uint8_t *)b->weights + i * bytes, *w1 = more ? w0 + bytes : w0, *const last = w0 + bytes;
        const bf_pair *x = (const bf_pair *)b->patches;
        int32_t s0 = b->starts[i], s1 = b->starts[i + more], s2 = s0, s3 = s1;
        if (is_small) {
            BF_SUM_8(w0, w1, x, last, s0, s1, s2, s3);
        } else {
            BF_SUM_16(w0, w1, x, last, s0, s1, s2, s3);
        }
        bf_end_4(b->p, &b->end, y, at + i, more, next, s0, s1, s2, s3);
    }
}

/* The usual case: weights and codes of 8 bits. */
static BF_INLINE void bf_rows(const bf_block *b, void *y, int32_t at, int32_t next, int32_t kind) {
    const int32_t *start = b->starts;
    const uint8_t *w0 = b->weights;
    const bf_end end = b->end;
    uint8_t *to = (uint8_t *)y + at;
    int32_t pairs;
    for (pairs = b->n_rows >> 1; pairs > 0; pairs--, to += 2) {
        const uint8_t *w1 = w0 + b->n, *const last = w1;
        const bf_pair *x = (const bf_pair *)b->patches;
        int32_t s0 = start[0], s1 = start[1], s2 = s0, s3 = s1;
        start += 2;
        BF_SUM_8(w0, w1, x, last, s0, s1, s2, s3);
        w0 = w1;
        to[0] = bf_code_8(&end, s0, kind);
        to[1] = bf_code_8(&end, s1, kind);
        to[next] = bf_code_8(&end, s2, kind);
        to[next + 1] = bf_code_8(&end, s3, kind);
    }
    if (b->n_rows & 1) { bf_rows_any(b, y, at, next, b->n_rows - 1); }
}

static BF_NOINLINE void bf_rows_i8(const bf_block *b, void *y, int32_t at, int32_t next, int32_t i) {
    (void)i;
    bf_rows(b, y, at, next, BF_END_I8);
}

static BF_NOINLINE void bf_rows_u8(const bf_block *b, void *y, int32_t at, int32_t next, int32_t i) {
    (void)i;
    bf_rows(b, y, at, next, BF_END_U8);
}

/* n codes of 8 bits become the first numbers of a line. */
static BF_INLINE void bf_place_8(int16_t *line, const uint8_t *x, int32_t n, int32_t is_signed, int32_t swapped) {
    const uint8_t *const last = x + (n & ~3);
    while (x != last) {
        const uint32_t v = bf_four(x);
        const uint32_t even = is_signed ? bf_even_i8(v) : bf_even_u8(v), odd = is_signed ? bf_odd_i8(v) : bf_odd_u8(v);
        ((bf_pair *)line)[0] = swapped ? even : bf_lower(even, odd);
        ((bf_pair *)line)[1] = swapped ? odd : bf_upper(even, odd);
        x += 4;
        line += 8;
    }
    if (n & 3) {
        line[0] = is_signed ? (int8_t)x[0] : x[0];
        if (n & 2) { line[1 + swapped] = is_signed ? (int8_t)x[1] : x[1]; }
        if ((n & 3) == 3) { line[2 - swapped] = is_signed ? (int8_t)x[2] : x[2]; }
    }
}

/* n codes become numbers `at` and following of a line. */
static void bf_place(const bf_block *b, int16_t *line, int32_t at, const uint8_t *x, int32_t n) {
    static const uint8_t order[8] = {0, 1, 2, 3, 0, 2, 1, 3};
    const uint8_t type = b->p->in_type;
    int32_t i;
    if (!(at & 3) && b->swapped) {
        if (type == BF_I8) {
            bf_place_8(line + 2 * at, x, n, 1, 1);
        } else {
            bf_place_8(line + 2 * at, x, n, 0, 1);
        }
        return;
    }
    for (i = 0; i < n; i++, at++) {
        line[2 * (at & ~3) + order[(b->swapped ? 4 : 0) + (at & 3)]] = (int16_t)bf_get(x, type, i);
    }
}

/* What an output pixel sees: lines of the patch at `patch`, zeros where there is no map. */
static void bf_see(const bf_block *b, const uint8_t *x, int32_t oy, int32_t ox, int16_t *patch) {
    const bf_layer *const p = b->p;
    const int32_t bytes = BF_BYTES(p->in_type), left = ox * p->stride_w - p->pad_left;
    int32_t iy = oy * p->stride_h - p->pad_top, ky, kx, columns[2];
    bf_within(left, p->dilation_w, p->in_w, p->kernel_w, columns);
    for (ky = p->kernel_h; ky > 0; ky--, iy += p->dilation_h, patch += 2 * b->padded) {
        const int32_t is_inside = iy >= 0 && iy < p->in_h;
        if (!is_inside || columns[1] - columns[0] < p->kernel_w) {
            int32_t i;
            for (i = 0; i < b->padded; i += 4) { bf_store_two(patch + 2 * i, 0, 0); }
            if (!is_inside) { continue; }
        }
        if (b->together) {
            const int32_t from = (iy * p->in_w + left + columns[0]) * b->n_in;
            bf_place(b, patch, columns[0] * b->n_in, x + from * bytes, (columns[1] - columns[0]) * b->n_in);
        } else {
            for (kx = columns[0]; kx < columns[1]; kx++) {
                const int32_t from = (iy * p->in_w + left + kx * p->dilation_w) * p->in_c + b->source;
                bf_place(b, patch, kx * b->n_in, x + from * bytes, b->n_in);
            }
        }
    }
}

/* The same within the map, for codes of 8 bits that lie together. */
static BF_INLINE void bf_see_8(const bf_block *b, const uint8_t *x, int16_t *patch, int32_t is_signed, int32_t swapped) {
    const int32_t n = b->line, step = b->map_line, patch_step = 2 * b->padded;
    const int16_t *const last = b->patches + 2 * b->n;
    for (; patch < last; patch += patch_step, x += step) { bf_place_8(patch, x, n, is_signed, swapped); }
}

static BF_NOINLINE void bf_see_i8(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 1, 1);
}

static BF_NOINLINE void bf_see_u8(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 0, 1);
}

static BF_NOINLINE void bf_see_i8_pairs(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 1, 0);
}

static BF_NOINLINE void bf_see_u8_pairs(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 0, 0);
}

/* Both pixels. */
static void bf_see_two(const bf_block *b, const uint8_t *x, int32_t oy, int32_t ox, int32_t more) {
    const bf_layer *const p = b->p;
    const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
    const int32_t right = left + more * p->stride_w + p->kernel_w;
    if (b->together && p->in_type < BF_I16 && left >= 0 && right <= p->in_w && top >= 0 && top + b->height <= p->in_h) {
        const uint8_t *const from = x + (top * p->in_w + left) * p->in_c;
        void (*see)(const bf_block *, const uint8_t *, int16_t *) = p->in_type == BF_I8 ? bf_see_i8 : bf_see_u8;
        if (!b->swapped) { see = p->in_type == BF_I8 ? bf_see_i8_pairs : bf_see_u8_pairs; }
        see(b, from, b->patches);
        see(b, from + more * p->stride_w * p->in_c, b->patches + 4);
    } else {
        bf_see(b, x, oy, ox, b->patches);
        bf_see(b, x, oy, ox + more, b->patches + 4);
    }
}

void bf_conv(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_out = p->out_c / p->groups, block = p->block, is_direct = bf_is_direct(p);
    int32_t *const starts = scratch;
    int32_t group, first, oy, ox, i;
    void *weights;
    bf_block b;
    void (*rows)(const bf_block *, void *, int32_t, int32_t, int32_t) = bf_rows_any;
    b.p = p;
    b.end = bf_end_of(p);
    b.n_in = p->in_c / p->groups;
    b.line = p->kernel_w * b.n_in;
    b.padded = BF_FOURS(b.line);
    b.n = p->kernel_h * b.padded;
    b.together = p->groups == 1 && p->dilation_w == 1;
    b.map_line = p->dilation_h * p->in_w * p->in_c;
    b.height = (p->kernel_h - 1) * p->dilation_h + 1;
    b.swapped = bf_is_small(p);
    b.starts = starts;
    b.patches = (int16_t *)(starts + BF_EVEN(block));
    weights = b.patches + 2 * b.n;
    if (b.swapped && b.end.kind == BF_END_I8) { rows = bf_rows_i8; }
    if (b.swapped && b.end.kind == BF_END_U8) { rows = bf_rows_u8; }
    for (group = 0; group < p->groups; group++) {
        b.source = group * b.n_in;
        for (first = group * n_out; first < (group + 1) * n_out; first += block) {
            b.n_rows = bf_clamp((group + 1) * n_out - first, 0, block);
            b.weights = is_direct ? (const void *)(p->weight + first * b.n) : weights;
            if (!is_direct) { bf_unpack_rows(p, first, b.n_rows, b.line, b.padded, b.patches, weights); }
            for (i = 0; i < b.n_rows; i++) { starts[i] = bf_start_for(p, &b.end, first + i); }
            for (oy = 0; oy < p->out_h; oy++) {
                for (ox = 0; ox < p->out_w; ox += 2) {
                    const int32_t at = (oy * p->out_w + ox) * p->out_c + first;
                    const int32_t next = ox + 1 < p->out_w ? p->out_c : 0;
                    bf_see_two(&b, x, oy, ox, next > 0);
                    rows(&b, y, at, next, 0);
                }
            }
        }
    }
}
