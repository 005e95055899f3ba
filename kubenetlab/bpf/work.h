/* What is at hand while one packet is looked at, and where it goes when it has been rewritten. */
#pragma once

#include <linux/pkt_cls.h>
#include "refusal.h"

#define LOOPBACK 1
#define INET 2
#define INET6 10

enum manner { MASQUERADED = 1, NODE_IS_CLIENT = 2, IS_DIRECT = 4 };

/* What is at hand while one packet is looked at; too large for the stack. */
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
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

/* Functions that the kernel checks by themselves ask for it again: older kernels take no key or value of a map from an argument. */
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

__noinline int to_loopback(struct __sk_buff *skb)
{
	__u8 nobody[2 * ETH_ALEN] = {};
	bpf_skb_store_bytes(skb, 0, nobody, sizeof nobody, 0);
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

__noinline int to_neighbor(struct __sk_buff *skb, int is_ipv6, const struct flow *flow)
{
	if (!flow)
		return -1;
	struct bpf_fib_lookup route = {.ifindex = skb->ifindex};
	if (is_ipv6) {
		route.family = INET6;
		__builtin_memcpy(route.ipv6_src, &flow->source, sizeof flow->source);
		__builtin_memcpy(route.ipv6_dst, &flow->destination, sizeof flow->destination);
	} else {
		route.family = INET;
		route.ipv4_src = flow->source.words[3];
		route.ipv4_dst = flow->destination.words[3];
	}
	int found = bpf_fib_lookup(skb, &route, sizeof route, 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(route.ifindex, 0, 0, 0);
}

/* Where a packet goes that has been rewritten. */
static __always_inline int send_on(struct __sk_buff *skb, int is_ipv6, const struct settings *known, const struct flow *flow)
{
	if (flow->flags & TO_NODE)
		return to_loopback(skb);
	if (!(flow->flags & FROM_NODE))
		return TC_ACT_OK;
	return is_same(&flow->destination, &known->node[is_ipv6]) ? to_loopback(skb) : to_neighbor(skb, is_ipv6, flow);
}
