// The guest agent: runs programs and handles files for the host, over the virtio-serial port "org.linux-vm.agent".
// The host's side, with the same numbers and the description of the protocol, is src/agent/codec.ts.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 1
#define HEADER_SIZE 8
#define MAX_PAYLOAD (256 * 1024) // longer frames are a broken stream
#define WINDOW (256 * 1024)      // bytes of one stream under way without the receiver's consent
#define DATA_SIZE (16 * 1024)    // payload of one data frame to the host

enum host_frame { HELLO = 1, SPAWN, STDIN, CREDIT, SIGNAL, RESIZE, CLOSE_STREAM, FILE_OPERATION };
enum agent_frame { STARTED = 17, FAILED, DATA, END, EXIT, STDIN_CREDIT, RESULT, RESULT_PART };
enum stream { STREAM_STDIN, STREAM_STDOUT, STREAM_STDERR };

/** Reads the fields of a frame's payload. A read past its end gives zeros and sets `broken`. */
struct reader {
  const uint8_t *at, *end;
  int broken;
};
uint64_t read_number(struct reader *reader, int bytes);
/** A NUL-terminated string, which stays in the payload. */
const char *read_string(struct reader *reader);

/** Payload being written. Never overflows: what does not fit is dropped and `full` set. */
struct writer {
  uint8_t *start;
  size_t length, capacity;
  int full;
};
void put_number(struct writer *writer, uint64_t value, int bytes);
void put_bytes(struct writer *writer, const void *bytes, size_t length);

/** Sends one frame; waits while the port is full. After the host has gone it does nothing until the next hello. */
void send_frame(uint8_t type, uint32_t id, const void *payload, size_t length);
void send_number(uint8_t type, uint32_t id, uint32_t value);

// processes.c
struct pollfd;
void process_spawn(uint32_t id, struct reader *reader);
void process_stdin(uint32_t id, const uint8_t *bytes, size_t length);
void process_credit(uint32_t id, int stream, uint32_t bytes);
void process_signal(uint32_t id, int number);
void process_resize(uint32_t id, uint16_t columns, uint16_t rows);
void process_close_stream(uint32_t id, int stream);
/** Collects children that have ended. */
void processes_reap(void);
/** Hangs up every program that was started, as a terminal would that is closed. */
void processes_reset(void);
/** Adds the descriptors to wait for; `processes_serve` is given the same array after poll. @returns how many */
int processes_poll(struct pollfd *polls, int capacity);
void processes_serve(const struct pollfd *polls, int count);

// files.c
void file_operation(uint32_t id, struct reader *reader);
void files_reset(void);

// inspect.c: each sends its answer in parts and returns an errno
int inspect_directory(uint32_t id, const char *path);
int inspect_processes(uint32_t id);
int inspect_open_files(uint32_t id);

// refresh.c
/** Makes fresh what a snapshot's machines must not share. @returns the first errno, or 0 */
int refresh(struct reader *reader);
