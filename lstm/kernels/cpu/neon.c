/* AArch64: NEON, thirty-two registers of four floats. */
#ifdef __aarch64__

#include <arm_neon.h>

#define LANES 4
#define UNITS_1 3
#define UNITS_2 3
#define ROWS_1 12
#define ROWS_2 12
#define WEIGHT_ROWS 6
#define TARGET
#define LOWER(a, b) vminq_f32(a, b)
#define HIGHER(a, b) vmaxq_f32(a, b)
#define ROOT(a) vsqrtq_f32(a)
#define CODE code_neon

#include "recurrent.h"

#endif
