// File operations for the host. Each answers with one RESULT: an errno (0 for success), then what was asked for.
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_HANDLES 64
#define READ_SIZE (64 * 1024)

enum operation { PING, STAT, LSTAT, READDIR, MKDIR, REMOVE, RENAME, OPEN, READ, WRITE, CLOSE, SET_TIME, READLINK, CHMOD, SYMLINK, LIST, PROCESSES, OPEN_FILES, REFRESH };
enum { RECURSIVE = 1, FORCE = 2 };

static int handles[MAX_HANDLES]; // descriptor + 1; 0 when free
static uint8_t answer[4 + READ_SIZE];

static void reply(uint32_t id, int error, struct writer *body) {
  for (int i = 0; i < 4; i++) answer[i] = (uint32_t)error >> (8 * i);
  send_frame(RESULT, id, answer, 4 + (error || !body ? 0 : body->length));
}

static void put_stat(struct writer *body, const struct stat *st) {
  put_number(body, st->st_mode, 4);
  put_number(body, st->st_uid, 4);
  put_number(body, st->st_gid, 4);
  put_number(body, st->st_nlink, 4);
  put_number(body, st->st_size, 8);
  put_number(body, st->st_ino, 8);
  put_number(body, st->st_mtim.tv_sec, 8);
  put_number(body, st->st_mtim.tv_nsec, 4);
}

static int make_directory(const char *path, mode_t mode, int recursive) {
  if (!recursive) return mkdir(path, mode) ? errno : 0;
  char copy[4096];
  if (strlen(path) >= sizeof copy) return ENAMETOOLONG;
  strcpy(copy, path);
  struct stat st;
  for (char *p = copy + 1; *copy; p++) {
    if (*p && *p != '/') continue;
    char kept = *p;
    *p = 0;
    if (mkdir(copy, mode) && (errno != EEXIST || stat(copy, &st) || !S_ISDIR(st.st_mode))) return errno == EEXIST ? ENOTDIR : errno;
    *p = kept;
    if (!kept) break;
  }
  return *copy ? 0 : ENOENT;
}

/** Removes what is in the directory, never following a symbolic link. Works by descriptor: paths may be of any length. */
static int remove_contents(int parent, const char *name, int depth) {
  if (depth > 512) return ELOOP;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno;
  DIR *directory = fdopendir(fd);
  if (!directory) {
    close(fd);
    return ENOMEM;
  }
  int error = 0;
  for (struct dirent *entry; !error && (entry = readdir(directory));) {
    const char *child = entry->d_name;
    if (!strcmp(child, ".") || !strcmp(child, "..")) continue;
    if (!unlinkat(fd, child, 0) || errno == ENOENT) continue;
    if (errno != EISDIR) error = errno;
    else if (!(error = remove_contents(fd, child, depth + 1)) && unlinkat(fd, child, AT_REMOVEDIR)) error = errno;
  }
  closedir(directory);
  return error;
}

static int remove_path(const char *path, int flags) {
  struct stat st;
  int error = 0;
  if (lstat(path, &st)) error = errno;
  else if (!S_ISDIR(st.st_mode)) error = unlink(path) ? errno : 0;
  else {
    if (flags & RECURSIVE) error = remove_contents(AT_FDCWD, path, 0);
    if (!error && rmdir(path)) error = errno;
  }
  return error == ENOENT && flags & FORCE ? 0 : error;
}

/** Entries go out in as many RESULT_PARTs as they need: type, inode and name of each. */
static int list_directory(uint32_t id, const char *path) {
  DIR *directory = opendir(path);
  if (!directory) return errno;
  struct writer part = {answer, 0, DATA_SIZE, 0};
  int error = 0;
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(directory);
    if (!entry) {
      error = errno;
      break;
    }
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (part.length + sizeof entry->d_name + 1 > part.capacity) {
      send_frame(RESULT_PART, id, part.start, part.length);
      part.length = 0;
    }
    put_number(&part, entry->d_type, 1);
    put_bytes(&part, entry->d_name, strlen(entry->d_name) + 1);
  }
  closedir(directory);
  if (!error && part.length) send_frame(RESULT_PART, id, part.start, part.length);
  return error;
}

static int open_handle(const char *path, uint32_t flags, mode_t mode, struct writer *body) {
  // The host's flags are numbers of the protocol: 1 write, 2 create, 4 truncate, 8 append, 16 exclusive.
  int how = (flags & 1 ? O_WRONLY : O_RDONLY) | (flags & 2 ? O_CREAT : 0) | (flags & 4 ? O_TRUNC : 0) | (flags & 8 ? O_APPEND : 0) | (flags & 16 ? O_EXCL : 0);
  int slot = 0;
  while (slot < MAX_HANDLES && handles[slot]) slot++;
  if (slot == MAX_HANDLES) return EMFILE;
  // Not to wait for the other end of a FIFO: everyone else would wait, too.
  int fd = open(path, how | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
  if (fd < 0) return errno;
  struct stat st;
  if (fstat(fd, &st)) st.st_mode = 0;
  if (S_ISDIR(st.st_mode)) {
    close(fd);
    return EISDIR;
  }
  handles[slot] = fd + 1;
  put_number(body, slot, 4);
  put_number(body, S_ISREG(st.st_mode), 1);
  return 0;
}

static int handle_fd(uint32_t handle) {
  return handle < MAX_HANDLES ? handles[handle] - 1 : -1;
}

static int read_handle(uint32_t handle, uint64_t offset, uint32_t length, struct writer *body) {
  int fd = handle_fd(handle);
  if (length > READ_SIZE) length = READ_SIZE;
  ssize_t got = pread(fd, body->start, length, offset);
  if (got < 0 && errno == ESPIPE) got = read(fd, body->start, length); // devices and the like
  if (got < 0) return errno;
  body->length = got;
  return 0;
}

static int write_handle(uint32_t handle, uint64_t offset, const uint8_t *bytes, size_t length) {
  int fd = handle_fd(handle);
  while (length) {
    ssize_t written = pwrite(fd, bytes, length, offset);
    if (written < 0 && errno == ESPIPE) written = write(fd, bytes, length);
    if (written < 0) return errno;
    bytes += written;
    offset += written;
    length -= written;
  }
  return 0;
}

void file_operation(uint32_t id, struct reader *reader) {
  struct writer body = {answer + 4, 0, READ_SIZE, 0};
  struct stat st;
  int error = 0;
  uint8_t operation = read_number(reader, 1);
  switch (operation) {
    case PING: break;
    case STAT:
    case LSTAT: {
      const char *path = read_string(reader);
      if (operation == STAT ? stat(path, &st) : lstat(path, &st)) error = errno;
      else put_stat(&body, &st);
      break;
    }
    case READDIR: error = list_directory(id, read_string(reader)); break;
    case MKDIR: {
      uint32_t flags = read_number(reader, 4), mode = read_number(reader, 4);
      error = make_directory(read_string(reader), mode, flags & RECURSIVE);
      break;
    }
    case REMOVE: {
      uint32_t flags = read_number(reader, 4);
      error = remove_path(read_string(reader), flags);
      break;
    }
    case RENAME: {
      const char *from = read_string(reader), *to = read_string(reader);
      if (rename(from, to)) error = errno;
      break;
    }
    case OPEN: {
      uint32_t flags = read_number(reader, 4), mode = read_number(reader, 4);
      error = open_handle(read_string(reader), flags, mode, &body);
      break;
    }
    case READ: {
      uint32_t handle = read_number(reader, 4);
      uint64_t offset = read_number(reader, 8);
      error = read_handle(handle, offset, read_number(reader, 4), &body);
      break;
    }
    case WRITE: {
      uint32_t handle = read_number(reader, 4);
      uint64_t offset = read_number(reader, 8);
      error = write_handle(handle, offset, reader->at, reader->end - reader->at);
      break;
    }
    case CLOSE: {
      uint32_t handle = read_number(reader, 4);
      int fd = handle_fd(handle);
      if (fd < 0) error = EBADF;
      else if (close(fd)) error = errno;
      if (fd >= 0) handles[handle] = 0;
      break;
    }
    case SET_TIME: {
      struct timespec time = {.tv_sec = (int64_t)read_number(reader, 8)};
      time.tv_nsec = read_number(reader, 4);
      if (clock_settime(CLOCK_REALTIME, &time)) error = errno;
      break;
    }
    case REFRESH: error = refresh(reader); break;
    case READLINK: {
      ssize_t length = readlink(read_string(reader), (char *)body.start, 4096);
      if (length < 0) error = errno;
      else body.length = length;
      break;
    }
    case CHMOD: {
      uint32_t mode = read_number(reader, 4);
      if (chmod(read_string(reader), mode)) error = errno;
      break;
    }
    case SYMLINK: {
      const char *target = read_string(reader), *path = read_string(reader);
      if (symlink(target, path)) error = errno;
      break;
    }
    case LIST: error = inspect_directory(id, read_string(reader)); break;
    case PROCESSES: error = inspect_processes(id); break;
    case OPEN_FILES: error = inspect_open_files(id); break;
    default: error = ENOSYS;
  }
  reply(id, reader->broken ? EPROTO : error, &body);
}

void files_reset(void) {
  for (int i = 0; i < MAX_HANDLES; i++) {
    if (handles[i]) close(handles[i] - 1);
    handles[i] = 0;
  }
}
