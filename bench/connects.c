/* Time of COUNT TCP connects that are under way together, over loopback, by one epoll loop.
 *
 * It prints {"connect_us": N}. Run it in a network namespace of its own: it sets lo up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SERVERS 100
#define EVENTS 256

static void check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static double now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 10000, done = 0, one = 1, listeners[SERVERS];
	struct rlimit files;
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	struct linger reset = { 1, 0 };
	struct epoll_event events[EVENTS];

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	int control = socket(AF_INET, SOCK_DGRAM, 0);
	check(ioctl(control, SIOCSIFFLAGS, &lo), "set lo up");
	for (int i = 0; i < SERVERS; i++) {
		struct sockaddr_in own = { AF_INET, htons(7000 + i), { htonl(INADDR_LOOPBACK) } };
		listeners[i] = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		check(bind(listeners[i], (void *)&own, sizeof own), "bind");
		check(listen(listeners[i], 4096), "listen");
	}
	int poll = epoll_create1(0);
	double start = now_us();
	for (int i = 0; i < count; i++) {
		struct sockaddr_in to = { AF_INET, htons(7000 + i % SERVERS), { htonl(INADDR_LOOPBACK) } };
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct epoll_event event = { .events = EPOLLOUT, .data.fd = fd };
		check(fd, "socket");
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		if (connect(fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS)
			check(-1, "connect");
		check(epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
		/* Read results in between, and always at the end. */
		while (i % 64 == 63 || i == count - 1) {
			int ready = epoll_wait(poll, events, EVENTS, i == count - 1 && done < count ? 1000 : 0);
			for (int j = 0; j < ready; j++, done++)
				close(events[j].data.fd);
			if (i < count - 1 || done == count || ready <= 0)
				break;
		}
	}
	printf("{\"connect_us\": %.0f, \"done\": %d}\n", now_us() - start, done);
	return done == count ? 0 : 1;
}
