/* Threads: mutexes, condition variables, atomics of all sizes, thread-local storage, cancellation. */
#include "check.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#define THREADS 8
#define ROUNDS 20000
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long plain;
static _Atomic long counter;
static _Atomic unsigned char small;
static _Atomic unsigned short medium;
static _Atomic unsigned bits;
static struct pair { uint64_t a, b; } pair __attribute__((aligned(16)));
static _Thread_local long own;
static atomic_flag spin = ATOMIC_FLAG_INIT;
static long spun;
static int turn;
static sem_t items;
static pthread_barrier_t gate;

static void both(uint64_t da, uint64_t db) {
  uint64_t a = pair.a, b = pair.b;
  unsigned char ok;
  do
    __asm__ volatile("lock cmpxchg16b %1; setz %0" : "=q"(ok), "+m"(pair), "+a"(a), "+d"(b) : "b"(a + da), "c"(b + db) : "cc");
  while (!ok);
}

static void *work(void *argument) {
  long id = (long)argument;
  for (int i = 0; i < ROUNDS; i++) {
    pthread_mutex_lock(&lock);
    plain += id;
    pthread_mutex_unlock(&lock);
    counter += id;
    small++;
    medium -= 3;
    atomic_fetch_xor(&bits, 1u << (i & 31));
    own += i;
    both(1, (uint64_t)id);
    long old = counter;
    while (!atomic_compare_exchange_weak(&counter, &old, old + 1)) continue;
    while (atomic_flag_test_and_set(&spin)) sched_yield();
    spun++;
    atomic_flag_clear(&spin);
  }
  pthread_barrier_wait(&gate);
  for (int i = 0; i < 50; i++) {
    pthread_mutex_lock(&lock);
    while (turn % THREADS != id) pthread_cond_wait(&changed, &lock);
    turn++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
  sem_post(&items);
  return (void *)own;
}

static void *endless(void *argument) {
  for (;;) sem_wait(argument);
  return 0;
}

int main(void) {
  pthread_t threads[THREADS];
  sem_init(&items, 0, 0);
  pthread_barrier_init(&gate, 0, THREADS);
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, work, (void *)i);
  long total = 0;
  for (int i = 0; i < THREADS; i++) {
    void *result;
    pthread_join(threads[i], &result);
    total += (long)result;
    sem_wait(&items);
  }
  printf("%ld %ld %u %u %x %llu %llu %ld %ld %d\n", plain, (long)counter, small, medium, bits, (unsigned long long)pair.a,
         (unsigned long long)pair.b, total, spun, turn);
  pthread_t waiter;
  void *result;
  pthread_create(&waiter, 0, endless, &items);
  pthread_cancel(waiter);
  pthread_join(waiter, &result);
  printf("cancelled %d\n", result == PTHREAD_CANCELED);
  return 0;
}
