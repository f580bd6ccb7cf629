/* An input that comes row by row, so that the image need not lie in memory. */
#include "bf_kernels.h"

void bf_stream(const bf_layer *p, bf_layer_kernel kernel, bf_fetch fetch, void *context, void *window, void *y,
               void *scratch) {
    const int32_t n_rows = (p->kernel_h - 1) * p->dilation_h + 1;
    const int32_t row_bytes = p->in_w * p->in_c * BF_BYTES(p->in_type);
    const int32_t out_bytes = p->out_w * p->out_c * BF_BYTES(p->out_type);
    uint8_t *const rows = window;
    int32_t first = -p->pad_top - n_rows, oy, i; /* first row of the input that lies in the window */
    bf_layer line = *p;                          /* one row of the output */
    line.in_h = (uint16_t)n_rows;
    line.out_h = 1;
    line.pad_top = 0;
    for (oy = 0; oy < p->out_h; oy++) {
        const int32_t top = oy * p->stride_h - p->pad_top;
        const int32_t n_kept = bf_clamp(n_rows - (top - first), 0, n_rows);
        for (i = 0; i < n_kept && n_kept < n_rows; i++) {
            memcpy(rows + i * row_bytes, rows + (i + n_rows - n_kept) * row_bytes, (size_t)row_bytes);
        }
        for (i = n_kept; i < n_rows; i++) {
            if (top + i >= 0 && top + i < p->in_h) {
                fetch(context, top + i, rows + i * row_bytes);
            } else {
                memset(rows + i * row_bytes, 0, (size_t)row_bytes);
            }
        }
        first = top;
        kernel(&line, rows, (uint8_t *)y + oy * out_bytes, scratch);
    }
}
