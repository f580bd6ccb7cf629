/* One convolution kernel; included with BF_NAME, BF_SUM, BF_PATCH, BF_WIDEN, BF_DOTS, BF_START and BF_END_4 defined.
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

/* What output pixel (oy, ox) sees of n channels from `first` on: kernel_h kernel_w n numbers, 0 where there is no map. */
static void BF_GATHER(const bf_layer *p, const uint8_t *x, int32_t oy, int32_t ox, int32_t first, int32_t n,
                      BF_PATCH *patch) {
    const int32_t bytes = BF_BYTES(p->in_type), kernel_w = p->kernel_w, row = kernel_w * n;
    const int32_t left = ox * p->stride_w - p->pad_left;
    const int32_t together = p->groups == 1 && p->dilation_w == 1; /* neighbours in the map are so in the patch */
    int32_t iy = oy * p->stride_h - p->pad_top, ky, kx;
    for (ky = p->kernel_h; ky > 0; ky--, iy += p->dilation_h, patch += row) {
        const int32_t line = (iy * p->in_w + left) * p->in_c;
        if (iy < 0 || iy >= p->in_h) {
            memset(patch, 0, (size_t)row * sizeof(BF_PATCH));
        } else if (together && left >= 0 && left + kernel_w <= p->in_w) {
            BF_WIDEN(patch, x + line * bytes, p->in_type, row);
        } else {
            for (kx = 0; kx < kernel_w; kx++) {
                const int32_t ix = kx * p->dilation_w;
                if (left + ix < 0 || left + ix >= p->in_w) {
                    memset(patch + kx * n, 0, (size_t)n * sizeof(BF_PATCH));
                } else {
                    BF_WIDEN(patch + kx * n, x + (line + ix * p->in_c + first) * bytes, p->in_type, n);
                }
            }
        }
    }
}

void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_in = p->in_c / p->groups, n_out = p->out_c / p->groups, block = p->block;
    const int32_t n = p->kernel_h * p->kernel_w * n_in, stride = BF_EVEN(n), row_bytes = bf_row_bytes(p, n);
    const bf_end end = bf_end_of(p);
    int32_t *const starts = scratch;
    BF_PATCH *const patches = (BF_PATCH *)(starts + BF_EVEN(block));
    int16_t *const weights = (int16_t *)(patches + 2 * stride);
    int32_t group, first, oy, ox, i;
    for (group = 0; group < p->groups; group++) {
        for (first = group * n_out; first < (group + 1) * n_out; first += block) {
            const int32_t n_rows = bf_clamp((group + 1) * n_out - first, 0, block);
            for (i = 0; i < n_rows; i++) {
                weights[i * stride + stride - 1] = 0;
                bf_unpack(weights + i * stride, p->weight + (first + i) * row_bytes, p->weight_bits, n);
                starts[i] = BF_START(p, &end, first + i);
            }
            for (oy = 0; oy < p->out_h; oy++) {
                for (ox = 0; ox < p->out_w; ox += 2) {
                    const int32_t two = ox + 1 < p->out_w, at = (oy * p->out_w + ox) * p->out_c + first;
                    const int32_t next = two ? p->out_c : 0;
                    const BF_PATCH *const second = two ? patches + stride : patches;
                    BF_GATHER(p, x, oy, ox, group * n_in, n_in, patches);
                    if (two) { BF_GATHER(p, x, oy, ox + 1, group * n_in, n_in, patches + stride); }
                    for (i = 0; i < n_rows; i += 2) {
                        const int32_t more = i + 1 < n_rows;
                        const int16_t *const row = weights + i * stride;
                        BF_SUM sums[4];
                        sums[0] = sums[1] = starts[i];
                        sums[2] = sums[3] = starts[i + more];
                        BF_DOTS(row, more ? row + stride : row, patches, second, n, sums);
                        BF_END_4(p, &end, y, at + i, first + i, more, next, sums);
                    }
                }
            }
        }
    }
}

#undef BF_GATHER
#undef BF_JOIN
#undef BF_JOIN_
