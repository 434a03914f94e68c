/*
 * Runs machine code on the host's processor: reads a batch of cases from standard input, writes what each one left
 * behind to standard output. The layout of both is in native.ts. Each case runs in this process, in fixed pages, with
 * all registers set; exceptions come as signals. Built by native.ts with gcc -O2 -static -no-pie.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define WINDOW 0x10000000ul
#define WINDOW_BYTES 0x2000
#define READ_ONLY (WINDOW + 0x3000)
#define CODE 0x20000000ul
#define STATE 0x30000000ul

struct state {
  uint64_t exit_routine;   /* 0x000: where a case's last jump goes */
  uint64_t pad0[31];
  uint64_t out_gpr[16];    /* 0x100 */
  uint64_t out_rflags;     /* 0x180 */
  uint64_t pad1[15];
  uint64_t in_gpr[16];     /* 0x200 */
  uint64_t in_rflags;      /* 0x280 */
  uint64_t entry;          /* 0x288 */
  uint64_t harness_rsp;    /* 0x290 */
  uint64_t harness_fs;     /* 0x298 */
  uint64_t case_fs;        /* 0x2a0 */
  uint64_t far_entry;      /* 0x2a8: offset and selector, for 32-bit cases */
  uint64_t case_gs;        /* 0x2b0 */
  uint64_t out_fs;         /* 0x2b8 */
  uint64_t out_gs;         /* 0x2c0 */
  uint16_t out_selector[4];/* 0x2c8: ES, DS, FS, GS */
  uint64_t pad2[38];
  uint8_t in_fx[512];      /* 0x400 */
  uint8_t out_fx[512];     /* 0x600 */
};
#define state ((volatile struct state *)STATE)

/* What is read for each case, and written for each. */
struct patch { uint32_t offset, length; uint8_t data[64]; };
struct input {
  uint32_t entry, exit, bits, patches;
  uint64_t gpr[16], rflags;
  uint8_t fx[512];
  struct patch patch[3];
};
struct output {
  uint64_t gpr[16], rflags, rip, cr2;
  uint32_t vector, error;
  uint32_t first, length;
  uint64_t fs_base, gs_base;
  uint16_t selector[8]; /* ES CS SS DS FS GS */
  uint8_t fx[512];
};

static struct output result;
static volatile int in_case;
static volatile uint64_t serial, seen;
static uint8_t base[WINDOW_BYTES], before[WINDOW_BYTES];

void run_case(void);
void run_case32(void);
extern char exit_case[], after_signal[];

__asm__(
    ".text\n"
    ".globl run_case, run_case32, exit_case, after_signal\n"
    "run_case32:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  mov %rsp, 0x30000290\n"
    "  fxrstor64 0x30000400\n"
    "  jmp 1f\n"
    "run_case:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  mov %rsp, 0x30000290\n"
    "  fxrstor64 0x30000400\n"
    "  rdfsbase %rax; mov %rax, 0x30000298\n"
    "  mov 0x300002a0, %rax; wrfsbase %rax\n"
    "  mov 0x300002b0, %rax; wrgsbase %rax\n"
    "1:\n"
    "  pushq 0x30000280; popfq\n"
    "  mov 0x30000200, %rax; mov 0x30000208, %rcx; mov 0x30000210, %rdx; mov 0x30000218, %rbx\n"
    "  mov 0x30000228, %rbp; mov 0x30000230, %rsi; mov 0x30000238, %rdi\n"
    "  mov 0x30000240, %r8; mov 0x30000248, %r9; mov 0x30000250, %r10; mov 0x30000258, %r11\n"
    "  mov 0x30000260, %r12; mov 0x30000268, %r13; mov 0x30000270, %r14; mov 0x30000278, %r15\n"
    "  mov 0x30000220, %rsp\n"
    "  jmp *0x30000288\n"
    /* 32-bit cases enter through this far jump: the entry above points here. */
    ".globl far_jump\n"
    "far_jump:\n"
    "  ljmpl *0x300002a8\n"
    "exit_case:\n"
    "  mov %rax, 0x30000100; mov %rcx, 0x30000108; mov %rdx, 0x30000110; mov %rbx, 0x30000118\n"
    "  mov %rsp, 0x30000120; mov %rbp, 0x30000128; mov %rsi, 0x30000130; mov %rdi, 0x30000138\n"
    "  mov %r8, 0x30000140; mov %r9, 0x30000148; mov %r10, 0x30000150; mov %r11, 0x30000158\n"
    "  mov %r12, 0x30000160; mov %r13, 0x30000168; mov %r14, 0x30000170; mov %r15, 0x30000178\n"
    "  mov 0x30000290, %rsp\n"
    "  pushfq; popq 0x30000180; cld\n"
    "  pushfq; andl $~0x40000, (%rsp); popfq\n"
    "  rdfsbase %rax; mov %rax, 0x300002b8\n"
    "  rdgsbase %rax; mov %rax, 0x300002c0\n"
    "  mov %es, 0x300002c8; mov %ds, 0x300002ca; mov %fs, 0x300002cc; mov %gs, 0x300002ce\n"
    "  mov 0x30000298, %rax; wrfsbase %rax\n"
    "  fxsave64 0x30000600\n"
    "after_signal:\n"
    "  fninit\n"
    "  pushq $0x1f80; ldmxcsr (%rsp); pop %rax\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "  ret\n");
extern char far_jump[];

static const int ORDER[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void read_selectors(uint16_t *to) {
  __asm__ volatile("mov %%es, %0; mov %%ds, %1; mov %%fs, %2; mov %%gs, %3"
                   : "=m"(to[0]), "=m"(to[3]), "=m"(to[4]), "=m"(to[5]));
}

/* Data segments as they were before the case: loading FS takes its base, which this program stands on. */
static void restore_segments(void) {
  __asm__ volatile(
      "mov %0, %%ds; mov %0, %%es; mov %1, %%gs; mov %1, %%fs; wrfsbase %2" ::"r"(0x2b), "r"(0), "r"(state->harness_fs));
}

static void on_signal(int signal, siginfo_t *info, void *context) {
  /* AC is still what the case had. */
  __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $~0x40000, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::: "memory", "cc");
  ucontext_t *u = context;
  (void)info;
  uint64_t fs, gs;
  __asm__ volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
  if (in_case && signal != SIGALRM) __asm__ volatile("wrfsbase %0" ::"r"(state->harness_fs));
  if (!in_case) {
    if (signal == SIGALRM) return;
    _exit(100 + signal);
  }
  if (signal == SIGALRM) {
    if (seen != serial) {
      seen = serial;
      return;
    }
    __asm__ volatile("wrfsbase %0" ::"r"(state->harness_fs));
  }
  greg_t *g = u->uc_mcontext.gregs;
  for (int i = 0; i < 16; i++) result.gpr[i] = g[ORDER[i]];
  result.rflags = g[REG_EFL];
  result.rip = g[REG_RIP];
  result.vector = signal == SIGALRM ? 254 : g[REG_TRAPNO];
  result.error = g[REG_ERR];
  result.cr2 = g[REG_CR2];
  result.fs_base = fs;
  result.gs_base = gs;
  read_selectors(result.selector);
  result.selector[1] = (uint16_t)g[REG_CSGSFS];
  result.selector[2] = (uint16_t)(g[REG_CSGSFS] >> 48);
  uint8_t *fx = (uint8_t *)u->uc_mcontext.fpregs;
  memcpy(result.fx, fx, 512);
  /* With XSAVE's header present, a component in its initial state may not have been written. */
  if (*(uint32_t *)(fx + 464) == 0x46505853) {
    uint64_t present = *(uint64_t *)(fx + 512);
    if (!(present & 1)) {
      memset(result.fx, 0, 24);
      result.fx[0] = 0x7f;
      result.fx[1] = 3;
      memset(result.fx + 32, 0, 128);
    }
    if (!(present & 2)) memset(result.fx + 160, 0, 256);
  }
  in_case = 0;
  g[REG_RIP] = (greg_t)after_signal;
  g[REG_RSP] = state->harness_rsp;
  g[REG_EFL] &= ~0x40500ul;
  uint64_t selectors = g[REG_CSGSFS];
  g[REG_CSGSFS] = (selectors & ~0xfffful) | 0x33;
}

static int read_all(void *to, size_t n) {
  uint8_t *p = to;
  while (n) {
    ssize_t k = read(0, p, n);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return 0;
    p += k;
    n -= k;
  }
  return 1;
}

static uint8_t buffer[1 << 20];
static size_t filled;
static void flush(void) {
  size_t at = 0;
  while (at < filled) {
    ssize_t k = write(1, buffer + at, filled - at);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) _exit(3);
    at += k;
  }
  filled = 0;
}
static void put(const void *from, size_t n) {
  if (filled + n > sizeof buffer) flush();
  memcpy(buffer + filled, from, n);
  filled += n;
}

static void *fixed(uint64_t at, size_t n, int protection) {
  void *p = mmap((void *)at, n, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (p != (void *)at) {
    fprintf(stderr, "cannot map 0x%lx\n", (unsigned long)at);
    exit(2);
  }
  return p;
}

int main(void) {
  uint32_t header[4];
  fixed(WINDOW, WINDOW_BYTES, PROT_READ | PROT_WRITE);
  fixed(READ_ONLY, 0x1000, PROT_READ);
  fixed(STATE, 0x1000, PROT_READ | PROT_WRITE);
  (void)*(volatile uint8_t *)READ_ONLY; /* so that a store finds it present */
  static uint8_t stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, 0);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigfillset(&action.sa_mask);
  int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGALRM};
  for (int i = 0; i < 6; i++) sigaction(signals[i], &action, 0);
  struct itimerval every = {{0, 200000}, {0, 200000}};
  setitimer(ITIMER_REAL, &every, 0);
  /* Bytes of code, cases, FS base, GS base; then the code, the window's contents, the cases. */
  if (!read_all(header, sizeof header)) return 1;
  uint8_t *code = fixed(CODE, (header[0] + 4095) & ~4095u, PROT_READ | PROT_WRITE | PROT_EXEC);
  if (!read_all(code, header[0]) || !read_all(base, sizeof base)) return 1;
  state->case_fs = header[2];
  uint64_t fs;
  __asm__ volatile("rdfsbase %0" : "=r"(fs));
  state->harness_fs = fs;
  state->exit_routine = (uint64_t)exit_case;
  state->case_gs = header[3];
  /* Null selectors in DS and ES would do for 64-bit code only. */
  restore_segments();
  for (uint32_t i = 0; i < header[1]; i++) {
    struct input in;
    if (!read_all(&in, sizeof in)) return 1;
    memcpy(before, base, sizeof base);
    for (uint32_t k = 0; k < in.patches; k++) memcpy(before + in.patch[k].offset, in.patch[k].data, in.patch[k].length);
    memcpy((void *)WINDOW, before, sizeof before);
    memcpy((void *)state->in_gpr, in.gpr, sizeof in.gpr);
    memcpy((void *)state->in_fx, in.fx, 512);
    state->in_rflags = in.rflags;
    state->entry = in.entry;
    memset(&result, 0, sizeof result);
    serial++;
    in_case = 1;
    if (in.bits == 32) {
      state->entry = (uint64_t)far_jump;
      state->far_entry = in.entry | (0x23ull << 32);
      run_case32();
    } else
      run_case();
    if (in_case) {
      in_case = 0;
      memcpy(result.gpr, (void *)state->out_gpr, sizeof result.gpr);
      result.rflags = state->out_rflags;
      result.rip = in.exit;
      result.vector = 255;
      memcpy(result.fx, (void *)state->out_fx, 512);
      result.fs_base = state->out_fs;
      result.gs_base = state->out_gs;
      result.selector[0] = state->out_selector[0];
      result.selector[1] = 0x33;
      result.selector[2] = 0x2b;
      for (int k = 1; k < 4; k++) result.selector[2 + k] = state->out_selector[k];
    }
    restore_segments();
    const uint64_t *was = (uint64_t *)before, *is = (uint64_t *)WINDOW;
    int first = 0, last = WINDOW_BYTES / 8;
    while (first < last && was[first] == is[first]) first++;
    while (last > first && was[last - 1] == is[last - 1]) last--;
    result.first = first * 8;
    result.length = (last - first) * 8;
    put(&result, sizeof result);
    put((uint8_t *)WINDOW + result.first, result.length);
  }
  flush();
  return 0;
}
