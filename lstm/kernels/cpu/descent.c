/* The entry point of an optimizer's step. */
#include <stddef.h>

#include "native.h"

__attribute__((visibility("default"))) void nightcast_descend(const descent *p) { code_of(p->lanes)->descend(p); }
