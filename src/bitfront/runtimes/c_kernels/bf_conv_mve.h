/* bf_conv in vectors: of 16 numbers where codes and weights have at most 8 bits, else of 8.
 *
 * Four channels are summed at a time, pixel after pixel. Of a layer that looks at single pixels these are read where they lie;
 * else patches are copied to scratch, as many as fit there. Codes of 8 bits without sign are used less 128, which the starts of
 * the sums make good.
 */
#include "bf_mve.h"

typedef struct {
    const bf_layer *p;
    const int32_t *starts;
    const void *weights; /* in scratch or in flash */
    bf_end end;
    int32_t n, n_rows; /* weights of a channel, channels of the block */
    int32_t flip;      /* 128 or 0 */
} bf_block;

#define BF_LANES 16
#define BF_X int8_t
#define BF_V int8x16_t
#define BF_DOTS bf_dots_8
#define BF_LOAD vldrbq_s8
#define BF_LOAD_SOME vldrbq_z_s8
#define BF_ADD_DOT vmladavaq_s8
#define BF_SOME vctp8q
#define BF_FLIP(v, flip) veorq_s8(v, vdupq_n_s8((int8_t)(flip)))
#include "bf_dots_mve.h"

#define BF_LANES 8
#define BF_X int16_t
#define BF_V int16x8_t
#define BF_DOTS bf_dots_16
#define BF_LOAD vldrhq_s16
#define BF_LOAD_SOME vldrhq_z_s16
#define BF_ADD_DOT vmladavaq_s16
#define BF_SOME vctp16q
#define BF_FLIP(v, flip) (v)
#include "bf_dots_mve.h"

#define BF_NAME bf_conv_8
#define BF_PATCH int8_t
#define BF_WIDEN bf_copy_8
#include "bf_patch.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN

#define BF_NAME bf_conv_16
#define BF_PATCH int16_t
#define BF_WIDEN bf_copy_16
#include "bf_patch.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN

/* What codes used less 128 lack: 128 times the sum of a row's weights. */
static int32_t bf_lacking(const int8_t *row, int32_t n) {
    int32_t sum = 0;
    for (; n > 0; n -= 16, row += 16) { sum = vaddvaq_s8(sum, vldrbq_z_s8(row, vctp8q((uint32_t)n))); }
    return 128 * sum;
}

/* What n pixels see, if all lies within the map and codes of a line lie together; 1 if so. */
static BF_NOINLINE int32_t bf_see_8(const bf_layer *p, const uint8_t *x, int32_t oy, int32_t ox, int32_t n, int32_t step,
                                    int8_t *patch) {
    const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
    const int32_t right = left + (n - 1) * p->stride_w + p->kernel_w, line = p->in_w * p->in_c * p->dilation_h;
    const int32_t n_line = p->kernel_w * p->in_c, n_lines = p->kernel_h;
    int32_t ky, k;
    if (p->groups != 1 || p->dilation_w != 1 || left < 0 || right > p->in_w || top < 0 ||
        top + (n_lines - 1) * p->dilation_h >= p->in_h) {
        return 0;
    }
    x += (top * p->in_w + left) * p->in_c;
    for (; n > 0; n--, x += p->stride_w * p->in_c, patch += step) {
        const uint8_t *from = x;
        int8_t *to = patch;
        for (ky = n_lines; ky > 0; ky--, from += line, to += n_line) {
            for (k = 0; k + 16 <= n_line; k += 16) { vstrbq_s8(to + k, vldrbq_s8((const int8_t *)from + k)); }
            if (n_line & 15) {
                const mve_pred16_t some = vctp8q((uint32_t)(n_line & 15));
                vstrbq_p_s8(to + k, vldrbq_z_s8((const int8_t *)from + k, some), some);
            }
        }
    }
    return 1;
}

/* All pixels of the output, a few at a time. */
static void bf_walk(const bf_block *b, const uint8_t *x, void *y, int32_t first, int32_t is_8, void *patches) {
    const bf_layer *const p = b->p;
    const int32_t n_in = p->in_c / p->groups, source = first / (p->out_c / p->groups) * n_in;
    const int32_t n_padded = p->kernel_h * BF_FOURS(p->kernel_w * n_in), together = is_8 ? 4 : 2;
    const int32_t is_plain = p->kernel_h == 1 && p->kernel_w == 1 && p->groups == 1 && p->stride_h == 1 && p->stride_w == 1 &&
                             p->pad_top == 0 && p->pad_left == 0 && p->out_h == p->in_h && p->out_w == p->in_w;
    int32_t oy, ox, i;
    if (is_plain && (is_8 || p->in_type == BF_I16)) {
        if (is_8) {
            bf_dots_8(b, (const int8_t *)x, n_in, p->out_h * p->out_w, y, first);
        } else {
            bf_dots_16(b, (const int16_t *)(const void *)x, n_in, p->out_h * p->out_w, y, first);
        }
        return;
    }
    for (oy = 0; oy < p->out_h; oy++) {
        for (ox = 0; ox < p->out_w; ox += together) {
            const int32_t at = (oy * p->out_w + ox) * p->out_c + first, n = bf_clamp(p->out_w - ox, 0, together);
            if (is_8) {
                const int32_t is_inside = bf_see_8(p, x, oy, ox, n, n_padded, patches);
                for (i = 0; i < n && !is_inside; i++) {
                    bf_conv_8_patch(p, x, oy, ox + i, source, n_in, (int8_t *)patches + i * n_padded);
                }
                bf_dots_8(b, patches, n_padded, n, y, at);
            } else {
                for (i = 0; i < n; i++) {
                    bf_conv_16_patch(p, x, oy, ox + i, source, n_in, (int16_t *)patches + i * n_padded);
                }
                bf_dots_16(b, patches, n_padded, n, y, at);
            }
        }
    }
}

void bf_conv(const bf_layer *p, const void *x, void *y, void *scratch) {
    const int32_t n_in = p->in_c / p->groups, n_out = p->out_c / p->groups, line = p->kernel_w * n_in;
    const int32_t is_8 = bf_is_small(p), is_direct = bf_is_direct(p);
    int32_t *const starts = scratch;
    int16_t *const patches = (int16_t *)(starts + BF_EVEN(p->block));
    void *const unpacked = patches + 2 * p->kernel_h * BF_FOURS(line);
    int32_t group, first, i;
    bf_block b;
    b.p = p;
    b.end = bf_end_of(p);
    b.n = p->kernel_h * line;
    b.starts = starts;
    b.flip = is_8 && p->in_type == BF_U8 ? 128 : 0;
    for (group = 0; group < p->groups; group++) {
        for (first = group * n_out; first < (group + 1) * n_out; first += p->block) {
            b.n_rows = bf_clamp((group + 1) * n_out - first, 0, p->block);
            b.weights = is_direct ? (const void *)(p->weight + first * b.n) : unpacked;
            if (!is_direct) { bf_unpack_rows(p, first, b.n_rows, line, line, patches, unpacked); }
            for (i = 0; i < b.n_rows; i++) {
                starts[i] = bf_start_for(p, &b.end, first + i);
                if (b.flip) { starts[i] += bf_lacking((const int8_t *)b.weights + i * b.n, b.n); }
            }
            bf_walk(&b, x, y, first, is_8, patches);
        }
    }
}
