/* Dense layers, and convolutions from one pixel to one. */
#include "bf_layer.h"

#define BF_NAME bf_dense
#define BF_SUM int32_t
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_FINISH bf_finish
#include "bf_dense_body.h"
#undef BF_NAME
#undef BF_SUM
#undef BF_FINISH

#define BF_NAME bf_dense_wide
#define BF_SUM int64_t
#define BF_FINISH bf_finish_wide
#include "bf_dense_body.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN

#define BF_NAME bf_dense_x32
#define BF_PATCH int32_t
#define BF_WIDEN bf_widen_32
#include "bf_dense_body.h"
