/* Creation, expiry and deletion of flows. */
#pragma once

#include "choice.h"

#define HALF_OPEN_NS (60 * SECOND)
#define IDLE_NS (120 * SECOND)
#define ATTEMPTS 16
/* Source ports of masqueraded flows, below the ephemeral ports of the node's own sockets. */
#define FIRST_PORT 1024
#define PORTS 28976

/* Store work->other under work->key with an unused destination port, and return the port. `first`
 * is preferred, unless it is 0. */
__noinline int reserve(int first)
{
	struct work *work = at_hand();
	if (!work)
		return -1;
	struct tuple *key = &work->key;
	const struct flow *flow = &work->other;
	for (int i = 0; i < ATTEMPTS; i++) {
		int is_first = i == 0 && first;
		key->destination_port = is_first ? first : bpf_htons(FIRST_PORT + bpf_get_prandom_u32() % PORTS);
		if (!is_first && key->destination_port == key->source_port)
			continue; /* an endpoint that is its own client could not tell requests from replies */
		struct flow *taken = bpf_map_lookup_elem(&flows, key);
		if (taken && is_first && is_same(&taken->source, &flow->source) && taken->source_port == flow->source_port)
			break;
		if (!taken && !bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST))
			return key->destination_port;
	}
	bpf_map_update_elem(&flows, key, flow, BPF_ANY);
	return key->destination_port;
}

/* Store all entries of a new flow from the packet's source to work->chosen. The translation of the
 * packet is in work->flow afterwards. */
__noinline int open_flow(struct __sk_buff *skb, const struct settings *known, int manner)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	const struct endpoint *chosen = &work->chosen;
	const struct address *node = &known->node[work->packet.is_ipv6 != 0], *client = &asked->source;
	struct flow *flow = &work->flow, *other = &work->other;
	struct tuple *key = &work->key;
	if (manner & HANDED_ON) {
		set_flow(flow, &asked->source, asked->source_port, &chosen->address, chosen->port, IS_SERVICE | TO_HOME);
		*key = *asked;
		return bpf_map_update_elem(&flows, key, flow, BPF_ANY);
	}
	int is_own = is_same(&chosen->address, node), is_nodes = manner & NODE_IS_CLIENT;
	int is_masqueraded = manner & MASQUERADED && !is_nodes && !is_own;
	/* On a link between nodes, the node has the address that the link's other end knows. */
	const struct address *own = is_masqueraded || (is_nodes && !is_own) ? overlay_address(skb, known, client, &chosen->address) : 0;
	if (is_nodes && own)
		client = own;
	else if (own)
		node = own;
	__u32 flags = (manner & WITHOUT_SERVICE ? IS_APART : IS_SERVICE) | (is_nodes ? FROM_NODE : 0);

	set_flow(flow, client, 0, &chosen->address, chosen->port, flags);
	set_flow(other, &asked->destination, asked->destination_port, &asked->source, asked->source_port, is_nodes ? TO_NODE : 0);
	set_key(key, &chosen->address, chosen->port, client, 0, asked->protocol, is_nodes && !is_own ? COMING : GOING);
	/* Between both programs a masqueraded flow has a port that clients do not use, because a
	 * client may use its own port to reach the endpoint directly. */
	flow->source_port = reserve(is_nodes || is_masqueraded ? 0 : asked->source_port);
	if (is_masqueraded) {
		set_flow(other, &chosen->address, chosen->port, &asked->source, flow->source_port, 0);
		set_key(key, &chosen->address, chosen->port, node, 0, asked->protocol, COMING);
		__be16 port = reserve(0);
		set_flow(other, node, port, &chosen->address, chosen->port, 0);
		set_key(key, &asked->source, flow->source_port, &chosen->address, chosen->port, asked->protocol, GOING);
		bpf_map_update_elem(&flows, key, other, BPF_ANY);
	}
	*key = *asked;
	return bpf_map_update_elem(&flows, key, flow, BPF_ANY);
}

/* Delete the flow work->flow, stored under work->key, with the entries for its replies and for
 * masquerading. */
__noinline int forget(void)
{
	struct work *work = at_hand();
	if (!work)
		return -1;
	struct tuple *key = &work->key;
	const struct flow *flow = &work->flow;
	struct flow *other = &work->other;
	__u8 protocol = key->protocol;
	bpf_map_delete_elem(&flows, key);
	if (flow->flags & TO_HOME)
		return 0;
	set_key(key, &flow->destination, flow->destination_port, &flow->source, flow->source_port, protocol, GOING);
	bpf_map_delete_elem(&flows, key);
	if (flow->flags & FROM_NODE) {
		key->stage = COMING;
		bpf_map_delete_elem(&flows, key);
	}
	set_key(key, &flow->source, flow->source_port, &flow->destination, flow->destination_port, protocol, GOING);
	struct flow *outward = bpf_map_lookup_elem(&flows, key);
	if (!outward)
		return 0;
	*other = *outward;
	bpf_map_delete_elem(&flows, key);
	set_key(key, &flow->destination, flow->destination_port, &other->source, other->source_port, protocol, COMING);
	bpf_map_delete_elem(&flows, key);
	return 0;
}

/* Delete the packet's own flow. */
static __always_inline void forget_its(struct work *work, const struct flow *flow)
{
	work->key = work->packet.tuple;
	work->flow = *flow;
	forget();
}

/* Return true for a TCP packet that does not start a connection. */
static __always_inline int is_underway(const struct packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP && (packet->tcp_flags & (SYN | ACK)) != SYN;
}

/* Return true if a packet may replace the existing flow of its addresses and ports. */
__noinline int is_stale(const struct settings *known, const struct flow *flow, int is_from_node)
{
	struct work *work = at_hand();
	if (!work || !known || !flow)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	int is_tcp = asked->protocol == IPPROTO_TCP;
	if (!(flow->flags & (IS_SERVICE | IS_APART)) || is_underway(&work->packet))
		return 0;
	if (flow->flags & IS_CLOSED || bpf_ktime_get_ns() - flow->seen_ns > (is_tcp ? HALF_OPEN_NS : IDLE_NS))
		return 1;
	if (flow->flags & IS_APART)
		return 0;
	struct front *front = find_front(asked, work->packet.is_ipv6 != 0);
	if (!front || (flow->flags & TO_HOME && !(front->flags & IS_DIRECT)))
		return 1;
	choose_list(known, front, is_from_node);
	struct endpoint endpoint = {.address = flow->destination, .port = flow->destination_port};
	return !is_member(work->list, &endpoint);
}
