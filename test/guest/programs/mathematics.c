/* The mathematical library: elementary functions in doubles and (on the x87) in long doubles, as hexadecimal. */
#include "check.h"
#include <complex.h>
#include <math.h>

#define CHECK(name, call)                                     \
  do {                                                        \
    for (int i = 0; i < 2000; i++) {                          \
      double u = (double)(next() >> 11) * 0x1p-53;            \
      double x = (u - 0.5) * (i % 3 == 0 ? 1e3 : i % 3 == 1 ? 4 : 0.01); \
      double y = (double)(next() >> 11) * 0x1p-50 + 0.001;    \
      (void)x, (void)y;                                       \
      call;                                                   \
    }                                                         \
    SAY(name);                                                \
  } while (0)
#define D(f) CHECK(#f, double r = f; if (r != r) r = 0; ADD(r))
/*
 * By instructions of the x87 that are not exact: Intel promises less than one unit in the last of their 64 bits, and
 * processors differ in it. 24 bits are the same everywhere.
 */
#define T(f) CHECK(#f, float r = (float)(f); if (r != r) r = 0; ADD(r))
#define L(f) CHECK(#f, long double r = f; if (r != r) r = 0; add(&r, 10))

int main(void) {
  D(sin(x)); D(cos(x)); D(tan(x)); D(asin(x / 1000)); D(acos(x / 1000)); D(atan(x)); D(atan2(x, y));
  D(exp(x)); D(exp2(x)); D(expm1(x)); D(log(y)); D(log2(y)); D(log10(y)); D(log1p(y)); D(pow(y, x / 50));
  D(sinh(x)); D(cosh(x)); D(tanh(x)); D(cbrt(x)); D(hypot(x, y)); D(erf(x)); D(tgamma(y)); D(lgamma(y));
  D(fmod(x, y)); D(remainder(x, y)); D(fma(x, y, x)); D(floor(x)); D(ceil(x)); D(round(x)); D(trunc(x)); D(rint(x));
  D(cabs(csqrt(x + y * I))); D(creal(cexp(x / 100 + y * I)));
  L(sinl(x)); L(cosl(x)); L(tanl(x)); L(fmodl(x, y)); L(remainderl(x, y)); L(sqrtl(y)); L(floorl(x)); L(rintl(x));
  T(expl(x)); T(exp2l(x)); T(expm1l(x)); T(logl(y)); T(log2l(y)); T(log10l(y)); T(log1pl(y)); T(atanl(x)); T(atan2l(x, y));
  T(asinl(x / 1000)); T(acosl(x / 1000)); L(powl(y, x / 50)); L(ldexpl(x, 7)); L(frexpl(x, &(int){0}));
  return 0;
}
