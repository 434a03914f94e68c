// Pages: a word in each of 8192 pages in random order (TLB misses, no faults), small mappings made, touched and removed,
// and pages that a child of fork writes to (copy on write).
#include "bench.h"
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGES 8192

static uint8_t *map(size_t n)
{
    uint8_t *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(4);
    madvise(p, n, MADV_NOHUGEPAGE);
    return p;
}

static uint32_t page_walk(uint32_t n)
{
    static uint8_t *p;
    uint32_t h = 0;
    if (!p) { p = map((size_t)PAGES * 4096); for (uint32_t i = 0; i < PAGES; i++) p[i * 4096ul] = i; }
    while (n--) {
        uint32_t r = rng();
        uint8_t *word = p + (r % PAGES) * 4096ul + (r >> 20 & 0xffc);
        h += *word;
        *word = h;
    }
    return h;
}

static uint32_t page_map(uint32_t n)
{
    uint32_t h = 0;
    while (n--) {
        uint8_t *p = map(16 * 4096);
        for (int i = 0; i < 16; i++) p[i * 4096] = n + i;
        h = h * 31 + p[5 * 4096];
        if (mprotect(p + 4 * 4096, 4 * 4096, PROT_READ)) exit(5);
        munmap(p, 16 * 4096);
    }
    return h;
}

static uint32_t page_cow(uint32_t n)
{
    static uint8_t *p;
    uint32_t h = 0;
    if (!p) { p = map(1024 * 4096); memset(p, 1, 1024 * 4096); }
    while (n--) {
        pid_t child = fork();
        if (child < 0) exit(6);
        if (!child) {
            for (int i = 0; i < 1024; i++) p[i * 4096] += i + n;
            _exit(p[77 * 4096] & 127);
        }
        int status;
        waitpid(child, &status, 0);
        h = h * 31 + WEXITSTATUS(status);
    }
    return h;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    run_bench("page_walk", 5, 600000, page_walk);
    run_bench("page_map", 5, 500, page_map);
    run_bench("page_cow", 5, 4, page_cow);
    return 0;
}
