/* Boxes of a detector: raw numbers of its heads become boxes, and of boxes that overlap too much the best stays.
 *
 * In single precision, which a network's own C does without; C99 alone, no mathematics library, no malloc.
 */
#ifndef BF_NMS_H
#define BF_NMS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float x1, y1, x2, y2; /* pixels of the network's input */
    float score;
    int32_t label;
} bf_box;

/* A head's map: pixels of the input between its cells, its cells, and width and height of each anchor. */
typedef struct {
    const float *anchors;
    uint16_t stride, rows, columns, n_anchors;
} bf_level;

/* Codes of all heads: number k of place n lies at k number_step + n place_step. Places are ordered by level, row, column and
 * anchor; the numbers of one are x y w h, objectness and the classes. */
typedef struct {
    const bf_level *levels;
    int32_t n_levels, n_classes;
    int32_t number_step, place_step;
    float step;   /* what a code of 1 stands for */
    uint8_t type; /* of codes: BF_I8, BF_U8, BF_I16, BF_U16 */
} bf_heads;

/* YOLOv5's boxes (Jocher 2020): with s the sigmoid, column i, row j, stride d and anchor (a, b),
 * x = (2 s(tx) - 0.5 + i) d, y alike, w = (2 s(tw))^2 a, h = (2 s(th))^2 b, score = s(objectness) s(class).
 * A place is a box for every class whose score is above the confidence. Returns how many there are; of more than
 * `capacity` the best. */
int32_t bf_yolo_v5(const bf_heads *heads, const void *codes, float confidence, bf_box *boxes, int32_t capacity);

/* Greedy suppression within classes: the highest score first (the earlier box on ties), a box stays unless one that stayed has an
 * intersection over union with it above `iou`. Returns how many stay; they lie first, best first. */
int32_t bf_nms(bf_box *boxes, int32_t n, float iou);

#ifdef __cplusplus
}
#endif
#endif
