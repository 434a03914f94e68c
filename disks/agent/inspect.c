// What the host's inspector shows: a directory with what `ls -l` knows, processes, open files. One request each, answered
// in RESULT_PARTs, so that looking costs the guest a few milliseconds and no process of its own.
#include "agent.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRY_SIZE 4400 // most bytes of one entry: its numbers, and a path
#define COMMAND_SIZE 512

static uint8_t buffer[DATA_SIZE];

/** Sends what has gathered when another entry might not fit. */
static void make_room(uint32_t id, struct writer *part) {
  if (part->capacity - part->length >= ENTRY_SIZE) return;
  send_frame(RESULT_PART, id, part->start, part->length);
  part->length = 0;
}

static void flush(uint32_t id, struct writer *part) {
  if (part->length) send_frame(RESULT_PART, id, part->start, part->length);
}

/** Names are at most NAME_MAX long; what is gone by the time it is looked at is left out. */
int inspect_directory(uint32_t id, const char *path) {
  DIR *directory = opendir(path);
  if (!directory) return errno;
  struct writer part = {buffer, 0, sizeof buffer, 0};
  int error = 0;
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(directory);
    if (!entry) {
      error = errno;
      break;
    }
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    struct stat st, target = {0};
    if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;
    if (S_ISLNK(st.st_mode) && fstatat(dirfd(directory), entry->d_name, &target, 0)) target.st_mode = 0;
    make_room(id, &part);
    put_number(&part, st.st_mode, 4);
    put_number(&part, st.st_size, 8);
    put_number(&part, st.st_mtim.tv_sec, 8);
    put_number(&part, target.st_mode >> 12, 1);
    put_bytes(&part, entry->d_name, strlen(entry->d_name) + 1);
  }
  closedir(directory);
  if (!error) flush(id, &part);
  return error;
}

static ssize_t read_at(int directory, const char *name, char *bytes, size_t size) {
  int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t got = read(fd, bytes, size);
  close(fd);
  return got;
}

/** The arguments with spaces between them, or the kernel's name in brackets. */
static size_t command_of(int directory, const char *name, size_t name_length, char *command) {
  ssize_t got = read_at(directory, "cmdline", command, COMMAND_SIZE - 1);
  while (got > 0 && !command[got - 1]) got--;
  if (got <= 0) return snprintf(command, COMMAND_SIZE, "[%.*s]", (int)name_length, name);
  for (ssize_t i = 0; i < got; i++)
    if (!command[i]) command[i] = ' ';
  command[got] = 0;
  return got;
}

/** Opens /proc/PID for each process. @returns a descriptor, or -1 after the last */
static int next_process(DIR *proc, uint32_t *pid) {
  for (struct dirent *entry; (entry = readdir(proc));) {
    if (!isdigit((unsigned char)*entry->d_name)) continue;
    int fd = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) continue;
    *pid = strtoul(entry->d_name, NULL, 10);
    return fd;
  }
  return -1;
}

/** Per process: pid, parent, uid (4 each), state (1), CPU time in clock ticks (8), resident pages (8), command. */
int inspect_processes(uint32_t id) {
  DIR *proc = opendir("/proc");
  if (!proc) return errno;
  struct writer part = {buffer, 0, sizeof buffer, 0};
  uint32_t pid;
  for (int fd; (fd = next_process(proc, &pid)) >= 0; close(fd)) {
    char text[1024], command[COMMAND_SIZE], state;
    struct stat st;
    ssize_t got = read_at(fd, "stat", text, sizeof text - 1);
    if (got <= 0 || fstat(fd, &st)) continue;
    text[got] = 0;
    // proc_pid_stat(5): the name is in parentheses and may hold any character, these too.
    char *name = strchr(text, '('), *end = strrchr(text, ')');
    unsigned parent;
    unsigned long user, system;
    long pages;
    if (!name || !end || end < name ||
        sscanf(end + 1, " %c %u %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld", &state, &parent, &user, &system, &pages) != 5)
      continue;
    make_room(id, &part);
    put_number(&part, pid, 4);
    put_number(&part, parent, 4);
    put_number(&part, st.st_uid, 4);
    put_number(&part, state, 1);
    put_number(&part, user + system, 8);
    put_number(&part, pages, 8);
    put_bytes(&part, command, command_of(fd, name + 1, end - name - 1, command) + 1);
  }
  closedir(proc);
  flush(id, &part);
  return 0;
}

/** Per open file: pid, descriptor (4 each), what it is. Of all processes but kernel threads, which have none. */
int inspect_open_files(uint32_t id) {
  DIR *proc = opendir("/proc");
  if (!proc) return errno;
  struct writer part = {buffer, 0, sizeof buffer, 0};
  uint32_t pid;
  for (int fd; (fd = next_process(proc, &pid)) >= 0; close(fd)) {
    int list = openat(fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *files = list < 0 ? NULL : fdopendir(list);
    if (!files) {
      if (list >= 0) close(list);
      continue;
    }
    for (struct dirent *entry; (entry = readdir(files));) {
      char target[4097];
      ssize_t length = *entry->d_name == '.' ? -1 : readlinkat(list, entry->d_name, target, sizeof target - 1);
      if (length < 0) continue;
      target[length] = 0;
      make_room(id, &part);
      put_number(&part, pid, 4);
      put_number(&part, strtoul(entry->d_name, NULL, 10), 4);
      put_bytes(&part, target, length + 1);
    }
    closedir(files);
  }
  closedir(proc);
  flush(id, &part);
  return 0;
}
