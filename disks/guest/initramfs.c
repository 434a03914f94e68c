// First program of the guest: /init of the initramfs. It loads the virtio modules the kernel package ships, mounts the
// root file system and hands over to its /sbin/init.
//
// Kernel parameters it honours: root=/dev/NAME (default /dev/vda), rootfstype=, rootflags=, ro, init=.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define MODULES "/modules"
// ioctl_blk; musl brings no kernel headers.
#define BLKFLSBUF _IO(0x12, 97)

static char cmdline[4096];

/** Value of `name=` on the kernel command line (the last one wins, as in the kernel), or `otherwise`. */
static const char *parameter(const char *name, const char *otherwise) {
  static char copies[8][256];
  static int used;
  size_t length = strlen(name);
  const char *found = otherwise;
  for (const char *p = cmdline; *p;) {
    size_t word = strcspn(p, " \n");
    if (word > length && p[length] == '=' && !strncmp(p, name, length) && word - length - 1 < sizeof copies[0] && used < 8) {
      memcpy(copies[used], p + length + 1, word - length - 1);
      copies[used][word - length - 1] = 0;
      found = copies[used];
    }
    p += word;
    p += strspn(p, " \n");
  }
  if (found != otherwise) used++;
  return found;
}

static int flag(const char *name) {
  size_t length = strlen(name);
  for (const char *p = cmdline; *p;) {
    size_t word = strcspn(p, " \n");
    if (word == length && !strncmp(p, name, length)) return 1;
    p += word;
    p += strspn(p, " \n");
  }
  return 0;
}

/** Says why the boot cannot go on. PID 1 ending is a kernel panic, which is what a host watches for. */
static void give_up(const char *what, const char *subject) {
  dprintf(2, "linux-vm: %s %s: %s\n", what, subject, strerror(errno));
  sync();
  _exit(1);
}

/** Modules are numbered by the builder in the order of their dependencies: /modules/00.ko, 01.ko, … */
static void load_modules(void) {
  for (int number = 0;; number++) {
    char path[32];
    snprintf(path, sizeof path, MODULES "/%02d.ko", number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST) dprintf(2, "linux-vm: module %s: %s\n", path, strerror(errno));
    close(fd);
    unlink(path); // the initramfs is RAM: give it back
  }
}

/**
 * Every write to the virtio console, two for each line of text, wakes the thread that serves such consoles; it has
 * nothing to do, and comes to know only when it runs. Of low priority it does not interrupt the writer for that.
 */
static void calm_console_thread(void) {
  for (int pid = 2; pid < 200; pid++) {
    char path[32], name[16] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t got = read(fd, name, sizeof name - 1);
    close(fd);
    if (got <= 0 || strcmp(name, "khvcd\n")) continue;
    setpriority(PRIO_PROCESS, pid, 19);
    return;
  }
}

static void wait_for(const char *device) {
  struct timespec pause = {0, 10 * 1000 * 1000};
  for (int tries = 0; access(device, F_OK); tries++) {
    if (tries == 1000) give_up("after 10 s there is still no root device", device);
    nanosleep(&pause, NULL);
  }
}

/**
 * Forgets the blocks that the search for partitions has read. A machine may go on from a snapshot that was taken before
 * the mount, over a disk that has been written to since.
 */
static void forget_blocks(const char *device) {
  int fd = open(device, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ioctl(fd, BLKFLSBUF, 0);
  close(fd);
}

int main(void) {
  mkdir("/dev", 0755);
  mkdir("/proc", 0555);
  mkdir("/root", 0755);
  if (mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") && errno != EBUSY) give_up("cannot mount", "/dev");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) give_up("cannot mount", "/proc");
  int fd = open("/proc/cmdline", O_RDONLY);
  if (fd >= 0) {
    ssize_t got = read(fd, cmdline, sizeof cmdline - 1);
    if (got > 0) cmdline[got] = 0;
    close(fd);
  }
  load_modules();
  calm_console_thread();

  const char *device = parameter("root", "/dev/vda");
  const char *type = parameter("rootfstype", "ext4"); // the kernel's ext4 driver serves ext2 images
  const char *options = parameter("rootflags", NULL);
  const char *init = parameter("init", "/sbin/init");
  unsigned long flags = MS_NOATIME | (flag("ro") ? MS_RDONLY : 0);
  wait_for(device);
  forget_blocks(device);
  // ext4 mounts ext2 images too, but "ext2" first avoids its complaint in the log about missing features.
  if (mount(device, "/root", "ext2", flags, options) && mount(device, "/root", type, flags, options))
    give_up("cannot mount the root file system from", device);

  mkdir("/root/dev", 0755); // fails harmlessly where they exist
  mkdir("/root/proc", 0555);
  mount("/dev", "/root/dev", NULL, MS_MOVE, NULL);
  mount("/proc", "/root/proc", NULL, MS_MOVE, NULL);
  rmdir(MODULES);
  unlink("/init");
  if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) give_up("cannot switch to", "/root");

  char *arguments[] = {(char *)init, NULL};
  char *environment[] = {"HOME=/", "TERM=linux", NULL};
  execve(init, arguments, environment);
  give_up("cannot run", init);
}
