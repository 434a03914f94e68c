/*
 * Executes single instructions on the host's processor: reads cases (struct Case) from a file, writes them back with
 * the outcome. The instruction may use XMM0 to XMM2, RAX, RCX, RDX, MM0, MM1 and memory at RSI and RDI.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct Case {
  uint8_t code[14];
  uint8_t offset; /* of RSI and RDI from the aligned memory */
  uint8_t length;
  uint8_t xmm[3][16];
  uint64_t rax, rcx, rdx;
  uint64_t mmx; /* in: MM1, out: MM0 */
  uint64_t flags;
  uint32_t mxcsr;
  uint32_t fault; /* signal number */
  uint8_t memory[32];
} __attribute__((packed));

struct State {
  uint8_t xmm[3][16];
  uint64_t rax, rcx, rdx, mmx, flags;
  uint32_t mxcsr, unused;
  void *code, *memory;
};

static uint8_t memory[64] __attribute__((aligned(64)));
static sigjmp_buf out;
static struct Case current;
static struct State state __attribute__((aligned(16)));

static void handler(int signal, siginfo_t *info, void *context) {
  ucontext_t *u = context;
  (void)info;
  current.fault = signal;
  current.mxcsr = u->uc_mcontext.fpregs->mxcsr;
  for (int i = 0; i < 3; i++) memcpy(current.xmm[i], &u->uc_mcontext.fpregs->_xmm[i], 16);
  siglongjmp(out, 1);
}

void execute(struct State *);
__asm__(
    "execute:\n push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n sub $8, %rsp\n"
    " mov %rdi, %r15\n movups (%r15), %xmm0\n movups 16(%r15), %xmm1\n movups 32(%r15), %xmm2\n"
    " mov 48(%r15), %rax\n mov 56(%r15), %rcx\n mov 64(%r15), %rdx\n pxor %mm0, %mm0\n movq 72(%r15), %mm1\n"
    " ldmxcsr 88(%r15)\n mov 104(%r15), %rsi\n mov %rsi, %rdi\n pushq 80(%r15)\n popfq\n call *96(%r15)\n"
    " pushfq\n popq 80(%r15)\n stmxcsr 88(%r15)\n movups %xmm0, (%r15)\n movups %xmm1, 16(%r15)\n"
    " movups %xmm2, 32(%r15)\n mov %rax, 48(%r15)\n mov %rcx, 56(%r15)\n mov %rdx, 64(%r15)\n"
    " movq %mm0, 72(%r15)\n emms\n cld\n add $8, %rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n"
    " pop %rbx\n ret\n");

int main(int count, char **arguments) {
  static uint8_t stack[65536];
  stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  if (count != 3) return 2;
  FILE *from = fopen(arguments[1], "rb"), *to = fopen(arguments[2], "wb");
  uint8_t *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!from || !to || code == MAP_FAILED) return 1;
  sigaltstack(&alternative, 0);
  sigaction(SIGFPE, &action, 0);
  sigaction(SIGSEGV, &action, 0);
  sigaction(SIGILL, &action, 0);
  while (fread(&current, sizeof current, 1, from) == 1) {
    memcpy(code, current.code, current.length);
    code[current.length] = 0xc3;
    memcpy(state.xmm, current.xmm, 48);
    state.rax = current.rax;
    state.rcx = current.rcx;
    state.rdx = current.rdx;
    state.mmx = current.mmx;
    state.flags = current.flags | 0x202;
    state.mxcsr = current.mxcsr;
    state.code = code;
    state.memory = memory + current.offset;
    memcpy(memory, current.memory, 32);
    current.fault = 0;
    if (!sigsetjmp(out, 1)) {
      execute(&state);
      memcpy(current.xmm, state.xmm, 48);
      current.rax = state.rax;
      current.rcx = state.rcx;
      current.rdx = state.rdx;
      current.mmx = state.mmx;
      current.flags = state.flags;
      current.mxcsr = state.mxcsr;
    } else {
      uint32_t usual = 0x1f80;
      __asm__ volatile("ldmxcsr %0\n emms" : : "m"(usual));
    }
    memcpy(current.memory, memory, 32);
    fwrite(&current, sizeof current, 1, to);
  }
  return fclose(to) != 0;
}
