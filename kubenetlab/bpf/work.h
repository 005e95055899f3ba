/* Working memory for one packet, and forwarding of rewritten packets. */
#pragma once

#include <linux/pkt_cls.h>
#include "maps.h"
#include "refusal.h"

#define LOOPBACK 1
#define INET 2
#define INET6 10

enum manner { MASQUERADED = 1, NODE_IS_CLIENT = 2, WITHOUT_SERVICE = 4, HANDED_ON = 8 };

/* Geneve header with the option that names the endpoint. */
struct geneve {
	__u8 version_and_length;
	__u8 flags;
	__be16 protocol;
	__u8 network[3];
	__u8 zero;
	__be16 option_class;
	__u8 option_type;
	__u8 option_length;
	struct address endpoint;
	__be16 port;
	__be16 option_zero;
};

struct ipv4_wrapping {
	struct iphdr ip;
	struct udphdr udp;
	struct geneve geneve;
};

struct ipv6_wrapping {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct geneve geneve;
};

union wrapping {
	struct ipv4_wrapping ipv4;
	struct ipv6_wrapping ipv6;
};

/* Working memory for one packet; too large for the stack. */
struct work {
	struct packet packet;
	struct packet quoted;
	struct tuple key;
	struct flow flow;
	struct flow other;
	struct endpoint chosen;
	__u64 list;
	__u64 service;
	__u32 count;
	__u32 affinity_s;
	union answer answer;
	union wrapping wrapping;
	struct bpf_fib_lookup route;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

/* Return the working memory. Functions that the kernel verifies separately look it up again,
 * because older kernels do not accept an argument as key or value of a map. */
static __always_inline struct work *at_hand(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&works, &zero);
}

static __always_inline void set_key(struct tuple *key, const struct address *source, __be16 source_port, const struct address *destination,
				    __be16 destination_port, __u8 protocol, __u8 stage)
{
	key->source = *source;
	key->destination = *destination;
	key->source_port = source_port;
	key->destination_port = destination_port;
	key->protocol = protocol;
	key->stage = stage;
	key->zero = 0;
}

static __always_inline void set_flow(struct flow *flow, const struct address *source, __be16 source_port,
				     const struct address *destination, __be16 destination_port, __u32 flags)
{
	flow->source = *source;
	flow->destination = *destination;
	flow->source_port = source_port;
	flow->destination_port = destination_port;
	flow->flags = flags;
	flow->seen_ns = bpf_ktime_get_ns();
}

/* Put an Ethernet header before a packet of a link without such headers, so that another link can
 * send it. */
__noinline int add_header(struct __sk_buff *skb)
{
	struct work *work = at_hand();
	if (!work)
		return -1;
	struct packet *packet = &work->packet;
	if (packet->network)
		return 0;
	__be16 protocol = skb->protocol;
	if (bpf_skb_change_head(skb, NETWORK, 0))
		return -1;
	packet->network = NETWORK;
	packet->transport += NETWORK;
	return bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof protocol, 0);
}

__noinline int to_loopback(struct __sk_buff *skb)
{
	if (add_header(skb))
		return TC_ACT_SHOT;
	__u8 nobody[2 * ETH_ALEN] = {};
	bpf_skb_store_bytes(skb, 0, nobody, sizeof nobody, 0);
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

/* Send a packet that was turned into a reply back to where it came from. */
static __always_inline int send_back(struct __sk_buff *skb, const struct packet *packet)
{
	if (packet->tuple.stage == GOING)
		return to_loopback(skb);
	if (!packet->network)
		return bpf_redirect(skb->ifindex, 0);
	__u8 both[2 * ETH_ALEN], turned[2 * ETH_ALEN];
	if (bpf_skb_load_bytes(skb, 0, both, sizeof both))
		return TC_ACT_SHOT;
	__builtin_memcpy(turned, both + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, both, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, turned, sizeof turned, 0);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline void set_route(struct bpf_fib_lookup *route, struct __sk_buff *skb, int is_ipv6, const struct address *source,
				      const struct address *destination)
{
	__builtin_memset(route, 0, sizeof *route);
	route->ifindex = skb->ifindex;
	if (is_ipv6) {
		route->family = INET6;
		__builtin_memcpy(route->ipv6_src, source, sizeof *source);
		__builtin_memcpy(route->ipv6_dst, destination, sizeof *destination);
	} else {
		route->family = INET;
		route->ipv4_src = source->words[3];
		route->ipv4_dst = destination->words[3];
	}
}

/* Return true if packets on a link begin with their IP header. */
static __always_inline int is_bare(const struct settings *known, __u32 link)
{
	for (__u32 i = 0; i < MAX_OVERLAYS && i < known->bare_count; i++) {
		__u32 number = i; /* older kernels do not know the value of a variable on the stack */
		__u32 *bare = bpf_map_lookup_elem(&overlay_links, &number);
		if (bare && *bare == link)
			return 1;
	}
	return 0;
}

/* Return the node's own address on the overlay link by which packets to an endpoint leave the node;
 * 0 if they leave by another link. */
static __noinline const struct address *overlay_address(struct __sk_buff *skb, const struct settings *known, const struct address *source,
							const struct address *endpoint)
{
	struct work *work = at_hand();
	if (!work || !known->overlay_count)
		return 0;
	int is_ipv6 = work->packet.is_ipv6 != 0;
	struct bpf_fib_lookup *route = &work->route;
	set_route(route, skb, is_ipv6, source, endpoint);
	route->ifindex = LOOPBACK;
	route->tot_len = 1; /* 0 would compare the packet with the MTU; the node may still fragment it */
	int found = bpf_fib_lookup(skb, route, sizeof *route, 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	for (__u32 i = 0; i < MAX_OVERLAYS && i < known->overlay_count; i++) {
		__u32 number = i;
		__u32 *link = bpf_map_lookup_elem(&overlay_links, &number);
		if (!link || *link != route->ifindex)
			continue;
		struct overlay *overlay = bpf_map_lookup_elem(&overlays, &number);
		return overlay && !is_zero(&overlay->own[is_ipv6]) ? &overlay->own[is_ipv6] : 0;
	}
	return 0;
}

__noinline int to_neighbor(struct __sk_buff *skb, int is_ipv6, const struct flow *flow)
{
	struct work *work = at_hand();
	if (!work || !flow)
		return -1;
	struct bpf_fib_lookup *route = &work->route;
	set_route(route, skb, is_ipv6, &flow->source, &flow->destination);
	int found = bpf_fib_lookup(skb, route, sizeof *route, 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(route->ifindex, 0, 0, 0);
}

/* Send a rewritten packet on. */
static __always_inline int send_on(struct __sk_buff *skb, int is_ipv6, const struct settings *known, const struct flow *flow)
{
	if (flow->flags & TO_NODE)
		return to_loopback(skb);
	if (!(flow->flags & FROM_NODE))
		return CONTINUE;
	return is_same(&flow->destination, &known->node[is_ipv6]) ? to_loopback(skb) : to_neighbor(skb, is_ipv6, flow);
}
