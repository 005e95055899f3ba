/* Types that several programs share: addresses, and the addresses and ports of a packet.
 *
 * An address has 16 bytes, an IPv4 address as ::ffff:a.b.c.d, so that both families share maps and
 * code. Ports are in network byte order, everything else in host byte order.
 */
#pragma once

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Result of a program that leaves the packet to the next program of the link, and to the stack
 * after the last one. */
#define CONTINUE (-1)

struct address {
	__u32 words[4];
};

struct range {
	struct address first;
	struct address mask;
};

enum stage { COMING, GOING, HANDED_OVER };

/* Addresses, ports and stage of a packet before it is rewritten. The stage is COMING at tc ingress,
 * GOING at tc egress, and HANDED_OVER for a packet that another node has forwarded, which may have
 * passed this node before. */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 stage;
	__u16 zero;
};

enum flow_flag {
	IS_SERVICE = 1,  /* from the client to a Service's endpoint */
	FROM_NODE = 2,   /* the node is the client: its packets have passed the stack already */
	TO_NODE = 4,     /* reply to the node */
	IS_CLOSED = 8,   /* a FIN or RST was seen */
	IS_APART = 16,   /* from the client to the same endpoint without a Service */
	TO_HOME = 32,    /* forwarded to the endpoint's node, which translates it */
};

/* Translation: addresses and ports of the rewritten packet. */
struct flow {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 flags;
	__u64 seen_ns;
};
