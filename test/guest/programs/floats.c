/* Printing and reading of numbers, rounding modes and exceptions, of SSE and of x87. */
#include "check.h"
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#pragma STDC FENV_ACCESS ON

static double d(uint64_t bits) {
  double x;
  memcpy(&x, &bits, 8);
  return x;
}

static void printing(void) {
  char text[512];
  for (int i = 0; i < 2000; i++) {
    double x = d(next());
    if (!isfinite(x)) continue;
    long double y = (long double)x * d(0x3ff0000000000000u | next() >> 12);
    snprintf(text, sizeof text, "%.17g %a %e %.3f %Lg %.21Lg %La", x, x, x, fmod(x, 1e6), y, y, y);
    add(text, strlen(text));
    char *end;
    double back = strtod(text, &end);
    if (back != x) printf("%s does not come back\n", text);
    long double z = strtold(text, &end);
    add(&z, 10);
  }
  SAY("printf, strtod");
  printf("%.20f %.30Le %.40g\n", 0.1, 1.0L / 3, 1e23);
}

#define EACH(type, name)                                                                  \
  static void name(void) {                                                                \
    static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};      \
    for (int m = 0; m < 4; m++) {                                                          \
      fesetround(modes[m]);                                                                \
      for (int i = 0; i < 3000; i++) {                                                     \
        volatile type x = (type)d((next() & 0x800fffffffffffff) | (uint64_t)(1023 - 40 + next() % 80) << 52); \
        volatile type y = (type)d((next() & 0x800fffffffffffff) | (uint64_t)(1023 - 40 + next() % 80) << 52); \
        if (i % 97 == 0) y = 0;                                                            \
        if (i % 89 == 0) x = (type)d(next());                                              \
        feclearexcept(FE_ALL_EXCEPT);                                                      \
        volatile type r[8] = {x + y, x - y, x * y, x / y};                                 \
        r[4] = (type)(float)x;                                                             \
        r[5] = (type)(double)(x * (type)0x1p-1020);                                        \
        r[6] = (type)rintl((long double)x);                                                \
        r[7] = (type)sqrtl((long double)(y < 0 ? -y : y));                                 \
        int raised = fetestexcept(FE_ALL_EXCEPT);                                          \
        ADD(raised);                                                                       \
        for (int k = 0; k < 8; k++) {                                                      \
          type v = r[k];                                                                   \
          if (v != v) v = 0;                                                               \
          add(&v, sizeof(type) == 16 ? 10 : sizeof(type));                                 \
        }                                                                                  \
        long long n = x > -1e15 && x < 1e15 ? llrintl((long double)x) : 0;                 \
        ADD(n);                                                                            \
      }                                                                                    \
    }                                                                                      \
    fesetround(FE_TONEAREST);                                                              \
    SAY(#type);                                                                            \
  }
EACH(float, singles)
EACH(double, doubles)
typedef long double extended;
EACH(extended, extendeds)

static void environments(void) {
  fenv_t saved;
  feholdexcept(&saved);
  volatile double zero = 0, one = 1, huge = 1e308;
  volatile double r = one / zero + huge * huge;
  int raised = fetestexcept(FE_ALL_EXCEPT);
  fesetenv(&saved);
  printf("held %x, kept %x, %g\n", raised, fetestexcept(FE_ALL_EXCEPT), r);
  feraiseexcept(FE_UNDERFLOW);
  printf("raised %x\n", fetestexcept(FE_ALL_EXCEPT));
}

int main(void) {
  printing();
  singles();
  doubles();
  extendeds();
  environments();
  return 0;
}
