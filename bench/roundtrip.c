/* roundtrip: latency and throughput of a network path, as a program sees them.
 *
 *   roundtrip echo PORT                          send received data back
 *   roundtrip sink PORT                          discard received data
 *   roundtrip ask ADDRESS PORT CONNECTS TURNS    print the medians of connect() and of a round trip
 *                                                of one byte, in microseconds
 *   roundtrip pour ADDRESS PORT                  write for one second and print the throughput, in
 *                                                Gbit/s
 *
 * A client waits up to ten seconds for the server, and warms up before it measures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 50

static const int one = 1;
static char buffer[128 * 1024];

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, by_size);
    return values[count / 2];
}

static int die(const char *what) {
    perror(what);
    exit(1);
}

static _Noreturn void serve(int port, int is_echo) {
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), loop = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&local, sizeof local) || listen(listener, 1024)) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(loop, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int s = events[i].data.fd;
            if (s == listener) {
                if ((event.data.fd = accept(listener, NULL, NULL)) < 0) continue;
                setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(loop, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t length = read(s, buffer, sizeof buffer);
            if (length <= 0 || (is_echo && write(s, buffer, length) < 0)) close(s);
        }
    }
}

/* Return a connected socket, and the duration of connect() in `took`, in microseconds. close()
 * sends RST, so that no socket in TIME_WAIT uses up the ports. */
static int connected(const struct sockaddr_in *server, double *took) {
    struct linger by_reset = {1, 0};
    struct timeval limit = {2, 0};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_LINGER, &by_reset, sizeof by_reset);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    double begun = now_us();
    if (connect(s, (const void *)server, sizeof *server)) {
        close(s);
        return -1;
    }
    *took = now_us() - begun;
    return s;
}

static int first_connection(const struct sockaddr_in *server) {
    double unused, limit = now_us() + 10e6;
    for (;;) {
        int s = connected(server, &unused);
        if (s >= 0) return s;
        if (now_us() > limit) return die("connect");
        usleep(10000);
    }
}

static int ask(const struct sockaddr_in *server, int connects, int turns) {
    double *connecting = calloc(connects, sizeof *connecting);
    double *turning = calloc(turns, sizeof *turning), took;
    close(first_connection(server));
    for (int i = -WARM_UP; i < connects; i++) {
        int s = connected(server, &took);
        if (s < 0) return die("connect");
        if (i >= 0) connecting[i] = took;
        close(s);
        usleep(200); /* the server closes its socket meanwhile */
    }
    int s = first_connection(server);
    for (int i = -WARM_UP; i < turns; i++) {
        double begun = now_us();
        if (write(s, buffer, 1) != 1 || read(s, buffer, 1) != 1) return die("round trip");
        if (i >= 0) turning[i] = now_us() - begun;
    }
    printf("%.3f %.3f\n", median(connecting, connects), median(turning, turns));
    return 0;
}

/* Write for `us` microseconds and return the bytes written per microsecond. */
static double written(int s, double us) {
    double begun = now_us(), bytes = 0, took;
    do {
        ssize_t length = write(s, buffer, sizeof buffer);
        if (length < 0) die("write");
        bytes += length;
    } while ((took = now_us() - begun) < us);
    return bytes / took;
}

static int pour(const struct sockaddr_in *server) {
    int s = first_connection(server);
    written(s, 2e5); /* opens the TCP window */
    printf("%.3f\n", written(s, 1e6) * 8 / 1e3);
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "echo")) serve(atoi(argv[2]), 1);
    if (argc == 3 && !strcmp(argv[1], "sink")) serve(atoi(argv[2]), 0);
    struct sockaddr_in server = {.sin_family = AF_INET,
                                 .sin_port = argc > 3 ? htons(atoi(argv[3])) : 0};
    if (argc > 3 && inet_pton(AF_INET, argv[2], &server.sin_addr) == 1) {
        if (argc == 6 && !strcmp(argv[1], "ask")) return ask(&server, atoi(argv[4]), atoi(argv[5]));
        if (argc == 4 && !strcmp(argv[1], "pour")) return pour(&server);
    }
    fprintf(stderr, "usage: roundtrip echo|sink PORT | ask ADDRESS PORT CONNECTS TURNS | "
                    "pour ADDRESS PORT\n");
    return 2;
}
