/* Mixed precision on AVX-512 alone. */
#include "native.h"

#ifdef HAS_BF16

#include "avx512.h"

#define TARGET __attribute__((target(AVX512)))
#define CODE code_bf16
#define BEGIN (void)0
#define END (void)0
/* Measured on an EPYC: two cores with 1 MB each, and 32 MB together. */
#ifndef STREAMED
#define STREAMED (8 << 20)
#endif

#include "dots.h"

#include "mixed.h"

#endif
