/*
 * For tests in which the runtime panics: LD_PRELOAD this, and write into the file that POLL_FAILS_FILE names how many
 * waits for events are to fail in all. Only those of threads of the runtime's name do: tokio panics at that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

static int
fails(void)
{
	static long failed;
	char name[16], text[16];
	const char *path;
	ssize_t len;
	int fd;

	if (prctl(PR_GET_NAME, name) != 0 || strcmp(name, "powderhorn") != 0)
		return (0);
	path = getenv("POLL_FAILS_FILE");
	fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return (0);
	len = read(fd, text, sizeof text - 1);
	(void)close(fd);
	text[len < 0 ? 0 : len] = '\0';
	if (failed >= strtol(text, NULL, 10))
		return (0);
	failed++;
	return (1);
}

int
epoll_wait(int fd, struct epoll_event *events, int n, int timeout)
{
	static int (*real)(int, struct epoll_event *, int, int);

	if (fails()) {
		errno = EBADF;
		return (-1);
	}
	if (real == NULL)
		real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
	return (real(fd, events, n, timeout));
}
