// Calls: recursion (fib, Ackermann's function), calls through a table of functions in an order that cannot be guessed, and
// qsort, which calls a comparator.
#include "bench.h"

static NOINLINE uint32_t fib(uint32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static uint32_t call_fib(uint32_t n) { uint32_t h = 0; while (n--) h = h * 31 + fib(26 + (n & 1)); return h; }

static NOINLINE uint32_t ackermann(uint32_t m, uint32_t n)
{
    if (!m) return n + 1;
    return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

static uint32_t call_deep(uint32_t n) { uint32_t h = 0; while (n--) h = h * 31 + ackermann(2, 600 + n); return h; }

#define F(name, body) static NOINLINE uint32_t name(uint32_t x, uint32_t y) { return body; }
F(f0, x + y) F(f1, x ^ (y << 1)) F(f2, x - y) F(f3, x * 3 + y) F(f4, (x >> 1) ^ y) F(f5, x | (y & 255)) F(f6, x + (y >> 3))
F(f7, ~x + y) F(f8, x ^ y ^ 0x55) F(f9, x * y + 1) F(fa, (x << 3) - y) F(fb, x & ~y) F(fc, (x >> 5) + y) F(fd, y - x)
F(fe, x + 7 * y) F(ff, (x << 7) | (x >> 25))
static uint32_t (*const functions[16])(uint32_t, uint32_t) = {
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, fa, fb, fc, fd, fe, ff,
};

static uint32_t call_table(uint32_t n)
{
    uint32_t x = 1;
    while (n--) { uint32_t r = rng(); x = functions[r >> 28](x, r); }
    return x;
}

static int ascending(const void *p, const void *q)
{
    uint32_t x = *(const uint32_t *)p, y = *(const uint32_t *)q;
    return x < y ? -1 : x > y;
}
static int by_low_bits(const void *p, const void *q)
{
    uint32_t x = *(const uint32_t *)p * 2654435761u, y = *(const uint32_t *)q * 2654435761u;
    return x < y ? -1 : x > y;
}

static uint32_t call_qsort(uint32_t n)
{
    static uint32_t v[20000];
    uint32_t h = 0;
    while (n--) {
        for (int i = 0; i < 20000; i++) v[i] = rng();
        qsort(v, 20000, 4, n & 1 ? ascending : by_low_bits);
        for (int i = 0; i < 20000; i += 97) h = h * 31 + v[i];
    }
    return h;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    run_bench("call_fib", 5, 16, call_fib);
    run_bench("call_deep", 5, 12, call_deep);
    run_bench("call_table", 5, 1500000, call_table);
    run_bench("call_qsort", 5, 10, call_qsort);
    return 0;
}
