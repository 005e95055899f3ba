/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 * (some helper functions of the kernel are available to GPL programs only)
 *
 * Services by two programs on the links of a node. `coming` translates destinations of packets that
 * enter the node, `going` translates sources of packets that leave it:
 *
 *     client ──▶ coming: V → E ──▶ stack: C to E ──▶ going: C → N if masqueraded ──▶ endpoint
 *     client ◀── going: E → V ◀── stack: E to C ◀── coming: N → C if masqueraded ◀── endpoint
 *
 * C is the client, V the Service's address, E the endpoint, N the node; each with its port. Between
 * both programs, routes, connection tracking and other rules see client and endpoint, in both
 * directions. `coming` is attached to tc ingress of the pods' links, of the node's uplink and of
 * its overlay links, such as tunnels to other nodes; `going` to tc egress of these links and of lo.
 *
 * N is the address of the link by which packets to the endpoint leave: replies then come back by
 * the same tunnel, and a tunnel that checks sources (WireGuard) accepts the packets.
 *
 * Packets of the node itself have passed its stack when `going` first sees them. `going` therefore
 * translates source and destination, and sends the packet to the neighbour of its new destination.
 * Replies are translated completely by `coming`, or by `going` on lo, and enter the stack by lo.
 *
 * With direct server return only the endpoint's node translates (handing.h):
 *
 *     client ──▶ coming: C to V in Geneve ──▶ other node's coming: V → E ──▶ stack ──▶ endpoint
 *     client ◀───────────────────────────────── other node's going: E → V ◀── stack ◀── endpoint
 */
#include "translation.h"

__noinline int refuse(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct packet *packet = &work->packet;
	int is_ipv6 = packet->is_ipv6 != 0, failed;
	if (packet->tuple.protocol == IPPROTO_TCP) {
		failed = reset(skb, packet, &work->answer);
	} else {
		struct icmp_header word = {};
		set_unreachable(&word, is_ipv6);
		failed = say(skb, packet, &known->node[is_ipv6], &work->answer, &word);
	}
	return failed ? TC_ACT_SHOT : send_back(skb, packet);
}

/* Handle a packet without flow and frontend. Packets to the Service range are refused or dropped. A
 * packet with the same addresses and ports as a Service's flow to the same endpoint gets another
 * port, so that replies can be told apart. */
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
		return CONTINUE;
	struct tuple *key = &work->key;
	set_key(key, &asked->destination, asked->destination_port, &asked->source, asked->source_port, asked->protocol, GOING);
	struct flow *answers = bpf_map_lookup_elem(&flows, key);
	if (!answers)
		return CONTINUE;
	work->other = *answers;
	const struct flow *other = &work->other;
	set_key(key, &other->destination, other->destination_port, &other->source, other->source_port, asked->protocol, COMING);
	struct flow *flow = bpf_map_lookup_elem(&flows, key);
	if (!flow || flow->flags & IS_CLOSED || bpf_ktime_get_ns() - flow->seen_ns > IDLE_NS) {
		if (flow) {
			work->flow = *flow;
			forget();
		}
		set_key(key, &asked->destination, asked->destination_port, &asked->source, asked->source_port, asked->protocol, GOING);
		bpf_map_delete_elem(&flows, key);
		return CONTINUE;
	}
	work->chosen = (struct endpoint){.address = asked->destination, .port = asked->destination_port};
	open_flow(skb, known, WITHOUT_SERVICE);
	return translate(skb, work, known, &work->flow);
}

/* Handle the first packet of a flow. */
__noinline int begin(struct __sk_buff *skb, const struct settings *known, int is_from_node)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	struct front *front = has_ports(asked) ? find_front(asked, work->packet.is_ipv6 != 0) : 0;
	if (!front)
		return pass_by(skb, known);
	if (is_underway(&work->packet))
		return CONTINUE; /* connection tracking may know it from a former proxy mode */
	int manner = choose_list(known, front, is_from_node);
	if (front->flags & IS_FENCED && !is_admitted(work))
		return TC_ACT_SHOT;
	if (!work->count)
		return front->everywhere_count ? TC_ACT_SHOT : refuse(skb, known);
	if (choose_endpoint())
		return TC_ACT_SHOT;
	if (is_same(&work->chosen.address, &work->packet.tuple.source))
		manner |= MASQUERADED;
	else if (front->flags & IS_DIRECT && manner == MASQUERADED)
		manner = sent_directly(work, known, manner);
	if (open_flow(skb, known, manner))
		return TC_ACT_SHOT;
	return translate(skb, work, known, &work->flow);
}

static __always_inline int follow(struct __sk_buff *skb, struct work *work, const struct settings *known, struct flow *flow)
{
	if (work->packet.tcp_flags & (FIN | RST))
		flow->flags |= IS_CLOSED;
	flow->seen_ns = bpf_ktime_get_ns();
	work->flow = *flow;
	return translate(skb, work, known, &work->flow);
}

/* Handle a packet that another node has forwarded, for the endpoint that it has chosen. */
static __always_inline int take_in(struct __sk_buff *skb, struct work *work, const struct settings *known, struct flow *flow)
{
	const struct endpoint *chosen = &work->chosen;
	if (flow && is_same(&flow->destination, &chosen->address) && flow->destination_port == chosen->port) {
		if (!is_underway(&work->packet))
			flow->flags &= ~IS_CLOSED;
		return follow(skb, work, known, flow);
	}
	if (flow)
		forget_its(work, flow);
	return open_flow(skb, known, 0) ? TC_ACT_SHOT : translate(skb, work, known, &work->flow);
}

/* Give a packet that leaves the node untranslated another source port if its replies would be taken
 * for those of a flow: connection tracking, which masquerades packets, too, does not know the ports
 * that `reserve` has given away. */
__noinline int keep_apart(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return -1;
	const struct tuple *asked = &work->packet.tuple;
	__u16 port = bpf_ntohs(asked->source_port);
	if (port < FIRST_PORT || port >= FIRST_PORT + PORTS || !has_ports(asked) || is_underway(&work->packet))
		return CONTINUE;
	struct tuple *key = &work->key;
	struct flow *flow = &work->flow, *other = &work->other;
	set_key(key, &asked->destination, asked->destination_port, &asked->source, asked->source_port, asked->protocol, COMING);
	const struct flow *taken = bpf_map_lookup_elem(&flows, key);
	if (!taken || taken->flags & (IS_SERVICE | IS_APART))
		return CONTINUE;
	set_flow(other, &asked->destination, asked->destination_port, &asked->source, asked->source_port, 0);
	set_flow(flow, &asked->source, reserve(0), &asked->destination, asked->destination_port, IS_APART);
	*key = *asked;
	return bpf_map_update_elem(&flows, key, flow, BPF_ANY) ? TC_ACT_SHOT : translate(skb, work, known, flow);
}

/* Handle an untranslated packet that leaves the node: reset an unknown connection to a cluster
 * IP. */
static __always_inline int pass_out(struct __sk_buff *skb, struct work *work, const struct settings *known)
{
	int is_lost = is_underway(&work->packet) && is_within(&work->packet.tuple.destination, &known->services[work->packet.is_ipv6 != 0]);
	return is_lost ? refuse(skb, known) : keep_apart(skb, known);
}

static __always_inline int look_at(struct __sk_buff *skb, int stage)
{
	__u32 zero = 0;
	struct work *work = at_hand();
	const struct settings *known = bpf_map_lookup_elem(&settings, &zero);
	if (!work || !known)
		return CONTINUE;
	__u32 network = is_bare(known, skb->ifindex) ? 0 : NETWORK;
	if (!take_apart(skb, stage, network, &work->packet))
		return CONTINUE;
	int is_handed_on = stage == COMING && unwrap(skb, known);
	if (work->packet.part == LATER)
		return translate_fragment(skb, work, known);
	if (is_icmp_error(&work->packet))
		return translate_error(skb, known);
	int is_from_node = stage == GOING && !skb->ingress_ifindex;
	struct flow *flow = bpf_map_lookup_elem(&flows, &work->packet.tuple);
	if (is_handed_on)
		return take_in(skb, work, known, flow);
	if (flow && is_stale(known, flow, is_from_node)) {
		forget_its(work, flow);
		flow = 0;
	}
	if (!flow)
		return stage == COMING || is_from_node ? begin(skb, known, is_from_node) : pass_out(skb, work, known);
	return follow(skb, work, known, flow);
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
