/* matmul.h -- matrix products as C functions; see matmul.c. */
#ifndef SUMI_MATMUL_H
#define SUMI_MATMUL_H

#include "../op.h"

su_tensor *su_matmul(su_tensor *a, su_tensor *b, bool ta, bool tb);      /* [m,n]; ta, tb: transposed first */
su_tensor *su_linear(su_tensor *x, su_tensor *w,
                     su_tensor *b); /* x [n,ci], w [co,ci], b [co] or NULL: [n,co] */

#endif
