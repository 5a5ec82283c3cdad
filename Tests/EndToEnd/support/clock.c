// A wall clock that is some seconds off, for one process: LD_PRELOAD this, with the seconds as a long in the file CLOCK.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long *offset;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CLOCK");
  int file = path ? open(path, O_RDONLY) : -1;
  void *seen = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  if (seen != MAP_FAILED) offset = seen;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec real;
  clock_gettime(CLOCK_REALTIME, &real);
  now->tv_sec = real.tv_sec + (offset ? *offset : 0);
  now->tv_usec = real.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timeval seen;
  gettimeofday(&seen, NULL);
  if (now) *now = seen.tv_sec;
  return seen.tv_sec;
}
