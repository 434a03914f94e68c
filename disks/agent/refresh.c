// What must not be the same in all machines that go on from one snapshot: random numbers, clock, machine-id, host name
// and network address. The host asks for it after a resume and after a boot.
#include "agent.h"
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// random(4); musl brings no kernel headers.
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)
#define SEED_BYTES 64
#define MACHINE_ID "/etc/machine-id"
/** As systemd has it on a disk that is not to be written: the id lives in /run and is mounted over the empty file. */
#define TRANSIENT_ID "/run/machine-id"

static int add_entropy(const uint8_t *seed) {
  struct {
    int entropy_bits, size;
    uint8_t bytes[SEED_BYTES];
  } pool = {.entropy_bits = SEED_BYTES * 8, .size = SEED_BYTES};
  memcpy(pool.bytes, seed, SEED_BYTES);
  int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  // Added entropy is used at the next reseeding, which may be a minute away: ask for it now.
  int error = ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG) ? errno : 0;
  close(fd);
  return error;
}

/** An id that the disk itself has stays. */
static int set_machine_id(const char *id) {
  struct stat disk, own;
  if (stat(MACHINE_ID, &disk)) return errno == ENOENT ? 0 : errno;
  int mounted = !stat(TRANSIENT_ID, &own) && own.st_dev == disk.st_dev && own.st_ino == disk.st_ino;
  if (disk.st_size && !mounted) return 0;
  int fd = open(TRANSIENT_ID, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
  if (fd < 0) return errno;
  int error = dprintf(fd, "%s\n", id) < 0 ? errno : 0;
  close(fd);
  if (!error && !mounted && mount(TRANSIENT_ID, MACHINE_ID, NULL, MS_BIND, NULL)) error = errno;
  return error;
}

/** A machine without a network card needs no address. */
static int set_address(const uint8_t *mac) {
  struct ifreq request = {.ifr_name = "eth0"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  memcpy(request.ifr_hwaddr.sa_data, mac, 6);
  int error = ioctl(fd, SIOCSIFHWADDR, &request) && errno != ENODEV ? errno : 0;
  close(fd);
  return error;
}

int refresh(struct reader *reader) {
  static const uint8_t none[6];
  struct timespec time = {.tv_sec = (int64_t)read_number(reader, 8)};
  time.tv_nsec = read_number(reader, 4);
  if (reader->end - reader->at < SEED_BYTES + 6) return EINVAL;
  const uint8_t *seed = reader->at, *mac = seed + SEED_BYTES;
  reader->at += SEED_BYTES + 6;
  const char *id = read_string(reader), *name = read_string(reader);
  if (reader->broken || (*id && strlen(id) != 32)) return EINVAL;
  // Each of them is done whatever becomes of the others.
  int error = add_entropy(seed);
  if (clock_settime(CLOCK_REALTIME, &time) && !error) error = errno;
  int more = *id ? set_machine_id(id) : 0;
  if (!error) error = more;
  if (*name && sethostname(name, strlen(name)) && !error) error = errno;
  if (memcmp(mac, none, 6) && (more = set_address(mac)) && !error) error = more;
  return error;
}
