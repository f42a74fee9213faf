/* Preloaded into a node: a wall clock that can be set, and a disk whose syncs can fail.

   Both are told by a page shared with the runner: words[0] is added to the wall clock, in nanoseconds;
   words[1] says which syncs fail with EIO: 1 all of them, 2 only writes that sync by themselves (O_DSYNC:
   LMDB's root, after its pages have been synced). System calls are made directly, so nothing here depends
   on what else is loaded. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { CLOCK_OFFSET, FAILING_SYNCS };
enum { NONE, ALL, ROOT };

static const int64_t no_faults[2];
static const volatile int64_t *words = no_faults;

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("FAULT_SHIM_PAGE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *page = mmap(NULL, sizeof no_faults, PROT_READ, MAP_SHARED, file, 0);
  if (page != MAP_FAILED) words = page;
  close(file);
}

/* --- the clock --- */

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (syscall(SYS_clock_gettime, clock, now)) return -1;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
    int64_t total = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + words[CLOCK_OFFSET];
    now->tv_sec = total / INT64_C(1000000000);
    now->tv_nsec = total % INT64_C(1000000000);
  }
  return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (out) *out = precise.tv_sec;
  return precise.tv_sec;
}

/* --- the disk --- */

static int io_error(void) {
  errno = EIO;
  return -1;
}

int fsync(int file) {
  return words[FAILING_SYNCS] == ALL ? io_error() : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
  return words[FAILING_SYNCS] == ALL ? io_error() : (int)syscall(SYS_fdatasync, file);
}

int msync(void *start, size_t length, int flags) {
  return words[FAILING_SYNCS] == ALL ? io_error() : (int)syscall(SYS_msync, start, length, flags);
}

static ssize_t write_at(int file, const void *bytes, size_t count, off_t offset) {
  if (words[FAILING_SYNCS] != NONE) {
    int flags = fcntl(file, F_GETFL);
    if (flags != -1 && (flags & O_DSYNC)) return io_error();
  }
  return syscall(SYS_pwrite64, file, bytes, count, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
  return write_at(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off_t offset) {
  return write_at(file, bytes, count, offset);
}
