#include "bf_layer.h"

void bf_end_1(const bf_layer *p, const bf_end *e, void *y, int32_t at, int32_t sum) {
    if (e->kind == BF_END_ANY) {
        bf_finish(p, y, at, sum, bf_shift_of(p, at % p->out_c));
    } else {
        bf_put(y, p->out_type, at, bf_clamp(bf_rounded(e, sum), p->lo, p->hi));
    }
}
