/* One convolution kernel; included with BF_SUM, BF_PATCH, BF_WIDEN, BF_FINISH and BF_NAME defined.
 *
 * The weights of a block of output channels are unpacked once; then the map is walked in pairs of pixels, whose patches of
 * the input are copied to a row each, and two channels of two pixels are summed at a time.
 */
#ifdef __cplusplus
#error "compile the kernels as C"
#endif

#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)
#define BF_GATHER BF_JOIN(BF_NAME, _patch)
#define BF_DOTS BF_JOIN(BF_NAME, _dots)

/* What output pixel (oy, ox) sees of n channels from `first` on: kernel_h kernel_w n numbers, 0 where there is no map. */
static void BF_GATHER(const bf_layer *p, const uint8_t *x, int32_t oy, int32_t ox, int32_t first, int32_t n,
                      BF_PATCH *patch) {
    const int32_t bytes = BF_BYTES(p->in_type), kernel_w = p->kernel_w;
    const int32_t left = ox * p->stride_w - p->pad_left;
    int32_t iy = oy * p->stride_h - p->pad_top, ky, kx;
    for (ky = 0; ky < p->kernel_h; ky++, iy += p->dilation_h, patch += kernel_w * n) {
        if (iy < 0 || iy >= p->in_h) {
            memset(patch, 0, (size_t)(kernel_w * n) * sizeof(BF_PATCH));
        } else if (p->groups == 1 && p->dilation_w == 1) { /* neighbours in the map are neighbours in the patch */
            const int32_t from = left < 0 ? bf_clamp(-left, 0, kernel_w) : 0;
            const int32_t to = bf_clamp(p->in_w - left, from, kernel_w);
            memset(patch, 0, (size_t)(from * n) * sizeof(BF_PATCH));
            BF_WIDEN(patch + from * n, x + ((iy * p->in_w + left + from) * n) * bytes, p->in_type, (to - from) * n);
            memset(patch + to * n, 0, (size_t)((kernel_w - to) * n) * sizeof(BF_PATCH));
        } else {
            for (kx = 0; kx < kernel_w; kx++) {
                const int32_t ix = left + kx * p->dilation_w;
                if (ix < 0 || ix >= p->in_w) {
                    memset(patch + kx * n, 0, (size_t)n * sizeof(BF_PATCH));
                } else {
                    BF_WIDEN(patch + kx * n, x + ((iy * p->in_w + ix) * p->in_c + first) * bytes, p->in_type, n);
                }
            }
        }
    }
}

/* sums[2 i + j] += w_i . x_j */
static void BF_DOTS(const int16_t *w0, const int16_t *w1, const BF_PATCH *x0, const BF_PATCH *x1, int32_t n,
                    BF_SUM sums[4]) {
    BF_SUM s00 = sums[0], s01 = sums[1], s10 = sums[2], s11 = sums[3];
    int32_t i;
    for (i = 0; i < n; i++) {
        s00 += (BF_SUM)w0[i] * x0[i];
        s01 += (BF_SUM)w0[i] * x1[i];
        s10 += (BF_SUM)w1[i] * x0[i];
        s11 += (BF_SUM)w1[i] * x1[i];
    }
    sums[0] = s00;
    sums[1] = s01;
    sums[2] = s10;
    sums[3] = s11;
}

void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_in = p->in_c / p->groups, n_out = p->out_c / p->groups, block = p->block;
    const int32_t n = p->kernel_h * p->kernel_w * n_in, stride = BF_EVEN(n), row_bytes = bf_row_bytes(p, n);
    int32_t *const starts = scratch;
    BF_PATCH *const patches = (BF_PATCH *)(starts + BF_EVEN(block));
    int16_t *const weights = (int16_t *)(patches + 2 * stride);
    int32_t group, first, oy, ox, i;
    for (group = 0; group < p->groups; group++) {
        for (first = group * n_out; first < (group + 1) * n_out; first += block) {
            const int32_t n_rows = bf_clamp((group + 1) * n_out - first, 0, block);
            for (i = 0; i < n_rows; i++) {
                bf_unpack(weights + i * stride, p->weight + (first + i) * row_bytes, p->weight_bits, n);
                starts[i] = bf_start(p, first + i);
            }
            for (oy = 0; oy < p->out_h; oy++) {
                for (ox = 0; ox < p->out_w; ox += 2) {
                    const int32_t two = ox + 1 < p->out_w, at = (oy * p->out_w + ox) * p->out_c + first;
                    const BF_PATCH *const second = two ? patches + stride : patches;
                    BF_GATHER(p, x, oy, ox, group * n_in, n_in, patches);
                    if (two) {
                        BF_GATHER(p, x, oy, ox + 1, group * n_in, n_in, patches + stride);
                    }
                    for (i = 0; i < n_rows; i += 2) {
                        const int32_t j = i + 1 < n_rows ? i + 1 : i;
                        const int32_t shift_i = bf_shift_of(p, first + i), shift_j = bf_shift_of(p, first + j);
                        BF_SUM sums[4];
                        sums[0] = sums[1] = starts[i];
                        sums[2] = sums[3] = starts[j];
                        BF_DOTS(weights + i * stride, weights + j * stride, patches, second, n, sums);
                        BF_FINISH(p, y, at + i, sums[0], shift_i);
                        BF_FINISH(p, y, at + j, sums[2], shift_j);
                        if (two) {
                            BF_FINISH(p, y, at + p->out_c + i, sums[1], shift_i);
                            BF_FINISH(p, y, at + p->out_c + j, sums[3], shift_j);
                        }
                    }
                }
            }
        }
    }
}

#undef BF_GATHER
#undef BF_DOTS
#undef BF_JOIN
#undef BF_JOIN_
