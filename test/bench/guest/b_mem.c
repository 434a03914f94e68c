// Memory: streams over arrays of doubles that no cache near the processor holds (copy, scale, add, triad), and chasing
// pointers through a random cycle in 64 KiB, 1 MiB and 16 MiB: each load waits for the one before it.
#include "bench.h"

#define N (512 * 1024) /* doubles an array: 4 MiB */

static double *a, *b, *c;

static void streams_prepare(void)
{
    if (a) return;
    a = malloc(N * sizeof *a), b = malloc(N * sizeof *b), c = malloc(N * sizeof *c);
    for (int i = 0; i < N; i++) a[i] = i & 1023, b[i] = (i >> 3) & 255, c[i] = 1;
}

static uint32_t fold(const double *x)
{
    uint32_t h = 0;
    for (int i = 0; i < N; i += 4099) {
        uint32_t w[2];
        memcpy(w, x + i, 8);
        h = h * 31 + (w[0] ^ w[1]);
    }
    return h;
}

// The pointers come in from outside, so that the compiler does not know that they never overlap and call memcpy.
static NOINLINE void copy(double *to, const double *from, int n)
{
    for (int i = 0; i < n; i++) { to[i] = from[i]; __asm__ volatile("" ::: "memory"); }
}
static NOINLINE void scale(double *to, const double *from, double s, int n)
{
    for (int i = 0; i < n; i++) to[i] = s * from[i];
}
static NOINLINE void add(double *to, const double *x, const double *y, int n)
{
    for (int i = 0; i < n; i++) to[i] = x[i] + y[i];
}
static NOINLINE void triad(double *to, const double *x, const double *y, double s, int n)
{
    for (int i = 0; i < n; i++) to[i] = x[i] + s * y[i];
}

static uint32_t mem_copy(uint32_t n) { for (; n; n--) copy(c, a, N); return fold(c); }
static uint32_t mem_scale(uint32_t n) { for (; n; n--) scale(b, c, 0.5, N); return fold(b); }
static uint32_t mem_add(uint32_t n) { for (; n; n--) add(c, a, b, N); return fold(c); }
static uint32_t mem_triad(uint32_t n) { for (; n; n--) triad(a, b, c, 0.25, N); return fold(a); }

// Slots of a cache line each, linked into one cycle in random order (Sattolo's shuffle).
struct slot { struct slot *next; uint32_t value; char fill[64 - sizeof(void *) - 4]; };

static uint32_t chase(struct slot **memory, uint32_t bytes, uint32_t steps)
{
    uint32_t count = bytes / sizeof(struct slot);
    if (!*memory) {
        uint32_t *order = malloc(count * 4);
        struct slot *slots = *memory = malloc(bytes);
        for (uint32_t i = 0; i < count; i++) order[i] = i;
        for (uint32_t i = count - 1; i; i--) {
            uint32_t j = rng() % i, t = order[i];
            order[i] = order[j], order[j] = t;
        }
        for (uint32_t i = 0; i < count; i++) {
            slots[order[i]].next = slots + order[(i + 1) % count];
            slots[order[i]].value = i * 2654435761u;
        }
        free(order);
    }
    struct slot *at = *memory;
    uint32_t h = 0;
    while (steps--) h ^= at->value + steps, at = at->next;
    return h;
}

static uint32_t chase_64k(uint32_t n) { static struct slot *m; return chase(&m, 64 << 10, n); }
static uint32_t chase_1m(uint32_t n) { static struct slot *m; return chase(&m, 1 << 20, n); }
static uint32_t chase_16m(uint32_t n) { static struct slot *m; return chase(&m, 16 << 20, n); }

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    if (argc < 2 || !strncmp(argv[1], "mem", 3)) streams_prepare();
    run_bench("mem_copy", 5, 40, mem_copy);
    run_bench("mem_scale", 5, 40, mem_scale);
    run_bench("mem_add", 5, 30, mem_add);
    run_bench("mem_triad", 5, 30, mem_triad);
    run_bench("chase_64k", 5, 4000000, chase_64k);
    run_bench("chase_1m", 5, 1500000, chase_1m);
    run_bench("chase_16m", 5, 300000, chase_16m);
    return 0;
}
