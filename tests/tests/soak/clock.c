/* A clock that is set: the time of day jumps to another year, before or after, twenty times a second. Time that only
   goes forward, by which programs measure, goes on. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        unsigned jump = (unsigned)time->tv_sec * 20 + (unsigned)(time->tv_nsec / 50000000);
        time->tv_sec += (time_t)(jump * 2654435761u >> 1) - (1 << 30);
    }
    return failed;
}
