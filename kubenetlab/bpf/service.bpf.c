/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 * (the kernel lends some of its functions to programs under its own licence only)
 *
 * Services by two programs on links of a node: what comes in gets its destination, what goes out gets its source.
 *
 *     client ──▶ coming: V becomes E ──▶ the node's stack: C to E ──▶ going: C becomes N, where it is masqueraded ──▶ endpoint
 *     client ◀── going: E becomes V ◀── the node's stack: E to C ◀── coming: N becomes C ◀──────────────────────────── endpoint
 *
 * C is the client, V the Service's address, E the endpoint, N the node; each with its port. In between, routes, connection tracking and
 * the rules of others see client and endpoint, in both directions. `coming` is at tc ingress of the pods' links and of the node's uplink,
 * `going` at their egress and at that of lo.
 *
 * What the node itself sends has passed the stack when it is first seen: `going` translates it whole, and sends it where its new
 * destination asks for. What comes back is translated whole by `coming`, or by `going` on lo, and enters the stack again by lo.
 */
#include <linux/pkt_cls.h>
#include "maps.h"
#include "packet.h"
#include "refusal.h"

#define SECOND 1000000000ULL
#define HALF_OPEN_NS (60 * SECOND)
#define IDLE_NS (120 * SECOND)
#define LOOPBACK 1
#define ATTEMPTS 16
#define FIRST_PORT 1024 /* ports for what is masqueraded: below those that the node's own sockets take by themselves */
#define PORTS 28976
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

/* The Service port that a packet is for. */
static __noinline struct front *find_front(const struct tuple *asked, const struct settings *known, int is_ipv6)
{
	struct front_key key = {.address = asked->destination, .port = asked->destination_port, .protocol = asked->protocol};
	struct front *found = bpf_map_lookup_elem(&fronts, &key);
	if (found || !is_same(&asked->destination, &known->node[is_ipv6]))
		return found;
	key.kind = AT_NODE;
	key.address.words[0] = key.address.words[1] = key.address.words[3] = 0;
	key.address.words[2] = is_ipv6 ? 0 : bpf_htonl(0xffff);
	return bpf_map_lookup_elem(&fronts, &key);
}

/* By which policy a packet goes: sets the list, and returns how it is sent. */
__noinline int choose_list(const struct settings *known, const struct front *front, int is_from_node)
{
	struct work *work = at_hand();
	if (!work || !known || !front)
		return -1;
	const struct packet *packet = &work->packet;
	int is_from_pod = is_within(&packet->tuple.source, &known->pods[packet->is_ipv6 != 0]);
	int is_local = (front->flags & IS_LOCAL) != 0, masquerade = !is_from_pod || front->flags & IS_HIDING;
	if (front->flags & IS_OUTSIDE) {
		masquerade = !is_local || is_from_node;
		if (is_from_pod || is_from_node)
			is_local = 0;
	}
	work->list = is_local ? front->here : front->everywhere;
	work->count = is_local ? front->here_count : front->everywhere_count;
	work->service = front->service;
	work->affinity_s = front->affinity_s;
	return (masquerade ? MASQUERADED : 0) | (is_from_node ? NODE_IS_CLIENT : 0);
}

static __always_inline int is_member(__u64 list, const struct endpoint *endpoint)
{
	struct member_key key = {.list = list, .endpoint = *endpoint};
	return bpf_map_lookup_elem(&members, &key) != 0;
}

static __always_inline int is_admitted(const struct work *work)
{
	struct source_key key = {.prefix_length = 192, .address = work->packet.tuple.source};
	__builtin_memcpy(key.service, &work->service, sizeof key.service);
	return bpf_map_lookup_elem(&sources, &key) != 0;
}

/* Draws an endpoint, or takes the one to which the client is faithful. */
__noinline int choose_endpoint(void)
{
	struct work *work = at_hand();
	if (!work)
		return -1;
	struct client_key client = {.service = work->service, .address = work->packet.tuple.source};
	__u64 now = bpf_ktime_get_ns();
	if (work->affinity_s) {
		struct faith *faith = bpf_map_lookup_elem(&faithful, &client);
		if (faith && now - faith->since_ns < work->affinity_s * SECOND && is_member(work->list, &faith->endpoint)) {
			faith->since_ns = now;
			work->chosen = faith->endpoint;
			return 0;
		}
	}
	struct slot slot = {.list = work->list, .index = bpf_get_prandom_u32() % work->count};
	struct endpoint *drawn = bpf_map_lookup_elem(&endpoints, &slot);
	if (!drawn)
		return -1;
	work->chosen = *drawn;
	if (work->affinity_s) {
		struct faith faith = {.endpoint = *drawn, .since_ns = now};
		bpf_map_update_elem(&faithful, &client, &faith, BPF_ANY);
	}
	return 0;
}

/* Enters work->other under work->key, with a destination port that no other flow has: `first`, unless that is 0 or taken. Returns the port. */
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
		struct flow *taken = bpf_map_lookup_elem(&flows, key);
		if (taken && is_first && is_same(&taken->source, &flow->source) && taken->source_port == flow->source_port)
			break;
		if (!taken && !bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST))
			return key->destination_port;
	}
	bpf_map_update_elem(&flows, key, flow, BPF_ANY);
	return key->destination_port;
}

/* Enters all that a new flow from the packet's source to the chosen endpoint needs; what the packet becomes is in work->flow. */
__noinline int open_flow(const struct settings *known, int manner)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	const struct endpoint *chosen = &work->chosen;
	const struct address *node = &known->node[work->packet.is_ipv6 != 0];
	struct flow *flow = &work->flow, *other = &work->other;
	struct tuple *key = &work->key;
	int is_own = is_same(&chosen->address, node), is_nodes = manner & NODE_IS_CLIENT;
	__u32 flags = (manner & IS_DIRECT ? IS_APART : IS_SERVICE) | (is_nodes ? FROM_NODE : 0);

	set_flow(flow, &asked->source, 0, &chosen->address, chosen->port, flags);
	set_flow(other, &asked->destination, asked->destination_port, &asked->source, asked->source_port, is_nodes ? TO_NODE : 0);
	set_key(key, &chosen->address, chosen->port, &asked->source, 0, asked->protocol, is_nodes && !is_own ? COMING : GOING);
	flow->source_port = reserve(is_nodes ? 0 : asked->source_port);
	if (manner & MASQUERADED && !is_nodes && !is_own) {
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

/* Forgets how answers to a flow were translated. */
static __always_inline void forget_answers(struct work *work, const struct flow *flow)
{
	const struct tuple *asked = &work->packet.tuple;
	set_key(&work->key, &flow->destination, flow->destination_port, &flow->source, flow->source_port, asked->protocol, GOING);
	bpf_map_delete_elem(&flows, &work->key);
}

/* True for a packet of a connection that has been begun before. */
static __always_inline int is_underway(const struct packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP && (packet->tcp_flags & (SYN | ACK)) != SYN;
}

/* True for a packet that may begin a new flow although there is one of its addresses and ports. */
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
	struct front *front = find_front(asked, known, work->packet.is_ipv6 != 0);
	if (!front)
		return 1;
	choose_list(known, front, is_from_node);
	struct endpoint endpoint = {.address = flow->destination, .port = flow->destination_port};
	return !is_member(work->list, &endpoint);
}

__noinline int refuse(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct packet *packet = &work->packet;
	int failed = packet->tuple.protocol == IPPROTO_TCP ? reset(skb, packet, &work->answer)
							   : say_unreachable(skb, packet, &known->node[packet->is_ipv6 != 0], &work->answer);
	if (failed)
		return TC_ACT_SHOT;
	if (packet->tuple.stage == GOING)
		return to_loopback(skb);
	__u8 both[2 * ETH_ALEN], turned[2 * ETH_ALEN];
	if (bpf_skb_load_bytes(skb, 0, both, sizeof both))
		return TC_ACT_SHOT;
	__builtin_memcpy(turned, both + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, both, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, turned, sizeof turned, 0);
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline void remember_fragments(const struct packet *packet, const struct flow *flow)
{
	struct fragment_key key = {
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.id = packet->fragment_id,
		.protocol = packet->tuple.protocol,
		.stage = packet->tuple.stage,
	};
	bpf_map_update_elem(&fragments, &key, flow, BPF_ANY);
}

static __always_inline int translate(struct __sk_buff *skb, struct work *work, const struct settings *known, const struct flow *flow)
{
	if (work->packet.part == FIRST)
		remember_fragments(&work->packet, flow);
	rewrite(skb, &work->packet, flow);
	return send_on(skb, work->packet.is_ipv6 != 0, known, flow);
}

static __always_inline int translate_fragment(struct __sk_buff *skb, struct work *work, const struct settings *known)
{
	const struct packet *packet = &work->packet;
	struct fragment_key key = {
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.id = packet->fragment_id,
		.protocol = packet->tuple.protocol,
		.stage = packet->tuple.stage,
	};
	struct flow *flow = bpf_map_lookup_elem(&fragments, &key);
	if (!flow)
		return TC_ACT_OK;
	work->flow = *flow;
	rewrite(skb, &work->packet, &work->flow);
	return send_on(skb, packet->is_ipv6 != 0, known, &work->flow);
}

/* An error about a packet that had been translated: it goes where that came from, and quotes it as it was sent. */
__noinline int translate_error(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	struct packet *packet = &work->packet, *quoted = &work->quoted;
	__u32 offset = packet->transport + sizeof(struct icmp_header), sum = packet->transport + offsetof(struct icmp_header, checksum);
	int is_ipv6 = packet->is_ipv6 != 0;
	__builtin_memset(quoted, 0, sizeof *quoted);
	quoted->transport = take_ip_apart(skb, offset, is_ipv6, quoted);
	struct tuple *was = &quoted->tuple;
	if (!quoted->transport || quoted->part == LATER || !has_ports(was) || load_ports(skb, quoted->transport, was))
		return TC_ACT_OK;
	struct tuple *key = &work->key;
	set_key(key, &was->destination, was->destination_port, &was->source, was->source_port, was->protocol, packet->tuple.stage);
	struct flow *found = bpf_map_lookup_elem(&flows, key);
	if (!found || !is_same(&packet->tuple.destination, &key->destination))
		return TC_ACT_OK;
	work->flow = *found;

	struct flow *inner = &work->other, *outer = &work->flow;
	set_flow(inner, &found->destination, found->destination_port, &found->source, found->source_port, 0);
	__be16 ports[2] = {inner->source_port, inner->destination_port};
	__u32 change = address_change(was, inner);
	bpf_l4_csum_replace(skb, sum, 0, bpf_csum_diff((__be32 *)&was->source_port, 4, (__be32 *)ports, 4, 0), 0);
	if (is_ipv6)
		bpf_l4_csum_replace(skb, sum, 0, change, 0);
	else
		bpf_l3_csum_replace(skb, offset + offsetof(struct iphdr, check), 0, change, 0);
	bpf_skb_store_bytes(skb, quoted->transport, ports, sizeof ports, 0);
	store_addresses(skb, offset, is_ipv6, inner);

	if (!is_same(&packet->tuple.source, &key->source))
		outer->source = packet->tuple.source;
	change = address_change(&packet->tuple, outer);
	if (is_ipv6)
		bpf_l4_csum_replace(skb, sum, 0, change, BPF_F_PSEUDO_HDR);
	else
		bpf_l3_csum_replace(skb, NETWORK + offsetof(struct iphdr, check), 0, change, 0);
	store_addresses(skb, NETWORK, is_ipv6, outer);
	return send_on(skb, is_ipv6, known, outer);
}

/* A packet of no flow, for no Service port: what is for the Services' range is refused or dropped. What takes the addresses and ports of
 * a Service's flow to the same endpoint gets another port, so that the answers can be told apart. */
__noinline int pass_by(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	int is_ipv6 = work->packet.is_ipv6 != 0;
	if (is_within(&asked->destination, &known->services[is_ipv6])) {
		struct front_key key = {.address = asked->destination};
		return bpf_map_lookup_elem(&fronts, &key) ? refuse(skb, known) : TC_ACT_SHOT;
	}
	if (asked->stage != COMING || !has_ports(asked) || is_underway(&work->packet))
		return TC_ACT_OK;
	struct tuple *key = &work->key;
	set_key(key, &asked->destination, asked->destination_port, &asked->source, asked->source_port, asked->protocol, GOING);
	struct flow *answers = bpf_map_lookup_elem(&flows, key);
	if (!answers)
		return TC_ACT_OK;
	work->other = *answers;
	const struct flow *other = &work->other;
	set_key(key, &other->destination, other->destination_port, &other->source, other->source_port, asked->protocol, COMING);
	struct flow *flow = bpf_map_lookup_elem(&flows, key);
	if (!flow || flow->flags & IS_CLOSED || bpf_ktime_get_ns() - flow->seen_ns > IDLE_NS) {
		bpf_map_delete_elem(&flows, key);
		set_key(key, &asked->destination, asked->destination_port, &asked->source, asked->source_port, asked->protocol, GOING);
		bpf_map_delete_elem(&flows, key);
		return TC_ACT_OK;
	}
	work->chosen = (struct endpoint){.address = asked->destination, .port = asked->destination_port};
	open_flow(known, IS_DIRECT);
	return translate(skb, work, known, &work->flow);
}

/* The first packet of a flow. */
__noinline int begin(struct __sk_buff *skb, const struct settings *known, int is_from_node)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	struct front *front = has_ports(asked) ? find_front(asked, known, work->packet.is_ipv6 != 0) : 0;
	if (!front)
		return pass_by(skb, known);
	if (is_underway(&work->packet))
		return TC_ACT_OK; /* by the rules of a former mode: connection tracking may know its way */
	int manner = choose_list(known, front, is_from_node);
	if (front->flags & IS_FENCED && !is_admitted(work))
		return TC_ACT_SHOT;
	if (!work->count)
		return front->everywhere_count ? TC_ACT_SHOT : refuse(skb, known);
	if (choose_endpoint())
		return TC_ACT_SHOT;
	if (is_same(&work->chosen.address, &work->packet.tuple.source))
		manner |= MASQUERADED;
	if (open_flow(known, manner))
		return TC_ACT_SHOT;
	return translate(skb, work, known, &work->flow);
}

/* What goes out and nobody has translated: a connection to a cluster IP that nobody knows any more is ended. */
static __always_inline int end_lost(struct __sk_buff *skb, struct work *work, const struct settings *known)
{
	int is_lost = is_underway(&work->packet) && is_within(&work->packet.tuple.destination, &known->services[work->packet.is_ipv6 != 0]);
	return is_lost ? refuse(skb, known) : TC_ACT_OK;
}

static __always_inline int look_at(struct __sk_buff *skb, int stage)
{
	__u32 zero = 0;
	struct work *work = at_hand();
	const struct settings *known = bpf_map_lookup_elem(&settings, &zero);
	if (!work || !known || !take_apart(skb, stage, &work->packet))
		return TC_ACT_OK;
	if (work->packet.part == LATER)
		return translate_fragment(skb, work, known);
	if (is_icmp_error(&work->packet))
		return translate_error(skb, known);
	int is_from_node = stage == GOING && !skb->ingress_ifindex;
	struct flow *flow = bpf_map_lookup_elem(&flows, &work->packet.tuple);
	if (flow && is_stale(known, flow, is_from_node)) {
		forget_answers(work, flow);
		flow = 0;
	}
	if (!flow)
		return stage == COMING || is_from_node ? begin(skb, known, is_from_node) : end_lost(skb, work, known);
	if (work->packet.tcp_flags & (FIN | RST))
		flow->flags |= IS_CLOSED;
	flow->seen_ns = bpf_ktime_get_ns();
	work->flow = *flow;
	return translate(skb, work, known, &work->flow);
}

SEC("tc") int coming(struct __sk_buff *skb)
{
	return look_at(skb, COMING);
}

SEC("tc") int going(struct __sk_buff *skb)
{
	return look_at(skb, GOING);
}

char _license[] SEC("license") = "GPL";
