/*
 * For tests that set the wall clock of one process: LD_PRELOAD this, and write seconds (and a sign)
 * into the file that SET_CLOCK_FILE names. The boot clock and the monotonic one stay as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	static int (*real)(clockid_t, struct timespec *);
	const char *path;
	char text[32];
	ssize_t len;
	int fd, result;

	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	result = real(clock, now);
	if (result != 0 || clock != CLOCK_REALTIME)
		return (result);
	path = getenv("SET_CLOCK_FILE");
	fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return (result);
	len = read(fd, text, sizeof text - 1);
	(void)close(fd);
	if (len > 0) {
		text[len] = '\0';
		now->tv_sec += strtol(text, NULL, 10);
	}
	return (result);
}
