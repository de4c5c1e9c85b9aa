/* Loaded into a process of a world that is to be hurt (LD_PRELOAD): its wall clock can be stepped from outside.
 *
 * The number of nanoseconds that stand in the file named by ATOLL_CLOCK_OFFSET (one int64 of this machine's byte order,
 * mapped, so that a change holds at once) is added to every reading of the wall clock, whoever in the process reads it:
 * our own code, TLS, SQLite, Python's datetime. The monotonic clocks, and all sleeping and waiting, which go by those,
 * are left alone, as they are when an operator or NTP steps a machine's clock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL

static const volatile int64_t *offset_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("ATOLL_CLOCK_OFFSET");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) offset_ns = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    /* Before `begin` there is no library's function to go through, and no offset. */
    int failed = real_clock_gettime ? real_clock_gettime(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (!failed && wall && offset_ns) {
        int64_t moved = (int64_t)now->tv_sec * BILLION + now->tv_nsec + *offset_ns;
        now->tv_sec = moved / BILLION;
        now->tv_nsec = moved % BILLION;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec moved;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &moved)) return -1;
    now->tv_sec = moved.tv_sec;
    now->tv_usec = moved.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec moved;
    if (clock_gettime(CLOCK_REALTIME, &moved)) return (time_t)-1;
    if (told) *told = moved.tv_sec;
    return moved.tv_sec;
}
