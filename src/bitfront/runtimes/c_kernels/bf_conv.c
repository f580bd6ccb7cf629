/* Convolutions of any kernel, stride, padding, dilation and groups. */
#include "bf_layer.h"

#define BF_NAME bf_conv
#define BF_SUM int32_t
#define BF_PATCH int16_t
#define BF_WIDEN bf_widen_16
#define BF_FINISH bf_finish
#include "bf_conv_body.h"
#undef BF_NAME
#undef BF_SUM
#undef BF_FINISH

#define BF_NAME bf_conv_wide
#define BF_SUM int64_t
#define BF_FINISH bf_finish_wide
#include "bf_conv_body.h"
#undef BF_NAME
#undef BF_PATCH
#undef BF_WIDEN

#define BF_NAME bf_conv_x32
#define BF_PATCH int32_t
#define BF_WIDEN bf_widen_32
#include "bf_conv_body.h"
