// Devices, as the guest sees them: the disk past the page cache (O_DIRECT), first what has to be fetched and unpacked, then
// blocks that the machine has in its cache, in sequence and at random; and the console, text until it is drained: lines as
// any program prints them, whose ends the kernel's terminal layer writes one by one, and a raw terminal's, by the piece.
// Iterations are MB, and reads of 4 KiB for io_random.
#include "bench.h"
#include <fcntl.h>
#include <termios.h>

#define MB 1000000
#define REGION (48u << 20) /* less than the cache holds */
#define START (160ull << 20)

static int disk = -1;
static uint8_t *buffer;

static void open_disk(void)
{
    if (disk >= 0) return;
    disk = open("/dev/vda", O_RDONLY | O_DIRECT);
    if (disk < 0 || posix_memalign((void **)&buffer, 4096, 1 << 20)) exit(4);
}

static void read_at(uint64_t at, size_t n)
{
    if (pread(disk, buffer, n, at) != (ssize_t)n) exit(5);
}

static uint32_t region(uint64_t start)
{
    open_disk();
    for (uint64_t at = 0; at < REGION; at += 1 << 20) read_at(start + at, 1 << 20);
    return REGION;
}

static uint32_t io_first(uint32_t n) { return n * 0 + region(START + REGION); }
static uint32_t io_sequential(uint32_t n) { return n * 0 + region(START); }

static uint32_t io_random(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) read_at(START + (rng() % (REGION / 4096)) * 4096ull, 4096);
    return n;
}

static uint32_t print(uint32_t n, int raw)
{
    static char text[50000];
    struct termios before, now;
    int console = open("/dev/hvc0", O_WRONLY | O_NOCTTY);
    if (console < 0 || tcgetattr(console, &before)) exit(6);
    now = before;
    if (raw) cfmakeraw(&now);
    else now.c_oflag |= OPOST | ONLCR;
    tcsetattr(console, TCSADRAIN, &now);
    for (unsigned i = 0; i < sizeof text; i++) text[i] = i % 80 == 79 ? '\n' : 'a' + i % 26;
    for (uint32_t sent = 0; sent < n * MB; sent += sizeof text)
        for (size_t at = 0; at < sizeof text;) {
            ssize_t k = write(console, text + at, sizeof text - at);
            if (k <= 0) exit(7);
            at += k;
        }
    tcdrain(console);
    tcsetattr(console, TCSADRAIN, &before);
    close(console);
    return n;
}

static uint32_t io_console(uint32_t n) { return print(n, 0); }
static uint32_t io_raw(uint32_t n) { return print(n, 1); }

// To whoever runs the program: through a pipe, the agent and its virtio port.
static uint32_t io_port(uint32_t n)
{
    static char text[50000];
    for (unsigned i = 0; i < sizeof text; i++) text[i] = i % 80 == 79 ? '\n' : 'a' + i % 26;
    for (uint32_t sent = 0; sent < n * MB; sent += sizeof text) out_line(text, sizeof text);
    out_line("\n", 1);
    return n;
}

int main(int argc, char **argv)
{
    g_argc = argc; g_argv = argv;
    run_bench("io_first", 1, REGION / MB, io_first);
    if (wanted("io_sequential") || wanted("io_random")) region(START);
    run_bench("io_sequential", 5, REGION / MB, io_sequential);
    run_bench("io_random", 5, 4000, io_random);
    run_bench("io_console", 4, 1, io_console);
    run_bench("io_raw", 4, 5, io_raw);
    run_bench("io_port", 4, 2, io_port);
    return 0;
}
