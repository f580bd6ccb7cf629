/* One dense kernel; included with the definitions of bf_conv_body.h. Every row of weights is used once. */
void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n = p->in_c, row_bytes = bf_row_bytes(p, n);
    BF_PATCH *const patch = scratch;
    int16_t *const row = (int16_t *)(patch + BF_EVEN(n));
    int32_t channel, i;
    BF_WIDEN(patch, x, p->in_type, n);
    for (channel = 0; channel < p->out_c; channel++) {
        BF_SUM sum = bf_start(p, channel);
        bf_unpack(row, p->weight + channel * row_bytes, p->weight_bits, n);
        for (i = 0; i < n; i++) {
            sum += (BF_SUM)row[i] * patch[i];
        }
        BF_FINISH(p, y, channel, sum, bf_shift_of(p, channel));
    }
}
