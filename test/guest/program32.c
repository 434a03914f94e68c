// A 32-bit program without a C library: both ways into the kernel, x87 arithmetic, and instructions that long mode lost.
typedef unsigned int u32;
typedef unsigned long long u64;
static void *vsyscall;
static int by_int(int n, int a, const void *b, int c) {
  int r;
  __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory");
  return r;
}
static int by_vdso(int n, int a, const void *b, int c) {
  int r;
  __asm__ volatile("call *%1" : "=a"(r) : "m"(vsyscall), "a"(n), "b"(a), "c"(b), "d"(c) : "memory");
  return r;
}
static volatile double step = 1;
static u32 mix(u32 n) {
  u64 h = 0xcbf29ce484222325;
  double sum = 0;
  for (u32 i = 1; i <= n; i++) {
    h = (h ^ i) * 0x100000001b3;
    h ^= h >> 29;
    h += (long long)(int)h >> (i & 31);
    sum += step / i;
  }
  return (u32)(h ^ h >> 32) ^ (u32)(int)(sum * 1e6);
}
static u32 old(void) {
  u32 r;
  /* 0x39 + 0x48 = 0x81, in decimal 87; 87 / 10; and what only 32-bit code has. */
  __asm__ volatile("movl $0x39, %%eax; addb $0x48, %%al; daa; pusha; popa; aam $16; aad $10; into; pushl %%ds; popl %%ds"
                   : "=a"(r) : : "cc", "memory");
  return r;
}
static void hex(char *to, u32 value) {
  for (int i = 7; i >= 0; i--, value >>= 4) to[i] = "0123456789abcdef"[value & 15];
}
__attribute__((used)) static void start(u32 *sp) {
  char line[20];
  u32 *p = sp + 1 + *sp + 1;
  while (*p++) continue;
  for (; *p; p += 2) if (*p == 32) vsyscall = (void *)p[1];
  hex(line, mix(100000)); line[8] = ' '; hex(line + 9, old()); line[17] = '\n';
  by_int(4, 1, line, 18);
  if (vsyscall) for (int i = 0; i < 1000; i++) by_vdso(20, 0, 0, 0);
  by_vdso(4, 1, vsyscall ? "vdso\n" : "none\n", 5);
  by_vdso(1, 5, 0, 0);
}
__asm__(".globl _start\n_start: movl %esp, %eax; pushl %eax; call start");
