// Programs started for the host: their pipes or terminal, credit in both directions, signals and end.
#include "agent.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MAX_PROCESSES 256
#define UNSET 0xffffffffu

struct chunk {
  struct chunk *next;
  size_t length, done;
  uint8_t bytes[];
};

struct process {
  struct process *next;
  uint32_t id;
  pid_t pid;
  int ended;            // reaped, and EXIT sent
  int terminal;         // standard input and output are one descriptor, a terminal's master
  int start;            // pipe on which the child tells why exec failed; -1 once it has run
  int fds[3];           // our ends, by enum stream; -1 when closed
  uint32_t credit[3];   // bytes the host will take
  struct chunk *input;  // for standard input, waiting for room in the pipe
  struct chunk **tail;
  int input_over;
  int status;           // of waitpid, kept until `start` is answered
  int reaped;
};

static struct process *processes;
static int process_count;

static struct process *find(uint32_t id) {
  struct process *process = processes;
  while (process && process->id != id) process = process->next;
  return process;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void drop_input(struct process *process) {
  while (process->input) {
    struct chunk *chunk = process->input;
    process->input = chunk->next;
    free(chunk);
  }
  process->tail = &process->input;
}

static void close_input(struct process *process) {
  drop_input(process);
  close_fd(&process->fds[STREAM_STDIN]);
}

static void forget(struct process *process) {
  struct process **link = &processes;
  while (*link != process) link = &(*link)->next;
  *link = process->next;
  close_input(process);
  close_fd(&process->fds[STREAM_STDOUT]);
  close_fd(&process->fds[STREAM_STDERR]);
  close_fd(&process->start);
  free(process);
  process_count--;
}

static void forget_if_over(struct process *process) {
  if (process->ended && process->fds[STREAM_STDOUT] < 0 && process->fds[STREAM_STDERR] < 0) forget(process);
}

static void end_stream(struct process *process, int stream) {
  uint8_t number = stream;
  close_fd(&process->fds[stream]);
  send_frame(END, process->id, &number, 1);
}

struct launch {
  const char **argv, **envp;
  const char *cwd;
  uint32_t uid, gid;
  const char *slave; // of the terminal, or NULL
  struct winsize size;
  int fds[3];
};

/** In the child. @returns only when something failed, with errno set */
static void launch(const struct launch *launch) {
  struct passwd *user = getpwuid(launch->uid == UNSET ? 0 : launch->uid);
  setsid();
  int fds[3] = {launch->fds[0], launch->fds[1], launch->fds[2]};
  if (launch->slave) {
    int slave = open(launch->slave, O_RDWR);
    if (slave < 0) return;
    ioctl(slave, TIOCSCTTY, 0);
    ioctl(slave, TIOCSWINSZ, &launch->size);
    fds[0] = fds[1] = fds[2] = slave;
  }
  for (int i = 0; i < 3; i++) // away from 0 to 2 first, in case one of them is there
    if (fds[i] < 3 && (fds[i] = fcntl(fds[i], F_DUPFD, 3)) < 0) return;
  for (int i = 0; i < 3; i++)
    if (dup2(fds[i], i) < 0) return;

  signal(SIGPIPE, SIG_DFL);
  signal(SIGHUP, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);

  if (launch->uid != UNSET || launch->gid != UNSET) {
    gid_t gid = launch->gid != UNSET ? launch->gid : user ? user->pw_gid : launch->uid;
    if (user ? initgroups(user->pw_name, gid) : setgroups(1, &gid)) return;
    if (setgid(gid)) return;
    if (launch->uid != UNSET && setuid(launch->uid)) return;
  }
  if (*launch->cwd ? chdir(launch->cwd) : !user || chdir(user->pw_dir)) {
    if (*launch->cwd) return;
    chdir("/");
  }

  clearenv();
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("LANG", "C.UTF-8", 1);
  if (launch->slave) setenv("TERM", "xterm-256color", 1);
  if (user) {
    setenv("HOME", user->pw_dir, 1);
    setenv("USER", user->pw_name, 1);
    setenv("LOGNAME", user->pw_name, 1);
    setenv("SHELL", *user->pw_shell ? user->pw_shell : "/bin/sh", 1);
  }
  for (const char **entry = launch->envp; *entry; entry++) putenv((char *)*entry);
  execvp(launch->argv[0], (char **)launch->argv);
}

/** `argv` or `envp`: a count, then that many strings. @returns NULL when the frame is broken or memory is short */
static const char **read_strings(struct reader *reader) {
  uint32_t count = read_number(reader, 4);
  if (count > MAX_PAYLOAD) return NULL;
  const char **strings = calloc(count + 1, sizeof *strings);
  for (uint32_t i = 0; strings && i < count; i++) strings[i] = read_string(reader);
  return strings;
}

static int open_pair(int ours_is_reader, int *ours, int *theirs) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC)) return -1;
  *ours = fds[ours_is_reader ? 0 : 1];
  *theirs = fds[ours_is_reader ? 1 : 0];
  fcntl(*ours, F_SETFL, O_NONBLOCK);
  return 0;
}

static int start(struct process *process, struct launch *request) {
  int theirs[3] = {-1, -1, -1}, told[2] = {-1, -1}, failed = 0;
  if (process->terminal) {
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    process->fds[STREAM_STDOUT] = master;
    if (master < 0 || grantpt(master) || unlockpt(master)) return errno;
    process->fds[STREAM_STDIN] = fcntl(master, F_DUPFD_CLOEXEC, 3);
    request->slave = ptsname(master);
    if (!request->slave || process->fds[STREAM_STDIN] < 0) return errno;
  } else {
    for (int i = 0; i < 3 && !failed; i++)
      if (open_pair(i != STREAM_STDIN, &process->fds[i], &theirs[i])) failed = errno;
  }
  if (!failed && pipe2(told, O_CLOEXEC)) failed = errno;
  if (!failed) {
    memcpy(request->fds, theirs, sizeof theirs);
    process->pid = fork();
    if (process->pid < 0) failed = errno;
    if (process->pid == 0) {
      launch(request);
      int why = errno;
      write(told[1], &why, sizeof why);
      _exit(127);
    }
  }
  for (int i = 0; i < 3; i++) close_fd(&theirs[i]);
  close_fd(&told[1]);
  if (failed) close_fd(&told[0]);
  process->start = told[0];
  return failed;
}

void process_spawn(uint32_t id, struct reader *reader) {
  struct launch request = {0};
  int terminal = read_number(reader, 1) & 1;
  request.size.ws_col = read_number(reader, 2);
  request.size.ws_row = read_number(reader, 2);
  request.uid = read_number(reader, 4);
  request.gid = read_number(reader, 4);
  request.cwd = read_string(reader);
  request.argv = read_strings(reader);
  request.envp = read_strings(reader);
  int failed = 0;
  struct process *process = NULL;
  if (reader->broken || !request.argv || !request.envp || !request.argv[0]) failed = EINVAL;
  else if (process_count >= MAX_PROCESSES) failed = EAGAIN;
  else if (!(process = calloc(1, sizeof *process))) failed = ENOMEM;
  if (!failed) {
    process->id = id;
    process->terminal = terminal;
    process->start = process->fds[0] = process->fds[1] = process->fds[2] = -1;
    process->credit[STREAM_STDOUT] = process->credit[STREAM_STDERR] = WINDOW;
    process->tail = &process->input;
    process->next = processes;
    processes = process;
    process_count++;
    failed = start(process, &request);
    if (failed) forget(process);
  }
  if (failed) send_number(FAILED, id, failed);
  free(request.argv);
  free(request.envp);
}

void process_stdin(uint32_t id, const uint8_t *bytes, size_t length) {
  struct process *process = find(id);
  if (!process || process->fds[STREAM_STDIN] < 0 || process->input_over) return;
  if (!length) {
    process->input_over = 1;
    if (!process->terminal) {
      if (!process->input) close_fd(&process->fds[STREAM_STDIN]);
      return;
    }
    bytes = (const uint8_t *)"\4"; // end of file, to a terminal in its usual mode
    length = 1;
  }
  struct chunk *chunk = malloc(sizeof *chunk + length);
  if (!chunk) return;
  chunk->next = NULL;
  chunk->length = length;
  chunk->done = 0;
  memcpy(chunk->bytes, bytes, length);
  *process->tail = chunk;
  process->tail = &chunk->next;
}

void process_credit(uint32_t id, int stream, uint32_t bytes) {
  struct process *process = find(id);
  if (process && (stream == STREAM_STDOUT || stream == STREAM_STDERR)) process->credit[stream] += bytes;
}

void process_signal(uint32_t id, int number) {
  struct process *process = find(id);
  if (!process || process->reaped || number < 1 || number > 64) return;
  // The whole group: a shell's children too. Before setsid has run in the child there is no such group yet.
  if (kill(-process->pid, number)) kill(process->pid, number);
}

void process_resize(uint32_t id, uint16_t columns, uint16_t rows) {
  struct process *process = find(id);
  struct winsize size = {.ws_col = columns, .ws_row = rows};
  if (process && process->terminal && process->fds[STREAM_STDOUT] >= 0) ioctl(process->fds[STREAM_STDOUT], TIOCSWINSZ, &size);
}

void process_close_stream(uint32_t id, int stream) {
  struct process *process = find(id);
  if (!process) return;
  if (stream == STREAM_STDIN) close_input(process);
  else if (stream <= STREAM_STDERR) close_fd(&process->fds[stream]);
  if (process->terminal) close_input(process); // the last of its descriptors: the terminal hangs up
  forget_if_over(process);
}

static void send_exit(struct process *process) {
  uint8_t payload[8] = {0};
  payload[0] = WIFEXITED(process->status) ? WEXITSTATUS(process->status) : 0;
  payload[4] = WIFSIGNALED(process->status) ? WTERMSIG(process->status) : 0;
  send_frame(EXIT, process->id, payload, sizeof payload);
  process->ended = 1;
  close_input(process);
}

void processes_reap(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    struct process *process = processes;
    while (process && (process->pid != pid || process->reaped)) process = process->next;
    if (!process) continue;
    process->reaped = 1;
    process->status = status;
    if (process->start >= 0) continue; // whether it ever ran is not known yet: serve_start
    send_exit(process);
    forget_if_over(process);
  }
}

void processes_reset(void) {
  while (processes) {
    if (!processes->reaped) {
      process_signal(processes->id, SIGHUP);
      process_signal(processes->id, SIGCONT);
    }
    forget(processes);
  }
}

static void serve_start(struct process *process) {
  int why;
  ssize_t got = read(process->start, &why, sizeof why);
  close_fd(&process->start);
  if (got == sizeof why) {
    send_number(FAILED, process->id, why);
    forget(process); // its zombie is reaped like a stranger
    return;
  }
  send_number(STARTED, process->id, process->pid);
  if (process->reaped) send_exit(process);
  forget_if_over(process);
}

static void serve_input(struct process *process) {
  uint32_t taken = 0;
  while (process->input) {
    struct chunk *chunk = process->input;
    ssize_t written = write(process->fds[STREAM_STDIN], chunk->bytes + chunk->done, chunk->length - chunk->done);
    if (written < 0 && errno == EAGAIN) break;
    if (written < 0) { // EPIPE: the program has closed its standard input
      close_input(process);
      end_stream(process, STREAM_STDIN);
      return;
    }
    taken += written;
    chunk->done += written;
    if (chunk->done < chunk->length) continue;
    process->input = chunk->next;
    if (!process->input) process->tail = &process->input;
    free(chunk);
  }
  if (taken) send_number(STDIN_CREDIT, process->id, taken);
  if (process->input_over && !process->input && !process->terminal) close_fd(&process->fds[STREAM_STDIN]);
}

static void serve_output(struct process *process, int stream) {
  static uint8_t payload[1 + DATA_SIZE];
  size_t room = process->credit[stream] < DATA_SIZE ? process->credit[stream] : DATA_SIZE;
  ssize_t got = read(process->fds[stream], payload + 1, room);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) { // a terminal whose last program has gone gives EIO
    end_stream(process, stream);
    return;
  }
  process->credit[stream] -= got;
  payload[0] = stream;
  send_frame(DATA, process->id, payload, 1 + got);
}

// Order of a process's descriptors in the poll array: both functions below must walk alike.
static int wanted(const struct process *process, struct pollfd *polls) {
  int count = 0;
  if (process->start >= 0) {
    polls[count++] = (struct pollfd){process->start, POLLIN, 0};
    return count; // nothing else before it is known to run, so STARTED comes before all else
  }
  if (process->input) polls[count++] = (struct pollfd){process->fds[STREAM_STDIN], POLLOUT, 0};
  for (int stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++)
    if (process->fds[stream] >= 0 && process->credit[stream]) polls[count++] = (struct pollfd){process->fds[stream], POLLIN, 0};
  return count;
}

int processes_poll(struct pollfd *polls, int capacity) {
  int count = 0;
  for (struct process *process = processes; process && count + 4 <= capacity; process = process->next) count += wanted(process, polls + count);
  return count;
}

void processes_serve(const struct pollfd *polls, int count) {
  // A descriptor may be closed while this runs (by processes_reap before it, too); then it is in no process's fields any more.
  for (int i = 0; i < count; i++) {
    if (!polls[i].revents) continue;
    for (struct process *process = processes; process; process = process->next) {
      int fd = polls[i].fd;
      if (process->start == fd) serve_start(process);
      else if (process->input && process->fds[STREAM_STDIN] == fd && polls[i].events == POLLOUT) serve_input(process);
      else if (process->fds[STREAM_STDOUT] == fd) {
        serve_output(process, STREAM_STDOUT);
        forget_if_over(process);
      } else if (process->fds[STREAM_STDERR] == fd) {
        serve_output(process, STREAM_STDERR);
        forget_if_over(process);
      } else continue;
      break;
    }
  }
}
