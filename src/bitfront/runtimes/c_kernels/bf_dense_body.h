/* One dense kernel; included with BF_NAME, BF_SUM, BF_PATCH, BF_WIDEN, BF_DOT and BF_FINISH defined, and BF_DOT_8 for
 * weights of 8 bits as they lie. Every row of weights is used once. */
void BF_NAME(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n = p->in_c, row_bytes = bf_row_bytes(p, n);
    BF_PATCH *const patch = scratch;
    int16_t *const row = (int16_t *)(patch + BF_EVEN(n));
    int32_t channel;
    BF_WIDEN(patch, x, p->in_type, n);
#ifdef BF_DOT_8
    if (p->weight_bits == 8) {
        for (channel = 0; channel < p->out_c; channel++) {
            const BF_SUM sum = BF_DOT_8(p->weight + channel * n, patch, n, bf_start(p, channel));
            BF_FINISH(p, y, channel, sum, bf_shift_of(p, channel));
        }
        return;
    }
#endif
    row[BF_EVEN(n) - 1] = 0;
    for (channel = 0; channel < p->out_c; channel++) {
        bf_unpack(row, p->weight + channel * row_bytes, p->weight_bits, n);
        BF_FINISH(p, y, channel, BF_DOT(row, patch, n, bf_start(p, channel)), bf_shift_of(p, channel));
    }
}
