/* Arithmetic of all widths, loops that a compiler turns into vectors, bits, strings, sorting. */
#include "check.h"
#include <stdlib.h>
#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

#define N 4096
static int8_t a8[N], b8[N];
static uint16_t a16[N], b16[N];
static int32_t a32[N], b32[N];
static uint64_t a64[N], b64[N];
static float af[N], bf[N];
static double ad[N], bd[N];

static void vectors(void) {
  for (int i = 0; i < N; i++) {
    a8[i] = (int8_t)next(), b8[i] = (int8_t)next();
    a16[i] = (uint16_t)next(), b16[i] = (uint16_t)next();
    a32[i] = (int32_t)next(), b32[i] = (int32_t)next();
    a64[i] = next(), b64[i] = next();
    af[i] = (float)(int32_t)next() / 65536, bf[i] = (float)(int32_t)next() / 256;
    ad[i] = (double)(int64_t)next() / 1e9, bd[i] = (double)(int64_t)next() / 1e3;
  }
  for (int i = 0; i < N; i++) a8[i] = (int8_t)(a8[i] > b8[i] ? a8[i] - b8[i] : a8[i] + b8[i] / 3);
  for (int i = 0; i < N; i++) a16[i] = (uint16_t)((a16[i] * b16[i]) >> 7);
  for (int i = 0; i < N; i++) a32[i] = (int32_t)((uint32_t)a32[i] * (uint32_t)b32[i]) ^ (a32[i] >> (b32[i] & 31));
  for (int i = 0; i < N; i++) a64[i] = (a64[i] << (b64[i] & 63)) + (b64[i] >> 3) * 5;
  for (int i = 0; i < N; i++) af[i] = af[i] * bf[i] + (af[i] < bf[i] ? 1.5f : -2.5f);
  for (int i = 0; i < N; i++) ad[i] = ad[i] / bd[i] - (double)(int32_t)a32[i];
  for (int i = 0; i < N; i++) b32[i] = (int32_t)(ad[i] > 2e9 || ad[i] < -2e9 ? 0 : ad[i]);
  for (int i = 0; i < N; i++) bd[i] = (double)af[i] + (double)a16[i];
  for (int i = 0; i < N; i++) b8[i] = (int8_t)(a32[i] >> 5), b16[i] = (uint16_t)(a32[i] < 0 ? 0 : a32[i] > 65535 ? 65535 : a32[i]);
  int32_t least = a32[0], most = a32[0], total = 0;
  for (int i = 0; i < N; i++) {
    least = a32[i] < least ? a32[i] : least;
    most = a32[i] > most ? a32[i] : most;
    total += a8[i];
  }
  ADD(least), ADD(most), ADD(total);
  ADD(a8), ADD(b8), ADD(a16), ADD(b16), ADD(a32), ADD(b32), ADD(a64), ADD(af), ADD(ad), ADD(bd);
  SAY("vectors");
}

static void scalars(void) {
  for (int i = 0; i < 20000; i++) {
    uint64_t x = next(), y = next() >> (next() & 63);
    y |= !y;
    unsigned __int128 p = (unsigned __int128)x * y;
    __int128 q = (__int128)(int64_t)x * (int64_t)y;
    ADD(p), ADD(q);
    p = p / (y | 1u << 31) + p % y;
    q /= (int64_t)(y >> 1) + 1;
    int64_t s = (int64_t)x / ((int64_t)(y >> 1) + 1);
    int32_t t = (int32_t)x % ((int32_t)(y & 0xffff) + 1);
    ADD(p), ADD(q), ADD(s), ADD(t);
    uint64_t r = (x << (y & 63) | x >> (-y & 63)) + (uint64_t)__builtin_popcountll(x) + (uint64_t)__builtin_ctzll(y) + (uint64_t)__builtin_clzll(y);
    r ^= __builtin_bswap64(x);
    uint32_t o;
    r += __builtin_add_overflow((uint32_t)x, (uint32_t)y, &o);
    r += __builtin_mul_overflow((int32_t)x, (int32_t)y, (int32_t *)&o);
    ADD(r), ADD(o);
#ifdef __SSE4_2__
    r = _mm_crc32_u64(_mm_crc32_u8((uint32_t)r, (unsigned char)y), x);
    ADD(r);
#endif
  }
  SAY("scalars");
}

static int order(const void *x, const void *y) {
  int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
  return (a > b) - (a < b);
}

static void sorting(void) {
  static int32_t v[50000];
  for (int i = 0; i < 50000; i++) v[i] = (int32_t)next() >> (next() % 24);
  qsort(v, 50000, sizeof *v, order);
  int found = 0;
  for (int32_t k = -5000; k < 5000; k++) found += bsearch(&k, v, 50000, sizeof *v, order) != 0;
  ADD(v), ADD(found);
  SAY("qsort, bsearch");
}

static void strings(void) {
  static char text[70000], copy[70000];
  for (int i = 0; i < 65000; i++) text[i] = (char)('a' + next() % 5);
  for (int i = 0; i < 3000; i++) {
    size_t from = next() % 60000, to = next() % 60000, n = next() % (i % 7 ? 200 : 5000);
    memcpy(copy + to, text + from, n);
    memmove(copy + to / 2, copy + to / 2 + next() % 64, n);
    memset(copy + from, (int)next(), n % 77);
    int c = memcmp(copy + from, text + to, n);
    c = (c > 0) - (c < 0);
    char *p = strstr(text + from, "abcdeab");
    long at = p ? p - text : -1;
    char *e = memchr(text + to, 'e', n);
    at += e ? e - text : -1;
    size_t span = strspn(text + from, "abcd") + strcspn(text + to, "e") + strlen(text + from);
    ADD(c), ADD(at), ADD(span);
  }
  ADD(copy);
  SAY("strings");
}

int main(void) {
  vectors();
  scalars();
  sorting();
  strings();
  return 0;
}
