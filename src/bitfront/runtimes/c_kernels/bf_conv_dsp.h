/* bf_conv where the processor multiplies two pairs of 16 bits at once.
 *
 * As bf_conv_body.h, but a patch's lines end with nothing up to whole fours, where weights are 0; and pairs of both pixels lie
 * beside each other, as do those of two channels' weights, so that one pointer walks each.
 */
typedef struct {
    const bf_layer *p;
    const int32_t *starts;
    int16_t *weights, *patches; /* of a block; of two pixels */
    bf_end end;
    int32_t n_in, line, n; /* channels; numbers in a line of a patch, in all lines, without those that fill it */
    int32_t line_padded, n_padded;
    int32_t n_rows, first; /* channels of the block, its first */
    int32_t source;        /* first input channel */
    int32_t together;      /* neighbours in a line of the map are neighbours in the patch */
    int32_t map_line, height; /* codes from a line of the patch to the next in the map; lines of the map */
} bf_block;

/* Codes of two channels after the other, at two pixels each. */
static BF_INLINE void bf_rows(const bf_block *b, void *y, int32_t at, int32_t next, int32_t kind) {
    uint8_t *to = (uint8_t *)y + at;
    const bf_pair *w = (const bf_pair *)b->weights;
    const int32_t *start = b->starts;
    const bf_end end = b->end;
    int32_t i;
    for (i = 0; i < b->n_rows; i += 2) {
        const bf_pair *x = (const bf_pair *)b->patches, *const last = w + b->n_padded;
        int32_t s0 = start[0], s1 = s0, s2 = start[1], s3 = s2;
        start += 2;
        do {
            bf_pair w0, w1, x0, x1;
            bf_next_two(&w, &w0, &w1);
            bf_next_two(&x, &x0, &x1);
            s0 = bf_dot2(w0, x0, s0);
            s1 = bf_dot2(w0, x1, s1);
            s2 = bf_dot2(w1, x0, s2);
            s3 = bf_dot2(w1, x1, s3);
            bf_next_two(&w, &w0, &w1);
            bf_next_two(&x, &x0, &x1);
            s0 = bf_dot2(w0, x0, s0);
            s1 = bf_dot2(w0, x1, s1);
            s2 = bf_dot2(w1, x0, s2);
            s3 = bf_dot2(w1, x1, s3);
        } while (w != last);
        if (kind == BF_END_ANY) {
            bf_end_4(b->p, &b->end, y, at + i, i + 1 < b->n_rows, next, s0, s2, s1, s3);
        } else {
            to[0] = bf_code_8(&end, s0, kind);
            to[next] = bf_code_8(&end, s1, kind);
            to[1] = bf_code_8(&end, s2, kind);
            to[next + 1] = bf_code_8(&end, s3, kind);
            to += 2;
        }
    }
}

static BF_NOINLINE void bf_rows_i8(const bf_block *b, void *y, int32_t at, int32_t next) {
    bf_rows(b, y, at, next, BF_END_I8);
}

static BF_NOINLINE void bf_rows_u8(const bf_block *b, void *y, int32_t at, int32_t next) {
    bf_rows(b, y, at, next, BF_END_U8);
}

static BF_NOINLINE void bf_rows_any(const bf_block *b, void *y, int32_t at, int32_t next) {
    bf_rows(b, y, at, next, BF_END_ANY);
}

/* n codes of 8 bits become the first numbers of a line. */
static BF_INLINE void bf_place_8(int16_t *line, const uint8_t *x, int32_t n, int32_t is_signed) {
    const uint8_t *const last = x + (n & ~3);
    while (x != last) {
        const uint32_t v = bf_four(x);
        const uint32_t even = is_signed ? bf_even_i8(v) : bf_even_u8(v), odd = is_signed ? bf_odd_i8(v) : bf_odd_u8(v);
        *(bf_pair *)line = bf_lower(even, odd);
        *(bf_pair *)(line + 4) = bf_upper(even, odd);
        x += 4;
        line += 8;
    }
    if (n & 3) {
        line[0] = is_signed ? (int8_t)x[0] : x[0];
        if (n & 2) { line[1] = is_signed ? (int8_t)x[1] : x[1]; }
        if ((n & 3) == 3) { line[4] = is_signed ? (int8_t)x[2] : x[2]; }
    }
}

/* n codes become numbers `at` and following of a line. */
static void bf_place(int16_t *line, int32_t at, const uint8_t *x, int32_t n, uint8_t type) {
    int32_t i;
    if (!(at & 1) && type < BF_I16) {
        if (type == BF_I8) {
            bf_place_8(line + 2 * at, x, n, 1);
        } else {
            bf_place_8(line + 2 * at, x, n, 0);
        }
        return;
    }
    for (i = 0; i < n; i++, at++) { line[2 * (at & ~1) + (at & 1)] = (int16_t)bf_get(x, type, i); }
}

/* What an output pixel sees: lines of the patch at `patch`, zeros where there is no map. */
static void bf_see(const bf_block *b, const uint8_t *x, int32_t oy, int32_t ox, int16_t *patch) {
    const bf_layer *const p = b->p;
    const int32_t bytes = BF_BYTES(p->in_type), left = ox * p->stride_w - p->pad_left;
    int32_t iy = oy * p->stride_h - p->pad_top, ky, kx, columns[2];
    bf_within(left, p->dilation_w, p->in_w, p->kernel_w, columns);
    for (ky = p->kernel_h; ky > 0; ky--, iy += p->dilation_h, patch += 2 * b->line_padded) {
        const int32_t is_inside = iy >= 0 && iy < p->in_h;
        if (!is_inside || columns[1] - columns[0] < p->kernel_w) {
            int32_t i;
            for (i = 0; i < b->line_padded; i += 2) { *(bf_pair *)(patch + 2 * i) = 0; }
            if (!is_inside) { continue; }
        }
        if (b->together) {
            const int32_t from = (iy * p->in_w + left + columns[0]) * b->n_in;
            bf_place(patch, columns[0] * b->n_in, x + from * bytes, (columns[1] - columns[0]) * b->n_in, p->in_type);
        } else {
            for (kx = columns[0]; kx < columns[1]; kx++) {
                const int32_t from = (iy * p->in_w + left + kx * p->dilation_w) * p->in_c + b->source;
                bf_place(patch, kx * b->n_in, x + from * bytes, b->n_in, p->in_type);
            }
        }
    }
}

/* The same within the map, for codes of 8 bits that lie together. */
static BF_INLINE void bf_see_8(const bf_block *b, const uint8_t *x, int16_t *patch,
                                                           int32_t is_signed) {
    const int32_t n = b->line, step = b->map_line, patch_step = 2 * b->line_padded;
    const int16_t *const last = b->patches + 2 * b->n_padded;
    for (; patch < last; patch += patch_step, x += step) { bf_place_8(patch, x, n, is_signed); }
}

static BF_NOINLINE void bf_see_i8(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 1);
}

static BF_NOINLINE void bf_see_u8(const bf_block *b, const uint8_t *x, int16_t *patch) {
    bf_see_8(b, x, patch, 0);
}

/* Both pixels. */
static inline void bf_see_two(const bf_block *b, const uint8_t *x, int32_t oy, int32_t ox, int32_t more) {
    const bf_layer *const p = b->p;
    const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
    const int32_t right = left + more * p->stride_w + p->kernel_w;
    if (b->together && p->in_type < BF_I16 && left >= 0 && right <= p->in_w && top >= 0 && top + b->height <= p->in_h) {
        const uint8_t *const from = x + (top * p->in_w + left) * p->in_c;
        void (*const see)(const bf_block *, const uint8_t *, int16_t *) = p->in_type == BF_I8 ? bf_see_i8 : bf_see_u8;
        see(b, from, b->patches);
        see(b, from + more * p->stride_w * p->in_c, b->patches + 2);
    } else {
        bf_see(b, x, oy, ox, b->patches);
        bf_see(b, x, oy, ox + more, b->patches + 2);
    }
}

/* Two channels' weights; `row` has space for one's. */
static void bf_unpack_two(const bf_block *b, int32_t channel, int32_t more, int16_t *row, int16_t *out) {
    const int32_t row_bytes = bf_row_bytes(b->p, b->n);
    int32_t k, i, at, y;
    for (k = 0; k < 2; k++, out += 2) {
        const int16_t *weight = row;
        bf_unpack(row, b->p->weight + (channel + k * more) * row_bytes, b->p->weight_bits, b->n);
        for (y = 0, at = 0; y < b->p->kernel_h; y++) {
            for (i = 0; i < b->line_padded; i++, at++) {
                out[2 * (at & ~1) + (at & 1)] = i < b->line ? *weight++ : 0;
            }
        }
    }
}

void bf_conv(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_out = p->out_c / p->groups, block = p->block;
    int32_t *const starts = scratch;
    int32_t group, first, oy, ox, i;
    bf_block b;
    void (*rows)(const bf_block *, void *, int32_t, int32_t);
    b.p = p;
    b.end = bf_end_of(p);
    b.n_in = p->in_c / p->groups;
    b.line = p->kernel_w * b.n_in;
    b.n = p->kernel_h * b.line;
    b.line_padded = BF_FOURS(b.line);
    b.n_padded = p->kernel_h * b.line_padded;
    b.together = p->groups == 1 && p->dilation_w == 1;
    b.map_line = p->dilation_h * p->in_w * p->in_c;
    b.height = (p->kernel_h - 1) * p->dilation_h + 1;
    b.starts = starts;
    b.patches = (int16_t *)(starts + BF_EVEN(block));
    b.weights = b.patches + 2 * b.n_padded;
    for (group = 0; group < p->groups; group++) {
        b.source = group * b.n_in;
        for (first = group * n_out; first < (group + 1) * n_out; first += block) {
            b.first = first;
            b.n_rows = bf_clamp((group + 1) * n_out - first, 0, block);
            rows = (b.n_rows & 1) ? bf_rows_any
                   : b.end.kind == BF_END_I8 ? bf_rows_i8
                   : b.end.kind == BF_END_U8 ? bf_rows_u8 : bf_rows_any;
            for (i = 0; i < b.n_rows; i += 2) {
                const int32_t more = i + 1 < b.n_rows;
                bf_unpack_two(&b, first + i, more, b.patches, b.weights + i * b.n_padded);
                starts[i] = bf_start_for(p, &b.end, first + i);
                starts[i + 1] = bf_start_for(p, &b.end, first + i + more);
            }
            for (oy = 0; oy < p->out_h; oy++) {
                for (ox = 0; ox < p->out_w; ox += 2) {
                    const int32_t at = (oy * p->out_w + ox) * p->out_c + first;
                    const int32_t next = ox + 1 < p->out_w ? p->out_c : 0;
                    bf_see_two(&b, x, oy, ox, next > 0);
                    rows(&b, y, at, next);
                }
            }
        }
    }
}
