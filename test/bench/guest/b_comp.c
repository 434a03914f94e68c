// Compression: an LZ77 with hash chains over text made of a small vocabulary, its decompressor, and an order-0 adaptive
// range coder (binary, bit by bit, as LZMA's).
#include "bench.h"

#define SIZE (256 * 1024)
#define WINDOW 32768
#define HASHES 16384

static uint8_t text[SIZE], packed[SIZE * 2], unpacked[SIZE];
static uint32_t packed_size;

static void make_text(void)
{
    static char words[512][12];
    for (int i = 0; i < 512; i++) {
        int n = 2 + rng() % 9;
        for (int k = 0; k < n; k++) words[i][k] = 'a' + rng() % 26;
        words[i][n] = 0;
    }
    for (uint32_t at = 0; at < SIZE;) {
        // The product of two makes some words far more frequent than others.
        const char *w = words[(rng() % 512) * (rng() % 512) / 512];
        while (*w && at < SIZE) text[at++] = *w++;
        if (at < SIZE) text[at++] = rng() % 12 ? ' ' : '\n';
    }
}

// Tokens: a byte n below 128: n + 1 literals; else a match of (n & 127) + 4 bytes at a distance of two bytes.
static NOINLINE uint32_t pack(const uint8_t *in, uint32_t size, uint8_t *out)
{
    static int32_t head[HASHES], previous[WINDOW];
    uint32_t o = 0, literals = 0;
    memset(head, 0xff, sizeof head);
    for (uint32_t i = 0; i < size;) {
        uint32_t best = 0, from = 0;
        if (i + 4 <= size) {
            uint32_t w;
            memcpy(&w, in + i, 4);
            uint32_t h = (w * 2654435761u) >> 18;
            int32_t at = head[h];
            for (int tries = 24; at >= 0 && i - at < WINDOW && tries; tries--, at = previous[at % WINDOW]) {
                uint32_t n = 0, most = size - i < 131 ? size - i : 131;
                while (n < most && in[at + n] == in[i + n]) n++;
                if (n > best) best = n, from = at;
            }
            previous[i % WINDOW] = head[h];
            head[h] = i;
        }
        if (best >= 4) {
            out[o++] = 128 | (best - 4);
            out[o++] = (i - from) & 255;
            out[o++] = (i - from) >> 8;
            i += best;
            literals = 0;
        } else {
            if (!literals || out[literals - 1] == 127) out[o++] = 0, literals = o;
            else out[literals - 1]++;
            out[o++] = in[i++];
        }
    }
    return o;
}

static NOINLINE uint32_t unpack(const uint8_t *in, uint32_t size, uint8_t *out)
{
    uint32_t o = 0;
    for (uint32_t i = 0; i < size;) {
        uint32_t token = in[i++];
        if (token < 128) for (token++; token--;) out[o++] = in[i++];
        else {
            uint32_t from = o - (in[i] | in[i + 1] << 8);
            i += 2;
            for (token = (token & 127) + 4; token--;) out[o++] = out[from++];
        }
    }
    return o;
}

static uint32_t sum(const uint8_t *p, uint32_t n)
{
    uint32_t a = 1, b = 0;
    for (uint32_t i = 0; i < n; i++) a = (a + p[i]) % 65521, b = (b + a) % 65521;
    return b << 16 | a;
}

static uint32_t comp_pack(uint32_t n)
{
    while (n--) packed_size = pack(text, SIZE, packed);
    return sum(packed, packed_size);
}
static uint32_t comp_unpack(uint32_t n)
{
    if (!packed_size) packed_size = pack(text, SIZE, packed);
    while (n--) if (unpack(packed, packed_size, unpacked) != SIZE) exit(4);
    if (memcmp(text, unpacked, SIZE)) exit(5);
    return sum(unpacked, SIZE);
}

static uint32_t comp_range(uint32_t n)
{
    static uint16_t odds[256];
    uint32_t h = 0;
    while (n--) {
        uint64_t low = 0;
        uint32_t range = 0xffffffff, o = 0;
        for (int i = 0; i < 256; i++) odds[i] = 1024;
        for (uint32_t i = 0; i < SIZE / 4; i++) {
            uint32_t node = 1;
            for (int bit = 7; bit >= 0; bit--) {
                uint32_t one = text[i] >> bit & 1, bound = (range >> 11) * odds[node];
                if (one) low += bound, range -= bound, odds[node] -= odds[node] >> 5;
                else range = bound, odds[node] += (2048 - odds[node]) >> 5;
                node = node * 2 + one;
                while (range < 1u << 24) {
                    packed[o++ & (SIZE - 1)] = low >> 24;
                    h = h * 31 + (uint32_t)(low >> 24);
                    low = (low & 0xffffff) << 8, range <<= 8;
                }
            }
        }
    }
    return h;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    make_text();
    run_bench("comp_pack", 5, 2, comp_pack);
    run_bench("comp_unpack", 5, 30, comp_unpack);
    packed_size = 0;
    run_bench("comp_range", 5, 6, comp_range);
    return 0;
}
