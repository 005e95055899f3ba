/* floor: the fastest known way to create N "pods" on one Linux host, and nothing else.
 *
 * A pod is a network namespace held by a process, with a veth pair (one end is a port of a bridge,
 * the other is eth0), an IPv4 address, a default route, and lo up. The bridges are created in the
 * network namespace in which the program starts: unshare -n ./floor N
 *
 * Each side has one rtnetlink socket. One message creates the veth pair: the peer is in the pod,
 * with its name and a known index, and the near end is up and on its bridge. One sendmsg with five
 * messages configures the pod. There are no look-ups, no dumps, and one ACK per batch. There are no
 * IPv6 link-local addresses: kernel workers that detect duplicates contend for the RTNL lock. Links
 * have one queue, because each queue is a directory in sysfs. A bridge has at most 1,023 ports, so
 * every 1,000 pods get a new one.
 *
 * Output is one line of JSON; `create_us` is the time from the first bridge to the last pod.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORTS_OF_A_BRIDGE 1000
#define GATEWAY 0x0af40001 /* 10.244.0.1; pods have the next addresses */
#define FIRST_BRIDGE 50000 /* first interface index of bridges; near ends of pods begin at 100 */

static const int one = 1;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void die(const char *what, int error) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(error));
    exit(1);
}

/* --- netlink: a batch of messages, and attributes of the last one --- */

struct batch {
    char bytes[2048];
    unsigned length;
};

static struct nlmsghdr *message(struct batch *b, int type, int flags, const void *body,
                                unsigned length) {
    struct nlmsghdr *m = (void *)(b->bytes + b->length);
    memset(m, 0, sizeof *m);
    m->nlmsg_type = type;
    m->nlmsg_flags = NLM_F_REQUEST | flags;
    m->nlmsg_len = NLMSG_LENGTH(length);
    memcpy(NLMSG_DATA(m), body, length);
    b->length += NLMSG_ALIGN(m->nlmsg_len);
    return m;
}

static void append(struct batch *b, struct nlmsghdr *m, const void *data, unsigned length) {
    memcpy(b->bytes + b->length, data, length);
    b->length += NLMSG_ALIGN(length);
    m->nlmsg_len = b->bytes + b->length - (char *)m;
}

static struct rtattr *attribute(struct batch *b, struct nlmsghdr *m, int type, const void *data,
                                unsigned length) {
    struct rtattr *a = (void *)(b->bytes + b->length);
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(length);
    b->length += RTA_LENGTH(0);
    append(b, m, data, length);
    return a;
}

static struct rtattr *nest(struct batch *b, struct nlmsghdr *m, int type) {
    return attribute(b, m, type, "", 0);
}

static void end(struct batch *b, struct rtattr *a) {
    a->rta_len = b->bytes + b->length - (char *)a;
}

static int open_netlink(void) {
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (s < 0) die("socket", errno);
    setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
    return s;
}

/* Send a batch whose last message requests an ACK, and wait for that or for the first error. */
static void talk(int s, struct batch *b, const char *what) {
    char answer[8192];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(s, b->bytes, b->length, 0, (void *)&kernel, sizeof kernel) < 0) die(what, errno);
    for (;;) {
        ssize_t length = recv(s, answer, sizeof answer, 0);
        if (length < 0) die(what, errno);
        for (struct nlmsghdr *m = (void *)answer; NLMSG_OK(m, length); m = NLMSG_NEXT(m, length))
            if (m->nlmsg_type == NLMSG_ERROR) {
                int error = -((struct nlmsgerr *)NLMSG_DATA(m))->error;
                if (error) die(what, error);
                return;
            }
    }
}

/* --- bridges, veth pairs and pods --- */

static void make_bridge(int s, int number) {
    struct batch b = {.length = 0};
    char name[16];
    unsigned char mac[6] = {2, 0, 0, 0, 0, number + 1};
    struct ifinfomsg link = {
        .ifi_index = FIRST_BRIDGE + number, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct nlmsghdr *m = message(&b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
    attribute(&b, m, IFLA_IFNAME, name, snprintf(name, sizeof name, "br%d", number) + 1);
    attribute(&b, m, IFLA_ADDRESS, mac, sizeof mac);
    struct rtattr *info = nest(&b, m, IFLA_LINKINFO);
    attribute(&b, m, IFLA_INFO_KIND, "bridge", 6);
    end(&b, info);

    struct ifaddrmsg address = {
        .ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = FIRST_BRIDGE + number};
    uint32_t ip = htonl(GATEWAY);
    m = message(&b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_ACK, &address, sizeof address);
    attribute(&b, m, IFA_LOCAL, &ip, sizeof ip);
    attribute(&b, m, IFA_ADDRESS, &ip, sizeof ip);
    talk(s, &b, "bridge");
}

static void make_veth(int s, int pod) {
    struct batch b = {.length = 0};
    char name[16];
    int bridge = FIRST_BRIDGE + pod / PORTS_OF_A_BRIDGE, pid = getpid();
    struct ifinfomsg link = {.ifi_index = 100 + pod, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct ifinfomsg far = {.ifi_index = 2};
    struct nlmsghdr *m =
        message(&b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &link, sizeof link);
    attribute(&b, m, IFLA_IFNAME, name, snprintf(name, sizeof name, "v%d", pod) + 1);
    attribute(&b, m, IFLA_MASTER, &bridge, sizeof bridge);
    attribute(&b, m, IFLA_NUM_TX_QUEUES, &one, sizeof one);
    attribute(&b, m, IFLA_NUM_RX_QUEUES, &one, sizeof one);
    struct rtattr *info = nest(&b, m, IFLA_LINKINFO);
    attribute(&b, m, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = nest(&b, m, IFLA_INFO_DATA), *peer = nest(&b, m, VETH_INFO_PEER);
    append(&b, m, &far, sizeof far);
    attribute(&b, m, IFLA_IFNAME, "eth0", 5);
    attribute(&b, m, IFLA_NET_NS_PID, &pid, sizeof pid);
    attribute(&b, m, IFLA_NUM_TX_QUEUES, &one, sizeof one);
    attribute(&b, m, IFLA_NUM_RX_QUEUES, &one, sizeof one);
    end(&b, peer);
    end(&b, data);
    end(&b, info);
    talk(s, &b, "veth");
}

static void set_up_pod(int s, int pod) {
    struct batch b = {.length = 0};
    struct ifinfomsg lo = {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct ifinfomsg eth0 = {.ifi_index = 2};
    struct ifinfomsg eth0_up = {.ifi_index = 2, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    message(&b, RTM_NEWLINK, 0, &lo, sizeof lo);

    uint8_t mode = IN6_ADDR_GEN_MODE_NONE;
    struct nlmsghdr *m = message(&b, RTM_NEWLINK, 0, &eth0, sizeof eth0);
    struct rtattr *families = nest(&b, m, IFLA_AF_SPEC), *family = nest(&b, m, AF_INET6);
    attribute(&b, m, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof mode);
    end(&b, family);
    end(&b, families);

    struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = 2};
    uint32_t ip = htonl(GATEWAY + 1 + pod), gateway = htonl(GATEWAY);
    m = message(&b, RTM_NEWADDR, NLM_F_CREATE, &address, sizeof address);
    attribute(&b, m, IFA_LOCAL, &ip, sizeof ip);
    attribute(&b, m, IFA_ADDRESS, &ip, sizeof ip);
    message(&b, RTM_NEWLINK, 0, &eth0_up, sizeof eth0_up);

    struct rtmsg route = {.rtm_family = AF_INET,
                          .rtm_table = RT_TABLE_MAIN,
                          .rtm_protocol = RTPROT_STATIC,
                          .rtm_type = RTN_UNICAST};
    int index = 2;
    m = message(&b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_ACK, &route, sizeof route);
    attribute(&b, m, RTA_GATEWAY, &gateway, sizeof gateway);
    attribute(&b, m, RTA_OIF, &index, sizeof index);
    talk(s, &b, "pod");
}

/* Start a pause process in the current namespace: this program again, called "pause". */
static pid_t hold(void) {
    pid_t pid = vfork();
    if (pid < 0) die("vfork", errno);
    if (!pid) {
        execl("/proc/self/exe", "pause", (char *)NULL);
        _exit(127);
    }
    return pid;
}

int main(int argc, char **argv) {
    if (!strcmp(argv[0], "pause"))
        for (;;) pause();
    int pods = argc == 2 ? atoi(argv[1]) : 0;
    if (pods < 1 || pods > 40000) {
        fprintf(stderr, "usage: floor N, from 1 to 40000\n");
        return 2;
    }
    pid_t *pids = calloc(pods, sizeof *pids);
    int near = open_netlink(); /* a socket stays in the namespace in which it was opened */
    double begun = now_us();
    /* The near ends inherit this setting. */
    int inherited = open("/proc/sys/net/ipv6/conf/default/addr_gen_mode", O_WRONLY | O_CLOEXEC);
    if (inherited >= 0 && write(inherited, "1", 1) == 1) close(inherited);
    for (int pod = 0; pod < pods; pod++) {
        if (pod % PORTS_OF_A_BRIDGE == 0) make_bridge(near, pod / PORTS_OF_A_BRIDGE);
        if (unshare(CLONE_NEWNET)) die("unshare", errno);
        int inside = open_netlink();
        make_veth(near, pod);
        set_up_pod(inside, pod);
        close(inside);
        pids[pod] = hold();
    }
    printf("{\"pods\":%d,\"create_us\":%.0f}\n", pods, now_us() - begun);
    for (int pod = 0; pod < pods; pod++) kill(pids[pod], SIGKILL);
    for (int pod = 0; pod < pods; pod++) waitpid(pids[pod], NULL, 0);
    return 0;
}
