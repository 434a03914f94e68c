// Blocks of memory: the string instructions written out (what the C library takes depends on CPUID), and the C library's
// functions over blocks of mixed sizes. Natively these run with GLIBC_TUNABLES that leave them SSE2, as in the guests.
#include "bench.h"

#define SIZE (256 * 1024)

static uint8_t x[SIZE + 64], y[SIZE + 64];

static void fill(void) { for (int i = 0; i < SIZE + 64; i++) x[i] = y[i] = (uint8_t)(i * 2654435761u >> 24) | 1; }

static uint32_t fold(const uint8_t *p)
{
    uint32_t h = 0;
    for (int i = 0; i < SIZE; i += 61) h = h * 31 + p[i];
    return h;
}

static void movsb(void *to, const void *from, size_t n) { __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory"); }
static void movsl(void *to, const void *from, size_t n) { __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory"); }
static void stosb(void *to, int v, size_t n) { __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory"); }
static void stosl(void *to, int v, size_t n) { __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory"); }

static uint32_t rep_movsb(uint32_t n)
{
    while (n--) movsb(y + (n & 15), x + (n & 31), 16384), movsb(y + 20000 + (n & 7), x + 100, n & 63);
    return fold(y);
}
static uint32_t rep_movsl(uint32_t n)
{
    while (n--) movsl(y + 4 * (n & 15), x + 8 * (n & 31), 4096), movsl(y + 20000, x + 4 * (n & 7), n & 15);
    return fold(y);
}
static uint32_t rep_stos(uint32_t n)
{
    while (n--) stosb(y + (n & 31), n, 8192), stosl(y + 65536, n, 2048), stosb(y + 100000, n, n & 31);
    return fold(y);
}
static uint32_t rep_scas(uint32_t n)
{
    uint32_t h = 0;
    x[1000] = 0;
    while (n--) {
        const uint8_t *p = x + (n & 255);
        size_t left = ~(size_t)0;
        __asm__ volatile("repne scasb" : "+D"(p), "+c"(left) : "a"(0) : "memory", "cc");
        h += (uint32_t)~left;
    }
    x[1000] = 1;
    return h;
}
static uint32_t rep_cmps(uint32_t n)
{
    uint32_t h = 0;
    y[2000] ^= 8;
    while (n--) {
        uint32_t at = 1990 - (n & 127); // Short ones, as strings are: newer processors compare 30 bytes a nanosecond.
        const uint8_t *p = x + at, *q = y + at;
        size_t left = 4096;
        __asm__ volatile("repe cmpsb" : "+D"(p), "+S"(q), "+c"(left)::"memory", "cc");
        h += (uint32_t)left;
    }
    y[2000] ^= 8;
    return h;
}

static const uint32_t sizes[16] = { 8, 24, 3, 64, 100, 17, 256, 40, 1024, 5, 33, 4096, 128, 12, 500, 2000 };

static uint32_t libc_memcpy(uint32_t n)
{
    void *(*volatile f)(void *, const void *, size_t) = memcpy;
    while (n--) f(y + (n * 64 & 65535) + (n & 7), x + (n * 192 & 65535) + (n & 3), sizes[n & 15]);
    return fold(y);
}
static uint32_t libc_memset(uint32_t n)
{
    void *(*volatile f)(void *, int, size_t) = memset;
    while (n--) f(y + (n * 64 & 65535) + (n & 7), n | 1, sizes[n & 15]);
    return fold(y);
}
static uint32_t libc_memcmp(uint32_t n)
{
    int (*volatile f)(const void *, const void *, size_t) = memcmp;
    uint32_t h = 0;
    y[3000] ^= 8;
    while (n--) {
        uint32_t at = n * 64 & 65535;
        int r = f(x + at, y + at, sizes[n & 15]);
        h = h * 31 + (r > 0) + 2 * (r < 0);
    }
    y[3000] ^= 8;
    return h;
}
static uint32_t libc_strlen(uint32_t n)
{
    size_t (*volatile f)(const char *) = strlen;
    uint32_t h = 0;
    for (int i = 0; i < 16; i++) x[i * 4352 + sizes[i]] = 0;
    while (n--) h = h * 31 + (uint32_t)f((const char *)x + (n & 15) * 4352 + (n & 1));
    for (int i = 0; i < 16; i++) x[i * 4352 + sizes[i]] = 1;
    return h;
}

int main(int argc, char **argv)
{
    struct { const char *name; uint32_t iters; bench_fn fn; } all[] = {
        { "rep_movsb", 30000, rep_movsb }, { "rep_movsl", 30000, rep_movsl }, { "rep_stos", 30000, rep_stos },
        { "rep_scas", 8000, rep_scas }, { "rep_cmps", 150000, rep_cmps },
        { "libc_memcpy", 800000, libc_memcpy }, { "libc_memset", 800000, libc_memset },
        { "libc_memcmp", 800000, libc_memcmp }, { "libc_strlen", 800000, libc_strlen },
    };
    g_argc = argc; g_argv = argv;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) { fill(); run_bench(all[i].name, 5, all[i].iters, all[i].fn); }
    return 0;
}
