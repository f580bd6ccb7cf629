/* Depthwise convolutions in vectors of four channels. */
#include "bf_mve.h"

#define BF_NAME bf_depthwise_i8
#define BF_X int8_t
#define BF_LOAD(x) vldrbq_s32(x)
#define BF_LOAD_SOME(x, some) vldrbq_z_s32(x, some)
#include "bf_depthwise_mve_body.h"

#define BF_NAME bf_depthwise_u8
#define BF_X uint8_t
#define BF_LOAD(x) vreinterpretq_s32_u32(vldrbq_u32(x))
#define BF_LOAD_SOME(x, some) vreinterpretq_s32_u32(vldrbq_z_u32(x, some))
#include "bf_depthwise_mve_body.h"

#define BF_NAME bf_depthwise_i16
#define BF_X int16_t
#define BF_LOAD(x) vldrhq_s32(x)
#define BF_LOAD_SOME(x, some) vldrhq_z_s32(x, some)
#include "bf_depthwise_mve_body.h"

#define BF_NAME bf_depthwise_u16
#define BF_X uint16_t
#define BF_LOAD(x) vreinterpretq_s32_u32(vldrhq_u32(x))
#define BF_LOAD_SOME(x, some) vreinterpretq_s32_u32(vldrhq_z_u32(x, some))
#include "bf_depthwise_mve_body.h"
