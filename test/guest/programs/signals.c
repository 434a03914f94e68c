/* setjmp and longjmp, and signals: from faults of every kind, on an alternate stack, nested, with their codes. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static char *page;
static char stack[65536];
static volatile int seen;

static void caught(int signal, siginfo_t *info, void *context) {
  ucontext_t *u = context;
  char here;
  int alternate = &here >= stack && &here < stack + sizeof stack;
  long at = signal == SIGSEGV || signal == SIGBUS ? (char *)info->si_addr - page : 0;
  printf("signal %d code %d error %llx at %ld alternate %d\n", signal, info->si_code,
         signal == SIGSEGV ? (unsigned long long)u->uc_mcontext.gregs[REG_ERR] : 0, at > -100000 && at < 100000 ? at : -1, alternate);
  if (signal == SIGTRAP || signal == SIGALRM) {
    seen++;
    u->uc_mcontext.gregs[REG_EFL] &= ~0x100;
    return;
  }
  siglongjmp(back, signal);
}

__attribute__((noinline)) static int deeper(int n) {
  volatile char room[4096];
  room[0] = (char)n;
  return n < 0 ? 0 : deeper(n + 1) + room[0];
}

static void attempt(int which) {
  volatile int zero = 0, least = -2147483647 - 1, minus = -1;
  volatile int n;
  switch (which) {
  case 0: n = *(volatile int *)(page + 8192); break;
  case 1: *(volatile int *)(page + 4096) = 1; break;
  case 2: ((void (*)(void))(page))(); break;
  case 3: n = 1000 / zero; break;
  case 4: n = least / minus; break;
  case 5: __asm__ volatile("ud2"); break;
  case 6: __asm__ volatile("int3"); return;
  case 7: __asm__ volatile("hlt"); break;
  case 8: n = *(volatile int *)0x8000000000000000; break;
  case 9: n = deeper(0); break;
  case 10: __asm__ volatile("int $0x41"); break;
  case 11: *(volatile long *)(page + 4092) = -1; break;
  case 12: __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop" ::: "memory", "cc"); return;
  case 13: raise(SIGALRM); return;
  case 14: { /* an x87 exception that is not masked */
    unsigned short control = 0x37b;
    __asm__ volatile("fldcw %0; fldz; fld1; fdivp; fwait" ::"m"(control));
    break;
  }
  case 15: { /* and one of SSE */
    unsigned control = 0x1d80;
    volatile double a = 1, b = 0;
    __asm__ volatile("ldmxcsr %0" ::"m"(control));
    a /= b;
    break;
  }
  case 16: __asm__ volatile("movaps 1(%%rsp), %%xmm0" ::: "xmm0"); break;
  }
  (void)n;
}

static int fibonacci(int n, jmp_buf *up) {
  jmp_buf here;
  volatile int v = n;
  int r = setjmp(here);
  if (r) return r - 1 + (v > 1 ? fibonacci(v - 2, 0) : 0);
  if (n < 2) {
    if (up) longjmp(*up, n + 1);
    return n;
  }
  return fibonacci(n - 1, 0) + fibonacci(n - 2, 0);
}

static volatile int ticks;
static void tick(int signal) {
  (void)signal;
  ticks++;
}

int main(void) {
  setvbuf(stdout, 0, _IONBF, 0);
  page = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(page + 4096, 4096, PROT_READ);
  munmap(page + 8192, 4096);
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, 0);
  struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  int all[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS, SIGALRM};
  for (int i = 0; i < 6; i++) sigaction(all[i], &action, 0);
  for (volatile int i = 0; i < 17; i++) {
    int got = sigsetjmp(back, 1);
    if (!got) attempt(i);
    __asm__ volatile("fninit");
    unsigned control = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(control));
    printf("%d: %d\n", i, got);
  }
  printf("fibonacci %d, %d seen\n", fibonacci(15, 0), seen);
  action = (struct sigaction){.sa_handler = tick};
  sigaction(SIGALRM, &action, 0);
  struct itimerval timer = {{0, 5000}, {0, 5000}};
  setitimer(ITIMER_REAL, &timer, 0);
  double x = 1;
  /* Registers and flags survive the handlers. */
  for (long i = 0; ticks < 20; i++) {
    for (int k = 0; k < 1000; k++) x = x * 1.0000001 + 0x1p-40, next();
    if (x > 2) x = 1;
  }
  setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
  printf("ticks %d, %d\n", ticks >= 20, x >= 1 && x <= 2.1);
  return 0;
}
