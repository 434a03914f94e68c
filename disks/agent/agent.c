// The port, the framing and the loop. Everything runs in one thread: descriptors are polled, and nothing is read from
// a program that the host has not given credit for, so memory stays bounded whatever the programs print.
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME "org.linux-vm.agent"
#define MAX_POLLS 1200

static const char magic[8] = {'l', 'v', 'm', 'a', 'g', 'e', 'n', 't'};
static int port = -1;
static int host_gone;

uint64_t read_number(struct reader *reader, int bytes) {
  uint64_t value = 0;
  if (reader->end - reader->at < bytes) {
    reader->broken = 1;
    reader->at = reader->end;
    return 0;
  }
  for (int i = 0; i < bytes; i++) value |= (uint64_t)reader->at[i] << (8 * i);
  reader->at += bytes;
  return value;
}

const char *read_string(struct reader *reader) {
  const uint8_t *zero = memchr(reader->at, 0, reader->end - reader->at);
  if (!zero) {
    reader->broken = 1;
    reader->at = reader->end;
    return "";
  }
  const char *string = (const char *)reader->at;
  reader->at = zero + 1;
  return string;
}

void put_bytes(struct writer *writer, const void *bytes, size_t length) {
  if (writer->full || writer->capacity - writer->length < length) {
    writer->full = 1;
    return;
  }
  memcpy(writer->start + writer->length, bytes, length);
  writer->length += length;
}

void put_number(struct writer *writer, uint64_t value, int bytes) {
  uint8_t little[8];
  for (int i = 0; i < bytes; i++) little[i] = value >> (8 * i);
  put_bytes(writer, little, bytes);
}

static void pause_ms(long ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static void write_all(const uint8_t *bytes, size_t length) {
  while (length && !host_gone) {
    ssize_t written = write(port, bytes, length);
    if (written > 0) {
      bytes += written;
      length -= written;
    } else if (written < 0 && errno == EAGAIN) {
      struct pollfd wait = {port, POLLOUT, 0};
      poll(&wait, 1, -1);
      if (wait.revents & POLLHUP) host_gone = 1;
    } else if (written < 0 && errno != EINTR) {
      host_gone = 1; // EPIPE: the host has closed its end
    }
  }
}

void send_frame(uint8_t type, uint32_t id, const void *payload, size_t length) {
  // One write for a whole frame: each costs the machine an exit.
  static uint8_t frame[HEADER_SIZE + DATA_SIZE + 64];
  uint8_t header[HEADER_SIZE] = {type, length, length >> 8, length >> 16, id, id >> 8, id >> 16, id >> 24};
  if (length <= sizeof frame - HEADER_SIZE) {
    memcpy(frame, header, HEADER_SIZE);
    if (length) memcpy(frame + HEADER_SIZE, payload, length);
    write_all(frame, HEADER_SIZE + length);
  } else {
    write_all(header, HEADER_SIZE);
    write_all(payload, length);
  }
}

void send_number(uint8_t type, uint32_t id, uint32_t value) {
  uint8_t payload[4] = {value, value >> 8, value >> 16, value >> 24};
  send_frame(type, id, payload, sizeof payload);
}

static void send_hello(uint32_t nonce) {
  uint8_t payload[16] = {0};
  memcpy(payload, magic, sizeof magic);
  payload[8] = PROTOCOL_VERSION;
  for (int i = 0; i < 4; i++) payload[12 + i] = nonce >> (8 * i);
  send_frame(HELLO, 0, payload, sizeof payload);
}

static void handle(uint8_t type, uint32_t id, const uint8_t *payload, size_t length) {
  struct reader reader = {payload, payload + length, 0};
  switch (type) {
    case HELLO:
      if (length < 16 || memcmp(payload, magic, sizeof magic)) return;
      processes_reset();
      files_reset();
      reader.at += 12;
      send_hello(read_number(&reader, 4));
      break;
    case SPAWN: process_spawn(id, &reader); break;
    case STDIN: process_stdin(id, payload, length); break;
    case CREDIT: {
      int stream = read_number(&reader, 1);
      process_credit(id, stream, read_number(&reader, 4));
      break;
    }
    case SIGNAL: process_signal(id, read_number(&reader, 4)); break;
    case RESIZE: {
      uint16_t columns = read_number(&reader, 2);
      process_resize(id, columns, read_number(&reader, 2));
      break;
    }
    case CLOSE_STREAM: process_close_stream(id, read_number(&reader, 1)); break;
    case FILE_OPERATION: file_operation(id, &reader); break;
    default: break; // a newer host; it knows our version from the hello
  }
}

/** Takes what has arrived. @returns 0 when the stream makes no sense any more */
static int receive(void) {
  static uint8_t buffer[HEADER_SIZE + MAX_PAYLOAD];
  static size_t filled;
  if (host_gone) {
    filled = 0;
    return 1;
  }
  ssize_t got = read(port, buffer + filled, sizeof buffer - filled);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) host_gone = 1;
  if (got <= 0) return 1;
  filled += got;
  size_t at = 0;
  while (filled - at >= HEADER_SIZE) {
    const uint8_t *p = buffer + at;
    size_t length = p[1] | p[2] << 8 | (size_t)p[3] << 16;
    uint32_t id = p[4] | p[5] << 8 | p[6] << 16 | (uint32_t)p[7] << 24;
    if (length > MAX_PAYLOAD) {
      filled = 0;
      return 0;
    }
    if (filled - at < HEADER_SIZE + length) break;
    handle(p[0], id, p + HEADER_SIZE, length);
    at += HEADER_SIZE + length;
  }
  memmove(buffer, buffer + at, filled - at);
  filled -= at;
  return 1;
}

/** There is no udev that would make /dev/virtio-ports, so the port's name is looked up in sysfs. */
static int open_port(void) {
  int found = -1;
  DIR *directory = opendir("/sys/class/virtio-ports");
  if (!directory) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(directory));) {
    char path[320], name[64] = "";
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    ssize_t got = read(fd, name, sizeof name - 1);
    close(fd);
    if (got <= 0) continue;
    name[strcspn(name, "\n")] = 0;
    if (strcmp(name, PORT_NAME)) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  }
  closedir(directory);
  return found;
}

static void wait_for_host(void) {
  struct pollfd state = {port, 0, 0};
  processes_reset();
  files_reset();
  receive(); // drops half a frame
  while (poll(&state, 1, 0) > 0 && state.revents & POLLHUP) {
    processes_reap();
    pause_ms(200);
  }
  host_gone = 0;
  send_hello(0); // "here I am": the host answers with a hello of its own
}

static void on_child(int number) {
  (void)number; // only ends ppoll
}

int main(void) {
  for (int tries = 0; (port = open_port()) < 0; tries++) {
    // A machine without this port has no use for the agent; status 0 tells init not to start it again.
    if (tries == 20) return errno == EBUSY ? 1 : 0;
    pause_ms(100);
  }
  struct sigaction child = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGCHLD, &child, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  sigset_t blocked, waiting;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigprocmask(SIG_BLOCK, &blocked, &waiting); // delivered inside ppoll only, so none is missed
  sigdelset(&waiting, SIGCHLD);

  host_gone = 1;
  for (;;) {
    static struct pollfd polls[MAX_POLLS];
    if (host_gone) wait_for_host();
    polls[0] = (struct pollfd){port, POLLIN, 0};
    int count = 1 + processes_poll(polls + 1, MAX_POLLS - 1);
    int ready = ppoll(polls, count, NULL, &waiting);
    processes_reap();
    if (ready <= 0) continue;
    // Programs first: the frames received next may end them and make descriptors mean something else.
    processes_serve(polls + 1, count - 1);
    if (polls[0].revents & POLLHUP) host_gone = 1;
    else if (polls[0].revents && !receive()) host_gone = 1;
  }
}
