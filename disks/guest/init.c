// PID 1 of the guest, and the commands that talk to it (poweroff, reboot, halt: the same program under those names).
//
// It does what a container's init does and no more: API file systems, host name, loopback, the guest agent, a login
// shell on the console, reaping, an orderly end. Signals it takes are those systemd takes, so that either's commands
// serve either: SIGINT or SIGRTMIN+5 reboot, SIGRTMIN+4 or SIGUSR2 power off, SIGRTMIN+3 or SIGUSR1 halt.
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AGENT "/usr/lib/linux-vm/agent"
// The kernel's numbers: musl and glibc disagree on SIGRTMIN, and the senders are glibc's.
#define SIGNAL_HALT 37
#define SIGNAL_POWEROFF 38
#define SIGNAL_REBOOT 39

struct service {
  pid_t pid;
  time_t started;
  int failures; // in a row, each within two seconds of its start
};
static struct service agent, shell;

static char *environment[] = {
    "HOME=/root",     "USER=root",           "LOGNAME=root", "SHELL=/bin/bash", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",   "TERM=xterm-256color", "COLORTERM=truecolor", NULL,
};

static time_t seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

static void pause_ms(long ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static void mount_at(const char *type, const char *path, unsigned long flags, const char *options) {
  mkdir(path, 0755);
  if (mount(type, path, type, flags, options) && errno != EBUSY) dprintf(2, "init: cannot mount %s: %s\n", path, strerror(errno));
}

static void mount_all(void) {
  const unsigned long safe = MS_NOSUID | MS_NODEV;
  if (access("/proc/self", F_OK)) mount_at("proc", "/proc", safe | MS_NOEXEC, NULL);
  if (access("/dev/null", F_OK)) mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
  mount_at("sysfs", "/sys", safe | MS_NOEXEC, NULL);
  mount_at("cgroup2", "/sys/fs/cgroup", safe | MS_NOEXEC, "nsdelegate");
  mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
  mount_at("tmpfs", "/dev/shm", safe, "mode=1777");
  mount_at("tmpfs", "/run", safe, "mode=0755,size=20%");
  mount_at("tmpfs", "/tmp", safe, "mode=1777,size=50%"); // as trixie does
  mkdir("/run/lock", 01777);
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

static void set_host_name(void) {
  char name[65];
  int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? 0 : read(fd, name, sizeof name - 1);
  if (fd >= 0) close(fd);
  if (got <= 0) return;
  name[got] = 0;
  sethostname(name, strcspn(name, "\n"));
}

static void bring_up_loopback(void) {
  struct ifreq request = {0};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

/** The terminal a person sits at: the virtio console, else the serial port, else whatever the kernel prints to. */
static int open_console(void) {
  static const char *const names[] = {"/dev/hvc0", "/dev/ttyS0", "/dev/console"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    int fd = open(names[i], O_RDWR | O_NOCTTY);
    if (fd >= 0) return fd;
  }
  return -1;
}

static pid_t start(struct service *service, void (*run)(void)) {
  pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    run();
    _exit(127);
  }
  service->pid = pid;
  service->started = seconds();
  return pid;
}

static void run_shell(void) {
  int console = open_console();
  if (console < 0) _exit(126);
  ioctl(console, TIOCSCTTY, 1); // 1: take it from whoever has it
  dup2(console, 0);
  dup2(console, 1);
  dup2(console, 2);
  if (console > 2) close(console);
  if (chdir("/root")) chdir("/");
  execve("/bin/bash", (char *[]){"-bash", NULL}, environment);
  execve("/bin/sh", (char *[]){"-sh", NULL}, environment);
  dprintf(2, "init: cannot run a shell: %s\n", strerror(errno));
}

static void run_agent(void) {
  chdir("/");
  execve(AGENT, (char *[]){AGENT, NULL}, environment);
}

/** A service that keeps dying at once is tried less and less often, so that it cannot eat the processor. */
static void restart(struct service *service, void (*run)(void)) {
  service->failures = seconds() - service->started < 2 ? service->failures + 1 : 0;
  if (service->failures > 3) pause_ms(service->failures < 10 ? 1000 : 5000);
  start(service, run);
}

static void reap(void) {
  pid_t pid;
  while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
    if (pid == shell.pid) {
      kill(-pid, SIGHUP); // what the shell left behind in its session
      restart(&shell, run_shell);
    } else if (pid == agent.pid) {
      if (access(AGENT, X_OK) == 0) restart(&agent, run_agent);
    }
  }
}

/** Waits until no process is left or the time is over. */
static void wait_for_all(int ms) {
  for (; ms > 0; ms -= 10) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) continue;
    if (pid < 0 && errno == ECHILD) return;
    pause_ms(10);
  }
}

static void end(int how, const char *message) {
  int console = open_console();
  if (console >= 0) dprintf(console, "\r\n%s\r\n", message);
  kill(-1, SIGTERM);
  kill(-1, SIGHUP); // interactive shells ignore SIGTERM
  kill(-1, SIGCONT);
  wait_for_all(2000);
  kill(-1, SIGKILL);
  wait_for_all(1000);
  sync();
  mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
  sync();
  reboot(how);
  for (;;) pause(); // reboot(RB_HALT_SYSTEM) may return
}

static _Noreturn void init_main(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL); // taken one by one by sigwaitinfo below
  reboot(RB_DISABLE_CAD);
  umask(022);
  chdir("/");
  mount_all();
  set_host_name();
  bring_up_loopback();
  start(&shell, run_shell);
  if (access(AGENT, X_OK) == 0) start(&agent, run_agent);
  for (;;) {
    switch (sigwaitinfo(&all, NULL)) {
      case SIGCHLD: reap(); break;
      case SIGINT: case SIGNAL_REBOOT: end(RB_AUTOBOOT, "Restarting."); break;
      case SIGUSR2: case SIGPWR: case SIGNAL_POWEROFF: end(RB_POWER_OFF, "Powering off."); break;
      case SIGUSR1: case SIGNAL_HALT: end(RB_HALT_SYSTEM, "System halted."); break;
      default: break;
    }
  }
}

static int power_main(const char *name, int argc, char **argv) {
  int force = 0;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "-f") || !strcmp(argv[i], "--force")) force = 1;
    else if (!strcmp(argv[i], "-p") || !strcmp(argv[i], "--poweroff")) name = "poweroff";
    else if (!strcmp(argv[i], "-r") || !strcmp(argv[i], "--reboot")) name = "reboot";
    else if (!strcmp(argv[i], "--help")) {
      printf("usage: poweroff|reboot|halt|shutdown [-f]\n  -f, --force  at once, without ending programs (data is still written)\n");
      return 0;
    }
  }
  int halt = !strcmp(name, "halt"), again = !strcmp(name, "reboot");
  if (force) {
    sync();
    reboot(halt ? RB_HALT_SYSTEM : again ? RB_AUTOBOOT : RB_POWER_OFF);
  } else if (!kill(1, halt ? SIGNAL_HALT : again ? SIGNAL_REBOOT : SIGNAL_POWEROFF)) {
    return 0;
  }
  fprintf(stderr, "%s: %s\n", name, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  const char *slash = strrchr(argv[0], '/');
  const char *name = slash ? slash + 1 : argv[0];
  if (getpid() == 1) init_main();
  if (!strcmp(name, "init")) {
    fprintf(stderr, "init: this is PID 1's program; use poweroff, reboot or halt\n");
    return 1;
  }
  return power_main(name, argc, argv);
}
