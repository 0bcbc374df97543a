/* Mixed precision on AMX beside AVX-512: Intel's Xeons since Sapphire Rapids. */
#include "native.h"

#ifdef HAS_AMX

#include "avx512.h"

#define TARGET __attribute__((target(AVX512 ",amx-tile,amx-bf16")))
#define CODE code_amx
#define BEGIN _tile_loadconfig(&full_tiles)
#define END _tile_release()
/* Not measured. */
#ifndef STREAMED
#define STREAMED INT64_MAX
#endif

#include "tiles.h"

#include "mixed.h"

#endif
