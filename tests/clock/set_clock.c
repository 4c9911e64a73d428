/*
 * For tests that set the wall clock of one process: LD_PRELOAD this, and write seconds (and a sign)
 * into the file that SET_CLOCK_FILE names. The boot clock and the monotonic one stay as they are.
 *
 * Who waits until a time of that clock waits by the kernel's: so that a wait is as long as it was meant to
 * be, its end is taken back there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long
offset(void)
{
	const char *path;
	char text[32];
	ssize_t len;
	int fd;

	path = getenv("SET_CLOCK_FILE");
	fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return (0);
	len = read(fd, text, sizeof text - 1);
	(void)close(fd);
	if (len <= 0)
		return (0);
	text[len] = '\0';
	return (strtol(text, NULL, 10));
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	static int (*real)(clockid_t, struct timespec *);
	int result;

	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	result = real(clock, now);
	if (result == 0 && clock == CLOCK_REALTIME)
		now->tv_sec += offset();
	return (result);
}

int
pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
	static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	struct timespec kernels = *until;

	if (real == NULL)
		real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))
		    dlsym(RTLD_NEXT, "pthread_cond_timedwait");
	kernels.tv_sec -= offset();
	return (real(cond, mutex, &kernels));
}
