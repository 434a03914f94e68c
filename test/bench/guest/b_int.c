// Integers: division of 32 and 64 bits, signed and unsigned, with divisors that the compiler does not know; multiplication
// to the double width; bits (rotations, population counts by table, leading zeros).
#include "bench.h"

static uint32_t div_32(uint32_t n)
{
    uint32_t h = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = rng(), d = (r >> 7 & 0xffff) + 1;
        h += r / d ^ r % d;
        h += (uint32_t)((int32_t)(h ^ r) / (int32_t)(-(int32_t)d - 1));
    }
    return h;
}
static uint32_t div_64(uint32_t n)
{
    uint64_t h = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = (uint64_t)rng() << 32 | i, d = (rng() | 1ull) << (i & 15);
        h += v / d ^ v % d;
        h += (uint64_t)((int64_t)(h ^ v) / -(int64_t)d);
    }
    return (uint32_t)(h ^ h >> 32);
}
static uint32_t mul_wide(uint32_t n)
{
    // Montgomery products modulo a prime below 2^31, and powers of a linear congruence of 64 bits.
    uint64_t s = 88172645463325252ull;
    uint32_t m = 2147483647u, x = 7;
    for (uint32_t i = 0; i < n; i++) {
        s = s * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t p = (uint64_t)x * (uint32_t)(s >> 33 | 1);
        p = (p & m) + (p >> 31);
        x = (uint32_t)(p >= m ? p - m : p);
        x += !x;
    }
    return x ^ (uint32_t)s;
}
static uint32_t bits(uint32_t n)
{
    uint32_t h = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = rng();
        h = (h << (r & 31) | h >> (-r & 31)) + (uint32_t)__builtin_clz(r | 1) * 7 + (uint32_t)__builtin_ctz(r | 1u << 31);
        h ^= __builtin_bswap32(r) + (uint32_t)__builtin_parity(h);
    }
    return h;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    run_bench("div_32", 5, 2000000, div_32);
    run_bench("div_64", 5, 1000000, div_64);
    run_bench("mul_wide", 5, 4000000, mul_wide);
    run_bench("int_bits", 5, 4000000, bits);
    return 0;
}
