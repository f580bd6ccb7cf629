#include "bf_nms.h"

#include "bf_numeric.h"

/* e^x, for |x| <= 80: 2^n e^r with |r| <= ln(2) / 2, whose series is cut where single precision ends. */
static float exponential(float x) {
    const float scaled = x * 1.44269504f;
    const int32_t n = (int32_t)(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);
    const uint32_t bits = (uint32_t)(n + 127) << 23; /* 2^n */
    const float r = x - (float)n * 0.693145752f - (float)n * 1.42860677e-6f;
    float power, value = 1.0f / 720.0f;
    value = value * r + 1.0f / 120.0f;
    value = value * r + 1.0f / 24.0f;
    value = value * r + 1.0f / 6.0f;
    value = value * r + 0.5f;
    value = value * r + 1.0f;
    value = value * r + 1.0f;
    memcpy(&power, &bits, sizeof power);
    return value * power;
}

static float sigmoid(float x) {
    return 1.0f / (1.0f + exponential(x < -80.0f ? 80.0f : x > 80.0f ? -80.0f : -x));
}

/* s of number k of a place. */
static float number(const bf_heads *h, const void *codes, int32_t place, int32_t k) {
    return sigmoid((float)bf_get(codes, h->type, place * h->place_step + k * h->number_step) * h->step);
}

/* One more box; where all are taken, instead of the worst if that is worse. */
static int32_t keep(bf_box *boxes, int32_t n, int32_t capacity, const bf_box *box) {
    int32_t worst = 0, i;
    if (n < capacity) {
        boxes[n] = *box;
        return n + 1;
    }
    for (i = 1; i < n; i++) {
        if (boxes[i].score < boxes[worst].score) { worst = i; }
    }
    if (n > 0 && box->score > boxes[worst].score) { boxes[worst] = *box; }
    return n;
}

int32_t bf_yolo_v5(const bf_heads *h, const void *codes, float confidence, bf_box *boxes, int32_t capacity) {
    int32_t level, row, column, anchor, k, place = 0, n = 0;
    for (level = 0; level < h->n_levels; level++) {
        const bf_level *const l = h->levels + level;
        for (row = 0; row < l->rows; row++) {
            for (column = 0; column < l->columns; column++) {
                for (anchor = 0; anchor < l->n_anchors; anchor++, place++) {
                    const float object = number(h, codes, place, 4);
                    if (!(object > confidence)) { continue; }
                    for (k = 0; k < h->n_classes; k++) {
                        const float score = object * number(h, codes, place, 5 + k);
                        if (score > confidence) {
                            const float x = (2.0f * number(h, codes, place, 0) - 0.5f + (float)column) * (float)l->stride;
                            const float y = (2.0f * number(h, codes, place, 1) - 0.5f + (float)row) * (float)l->stride;
                            const float w = 2.0f * number(h, codes, place, 2), v = 2.0f * number(h, codes, place, 3);
                            const float half_w = w * w * l->anchors[2 * anchor] / 2.0f;
                            const float half_h = v * v * l->anchors[2 * anchor + 1] / 2.0f;
                            bf_box box;
                            box.x1 = x - half_w;
                            box.y1 = y - half_h;
                            box.x2 = x + half_w;
                            box.y2 = y + half_h;
                            box.score = score;
                            box.label = k;
                            n = keep(boxes, n, capacity, &box);
                        }
                    }
                }
            }
        }
    }
    return n;
}

static float area(const bf_box *a) {
    return a->x2 > a->x1 && a->y2 > a->y1 ? (a->x2 - a->x1) * (a->y2 - a->y1) : 0.0f;
}

static float shared(const bf_box *a, const bf_box *b) {
    bf_box both;
    both.x1 = a->x1 > b->x1 ? a->x1 : b->x1;
    both.y1 = a->y1 > b->y1 ? a->y1 : b->y1;
    both.x2 = a->x2 < b->x2 ? a->x2 : b->x2;
    both.y2 = a->y2 < b->y2 ? a->y2 : b->y2;
    return area(&both);
}

int32_t bf_nms(bf_box *boxes, int32_t n, float iou) {
    int32_t i, k, n_kept = 0;
    for (i = 1; i < n; i++) { /* best first; equal ones stay in order */
        const bf_box box = boxes[i];
        for (k = i; k > 0 && boxes[k - 1].score < box.score; k--) { boxes[k] = boxes[k - 1]; }
        boxes[k] = box;
    }
    for (i = 0; i < n; i++) {
        const bf_box box = boxes[i];
        int32_t stays = 1;
        for (k = 0; k < n_kept && stays; k++) {
            if (boxes[k].label == box.label) {
                const float both = shared(boxes + k, &box);
                stays = !(both > iou * (area(boxes + k) + area(&box) - both));
            }
        }
        if (stays) { boxes[n_kept++] = box; }
    }
    return n_kept;
}
