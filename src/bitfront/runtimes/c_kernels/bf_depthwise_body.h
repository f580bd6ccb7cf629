/* One depthwise kernel; included with BF_X (type of the input's codes), BF_SUM, BF_FINISH and BF_NAME defined.
 *
 * The weights of a block of channels are unpacked once and stored tap by tap, so that neighbouring channels, which are
 * neighbours in the map, have neighbouring weights.
 */
void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_taps = p->kernel_h * p->kernel_w, channels = p->in_c, row_bytes = bf_row_bytes(p, n_taps);
    int32_t *const starts = scratch;
    int16_t *const weights = (int16_t *)(starts + BF_EVEN(p->block));
    int32_t first, oy, ox, c, k, ky, kx;
    for (first = 0; first < channels; first += p->block) {
        const int32_t n = bf_clamp(channels - first, 0, p->block);
        int16_t *const row = weights + n_taps * p->block;
        for (c = 0; c < n; c++) {
            bf_unpack(row, p->weight + (first + c) * row_bytes, p->weight_bits, n_taps);
            for (k = 0; k < n_taps; k++) {
                weights[k * n + c] = row[k];
            }
            starts[c] = bf_start(p, first + c);
        }
        for (oy = 0; oy < p->out_h; oy++) {
            for (ox = 0; ox < p->out_w; ox++) {
                const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
                const int32_t at = (oy * p->out_w + ox) * channels + first;
                for (c = 0; c < n; c += 4) {
                    const int32_t n_now = bf_clamp(n - c, 0, 4);
                    BF_SUM sums[4];
                    for (k = 0; k < n_now; k++) { sums[k] = starts[c + k]; }
                    for (ky = 0; ky < p->kernel_h; ky++) {
                        const int32_t iy = top + ky * p->dilation_h;
                        if (iy < 0 || iy >= p->in_h) { continue; }
                        for (kx = 0; kx < p->kernel_w; kx++) {
                            const int32_t ix = left + kx * p->dilation_w;
                            if (ix < 0 || ix >= p->in_w) { continue; }
                            {
                                const BF_X *const code = (const BF_X *)x + (iy * p->in_w + ix) * channels + first + c;
                                const int16_t *const weight = weights + (ky * p->kernel_w + kx) * n + c;
                                if (n_now == 4) {
                                    sums[0] += (BF_SUM)weight[0] * code[0];
                                    sums[1] += (BF_SUM)weight[1] * code[1];
                                    sums[2] += (BF_SUM)weight[2] * code[2];
                                    sums[3] += (BF_SUM)weight[3] * code[3];
                                } else {
                                    for (k = 0; k < n_now; k++) { sums[k] += (BF_SUM)weight[k] * code[k]; }
                                }
                            }
                        }
                    }
                    for (k = 0; k < n_now; k++) {
                        BF_FINISH(p, y, at + c + k, sums[k], bf_shift_of(p, first + c + k));
                    }
                }
            }
        }
    }
}
