/* Depthwise convolutions, one for each type of codes and width of sums. */
#include "bf_layer.h"

#define BF_SUM int32_t
#define BF_FINISH bf_finish
#define BF_NAME bf_depthwise_i8
#define BF_X int8_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_u8
#define BF_X uint8_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_i16
#define BF_X int16_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_u16
#define BF_X uint16_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#undef BF_SUM
#undef BF_FINISH

#define BF_SUM int64_t
#define BF_FINISH bf_finish_wide
#define BF_NAME bf_depthwise_i8_wide
#define BF_X int8_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_u8_wide
#define BF_X uint8_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_i16_wide
#define BF_X int16_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
#define BF_NAME bf_depthwise_u16_wide
#define BF_X uint16_t
#include "bf_depthwise_body.h"
#undef BF_NAME
#undef BF_X
