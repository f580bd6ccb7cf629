/* Depthwise convolutions, one for each type of codes and width of sums.
 *
 * The weights of a block of channels are unpacked once and stored by fours of channels, of which every tap has its weights
 * beside each other, as the map has its codes.
 */
#include "bf_layer.h"

/* A block of channels, and what of the window lies within the map. */
typedef struct {
    const bf_layer *p;
    const int32_t *starts;
    const int16_t *weights;
    bf_end end;
    int32_t n, n_taps;   /* channels of the block; taps of the whole window */
    int32_t step, line;  /* codes from tap to tap, and from line to line */
    int32_t n_x, n_y;    /* taps */
    int32_t first_tap, skip; /* weights before them, and from a line's last to the next line's first */
    int32_t is_three;    /* n_x = kernel_w = 3 */
    int32_t is_usual;    /* codes of 8 bits, one shift */
} window;

typedef void (*pixel_kernel)(const window *v, const void *x, void *y, int32_t at);

static void walk(const bf_layer *p, const void *x, void *y, void *scratch, pixel_kernel pixel, int32_t is_wide,
                 int32_t is_swapped) {
    const int32_t n_taps = p->kernel_h * p->kernel_w, channels = p->in_c, row_bytes = bf_row_bytes(p, n_taps);
    int32_t *const starts = scratch;
    int16_t *const weights = (int16_t *)(starts + BF_EVEN(p->block));
    int16_t *const row = weights + n_taps * BF_FOURS(p->block);
    int32_t first, oy, ox, c, k, rows[2], columns[2];
    window v;
    v.p = p;
    v.end = bf_end_of(p);
    v.is_usual = v.end.kind != BF_END_ANY && p->out_type < BF_I16;
    v.starts = starts;
    v.weights = weights;
    v.n_taps = n_taps;
    v.step = p->dilation_w * channels;
    v.line = p->dilation_h * p->in_w * channels;
    for (first = 0; first < channels; first += p->block) {
        v.n = bf_clamp(channels - first, 0, p->block);
        for (c = 0; c < v.n; c++) {
            const int32_t is_inner = is_swapped && (c | 3) < v.n && ((c & 3) == 1 || (c & 3) == 2);
            int16_t *const at = weights + (c & ~3) * n_taps + (is_inner ? (c & 3) ^ 3 : c & 3);
            bf_unpack(row, p->weight + (first + c) * row_bytes, p->weight_bits, n_taps);
            for (k = 0; k < n_taps; k++) { at[4 * k] = row[k]; }
            starts[c] = is_wide ? bf_start(p, first + c) : bf_start_for(p, &v.end, first + c);
        }
        for (oy = 0; oy < p->out_h; oy++) {
            const int32_t top = oy * p->stride_h - p->pad_top;
            bf_within(top, p->dilation_h, p->in_h, p->kernel_h, rows);
            v.n_y = rows[1] - rows[0];
            for (ox = 0; ox < p->out_w; ox++) {
                const int32_t left = ox * p->stride_w - p->pad_left;
                int32_t from;
                bf_within(left, p->dilation_w, p->in_w, p->kernel_w, columns);
                v.n_x = columns[1] - columns[0];
                v.is_three = v.n_x == 3 && p->kernel_w == 3;
                v.skip = 4 * (p->kernel_w - v.n_x);
                v.first_tap = 4 * (rows[0] * p->kernel_w + columns[0]);
                from = (top + rows[0] * p->dilation_h) * p->in_w + left + columns[0] * p->dilation_w;
                from = (from * channels + first) * BF_BYTES(p->in_type);
                pixel(&v, (const uint8_t *)x + from, y, (oy * p->out_w + ox) * channels + first);
            }
        }
    }
}

/* Four channels of one tap: s0 += w[0] code[0], ...; and on to the weights of the next. */
#define PLAIN_TAP(w, code)                \
    do {                                  \
        s0 += (BF_SUM)(w)[0] * (code)[0]; \
        s1 += (BF_SUM)(w)[1] * (code)[1]; \
        s2 += (BF_SUM)(w)[2] * (code)[2]; \
        s3 += (BF_SUM)(w)[3] * (code)[3]; \
        (w) += 4;                         \
    } while (0)

/* Where the processor multiplies halves of words, codes of 8 bits come as channels 0 and 2, 1 and 3; so do their weights. */
#if BF_DSP
#define TAP_8(w, code, even_of, odd_of)                              \
    do {                                                             \
        const uint32_t v4 = bf_four(code);                           \
        const int32_t even = (int32_t)even_of(v4), odd = (int32_t)odd_of(v4); \
        bf_pair w02, w13;                                            \
        bf_next_two(&(w), &w02, &w13);                               \
        s0 = __smlabb((int32_t)w02, even, s0);                       \
        s1 = __smlabb((int32_t)w13, odd, s1);                        \
        s2 = __smlatt((int32_t)w02, even, s2);                       \
        s3 = __smlatt((int32_t)w13, odd, s3);                        \
    } while (0)
#define TAP_I8(w, code) TAP_8(w, code, bf_even_i8, bf_odd_i8)
#define TAP_U8(w, code) TAP_8(w, code, bf_even_u8, bf_odd_u8)
#define TAP_I16(w, code)                                             \
    do {                                                             \
        const int32_t x01 = (int32_t)bf_four(code), x23 = (int32_t)bf_four((code) + 2); \
        bf_pair w01, w23;                                            \
        bf_next_two(&(w), &w01, &w23);                               \
        s0 = __smlabb((int32_t)w01, x01, s0);                        \
        s1 = __smlatt((int32_t)w01, x01, s1);                        \
        s2 = __smlabb((int32_t)w23, x23, s2);                        \
        s3 = __smlatt((int32_t)w23, x23, s3);                        \
    } while (0)
#define IS_SWAPPED 1
#else
#define TAP_I8 PLAIN_TAP
#define TAP_U8 PLAIN_TAP
#define TAP_I16 PLAIN_TAP
#define IS_SWAPPED 0
#endif

#define BF_SUM int32_t
#define BF_IS_WIDE 0
#define BF_END_4 bf_end_4
#define BF_END_1 bf_end_1
#if BF_MVE
#include "bf_depthwise_mve.h"
#else
#define BF_NAME bf_depthwise_i8
#define BF_X int8_t
#define BF_TAP TAP_I8
#define BF_IS_SWAPPED IS_SWAPPED
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_u8
#define BF_X uint8_t
#define BF_TAP TAP_U8
#define BF_IS_SWAPPED IS_SWAPPED
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_i16
#define BF_X int16_t
#define BF_TAP TAP_I16
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_u16
#define BF_X uint16_t
#define BF_TAP PLAIN_TAP
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#endif
#undef BF_SUM
#undef BF_IS_WIDE
#undef BF_END_4
#undef BF_END_1

#define BF_SUM int64_t
#define BF_IS_WIDE 1
#define BF_END_4 bf_end_4_wide
#define BF_END_1 bf_end_1_wide
#define BF_NAME bf_depthwise_i8_wide
#define BF_X int8_t
#define BF_TAP PLAIN_TAP
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_u8_wide
#define BF_X uint8_t
#define BF_TAP PLAIN_TAP
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_i16_wide
#define BF_X int16_t
#define BF_TAP PLAIN_TAP
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
#define BF_NAME bf_depthwise_u16_wide
#define BF_X uint16_t
#define BF_TAP PLAIN_TAP
#define BF_IS_SWAPPED 0
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_TAP
#undef BF_IS_SWAPPED
