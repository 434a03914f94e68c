/* What the programs share: a generator of numbers, and a sum over what they did. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t seed = 0x9e3779b97f4a7c15u;
static inline uint64_t next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}

static uint64_t sum = 0xcbf29ce484222325u;
static inline void add(const void *p, size_t n) {
  const unsigned char *b = p;
  while (n--) sum = (sum ^ *b++) * 0x100000001b3u;
}
#define ADD(x) add(&(x), sizeof(x))
/* Prints the sum over what was done since the last time. */
#define SAY(what) printf("%-24s %016llx\n", what, (unsigned long long)sum), sum = 0xcbf29ce484222325u
