/* The operators. Maps are NHWC with one image; what is constant about a layer lies in a struct in flash.
 *
 * Of most there are several: `_wide` has 64-bit sums; `_x32` also takes unsigned 16-bit codes. Buffers of a layer do not
 * overlap unless a comment here says that they may. `scratch` is aligned to 4 bytes, 8 for `_wide`.
 */
#ifndef BF_KERNELS_H
#define BF_KERNELS_H

#include "bf_numeric.h"

#ifdef __cplusplus
extern "C" {
#endif

/* conv, depthwise, dense: y = clip(round((sum(x w) + b) / 2^shift)). */
typedef struct {
    const uint8_t *weight;   /* rows (output channels) of kernel_h kernel_w in_c/groups, each from a byte on */
    const uint8_t *bias;     /* one row, or NULL; in units of 2^bias_shift sums */
    const int8_t *shifts;    /* one per output channel, or NULL: all are `shift` */
    int32_t lo, hi;
    uint16_t in_h, in_w, in_c, out_h, out_w, out_c, groups;
    uint16_t block;          /* output channels whose weights are unpacked at once */
    int16_t pad_top, pad_left;
    uint8_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    uint8_t weight_bits, bias_bits, bias_shift;
    uint8_t in_type, out_type, even;
    int8_t shift;
} bf_layer;

/* Scratch: two patches of the input (2 bytes an element; 4 for _x32), for every channel of a block, rounded up to 2, its sum's
 * start and its weights (2 bytes each; 1 and 0 as bf_layer.h says). Lines of patches and weights are rounded up to 4. */
void bf_conv(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_conv_wide(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_conv_x32(const bf_layer *p, const void *x, void *y, void *scratch);

/* One pixel in, one out: a dense layer. Scratch: one patch, one row of weights. */
void bf_dense(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_dense_wide(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_dense_x32(const bf_layer *p, const void *x, void *y, void *scratch);

/* As many groups as channels, in and out. Scratch: starts of sums and weights of a block. */
void bf_depthwise_i8(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_u8(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_i16(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_u16(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_i8_wide(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_u8_wide(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_i16_wide(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_depthwise_u16_wide(const bf_layer *p, const void *x, void *y, void *scratch);

/* The first layer on an input that comes row by row: `fetch` writes a row's codes; rows are asked for in order, each at
 * most once. `window` holds the rows that a row of the output sees: (kernel_h - 1) dilation_h + 1. */
typedef void (*bf_fetch)(void *context, int32_t row, void *codes);
typedef void (*bf_layer_kernel)(const bf_layer *p, const void *x, void *y, void *scratch);
void bf_stream(const bf_layer *p, bf_layer_kernel kernel, bf_fetch fetch, void *context, void *window, void *y,
               void *scratch);

/* add, sub: y = clip(round((a 2^a_left +- b 2^b_left) / 2^shift)); mul: y = clip(round(a b / 2^shift)). Rows of n
 * elements; a step of 0 repeats. y may be a or b where that one's steps are those of y and its type has as many bytes. */
enum { BF_ADD, BF_SUB, BF_MUL };
typedef struct {
    int32_t lo, hi;
    int32_t a_outer, a_inner, b_outer, b_inner; /* steps from row to row, in elements */
    int32_t n;
    uint16_t outer, inner;
    uint8_t a_step, b_step; /* within a row: 0 or 1 */
    uint8_t a_left, b_left;
    uint8_t a_type, b_type, out_type, op, even;
    int8_t shift;
} bf_binary_layer;
void bf_binary(const bf_binary_layer *p, const void *a, const void *b, void *y);
void bf_binary_wide(const bf_binary_layer *p, const void *a, const void *b, void *y);

/* clip, neg, concat, pad, identity: rows of n codes, y = clip(round(+-x / 2^shift)). y may be x where steps and bytes
 * are the same. */
typedef struct {
    int32_t lo, hi;
    int32_t rows, n, x_step, y_step; /* in elements */
    uint8_t in_type, out_type, even, negate, plain; /* plain: codes are copied */
    int8_t shift;
} bf_move_layer;
void bf_move(const bf_move_layer *p, const void *x, void *y);

/* n codes, all the same. */
void bf_fill(void *y, uint8_t type, int32_t n, int32_t code);

/* transpose, slice, reshape: y[i][j][k][l] = clip(round(x[first + i s0 + j s1 + k s2 + l s3] / 2^shift)). */
typedef struct {
    int32_t lo, hi, first;
    int32_t steps[4];
    uint16_t sizes[4];
    uint8_t in_type, out_type, even;
    int8_t shift;
} bf_gather_layer;
void bf_gather(const bf_gather_layer *p, const void *x, void *y);

/* max_pool: y = clip(round(max x / 2^shift)). average_pool and means: sum(x) 2^left / (n 2^right), n without padding
 * unless it is counted. */
typedef struct {
    int32_t lo, hi;
    uint16_t in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w;
    int16_t pad_top, pad_left;
    uint16_t stride_h, stride_w;
    uint8_t dilation_h, dilation_w;
    uint8_t in_type, out_type, even, count_padding, left, right;
    int8_t shift;
} bf_pool_layer;
void bf_max_pool(const bf_pool_layer *p, const void *x, void *y);
void bf_average_pool(const bf_pool_layer *p, const void *x, void *y);

/* resize. Nearest: y = x[rows[i]][columns[j]], rescaled. Linear: weights of 7 bits along each axis, both in one sum.
 * Scratch of linear: 4 bytes for each column of the input, and one more, and channel of a block. */
typedef struct {
    const uint16_t *rows, *columns;             /* source pixel of every output row and column */
    const uint8_t *row_weights, *column_weights; /* of the pixel after it, 0..128; NULL for nearest */
    int32_t lo, hi;
    uint16_t in_h, in_w, channels, out_h, out_w;
    uint16_t block; /* channels at once */
    uint8_t in_type, out_type, even, plain;
    int8_t shift;
} bf_resize_layer;
void bf_resize_nearest(const bf_resize_layer *p, const void *x, void *y);
void bf_resize_linear(const bf_resize_layer *p, const void *x, void *y, void *scratch);

/* A function of one code: y = table[x - low]. y may be x where both have one byte, or both two. */
typedef struct {
    const void *table; /* of y's type */
    int32_t n, low;
    uint8_t in_type, out_type;
} bf_table_layer;
void bf_table(const bf_table_layer *p, const void *x, void *y);

/* Along `n` elements that lie `step` apart: outer rows of inner positions. */
typedef struct {
    const uint32_t *exponentials; /* softmax: K exp(-i step of x), i = 0..255 */
    int32_t n, outer, inner;
    int32_t steps_of_one, lo, hi; /* softmax: how many steps of y make 1 */
    uint8_t in_type, out_type;
} bf_along_layer;
/* The lowest index of the largest code. */
void bf_argmax(const bf_along_layer *p, const void *x, void *y);
/* Codes of one byte. y may be x where the bytes are the same. */
void bf_softmax(const bf_along_layer *p, const void *x, void *y);

#ifdef __cplusplus
}
#endif
#endif
