/* Patches of the input; included with BF_NAME, BF_PATCH and BF_WIDEN defined. */
#ifdef __cplusplus
#error "compile the kernels as C"
#endif

#define BF_JOIN_(a, b) a##b
#define BF_JOIN(a, b) BF_JOIN_(a, b)

/* What output pixel (oy, ox) sees of n channels from `first` on: kernel_h kernel_w n numbers, 0 where there is no map. */
static void BF_JOIN(BF_NAME, _patch)(const bf_layer *p, const uint8_t *x, int32_t oy, int32_t ox, int32_t first, int32_t n,
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

#undef BF_JOIN
#undef BF_JOIN_
