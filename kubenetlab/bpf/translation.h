/* Translation of packets of known flows, of their later fragments, and of ICMP errors about
 * them. */
#pragma once

#include "flows.h"

/* Return the key that all fragments of a packet have in common. */
static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	return (struct fragment_key){
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.id = packet->fragment_id,
		.protocol = packet->tuple.protocol,
		.stage = packet->tuple.stage,
	};
}

static __always_inline int translate(struct __sk_buff *skb, struct work *work, const struct settings *known, const struct flow *flow)
{
	if (work->packet.part == FIRST) {
		struct fragment_key key = fragment_key(&work->packet);
		bpf_map_update_elem(&fragments, &key, flow, BPF_ANY);
	}
	if (flow->flags & TO_HOME)
		return hand_on(skb, known);
	rewrite(skb, &work->packet, flow);
	return send_on(skb, work->packet.is_ipv6 != 0, known, flow);
}

static __always_inline int translate_fragment(struct __sk_buff *skb, struct work *work, const struct settings *known)
{
	struct fragment_key key = fragment_key(&work->packet);
	struct flow *flow = bpf_map_lookup_elem(&fragments, &key);
	if (!flow)
		return CONTINUE;
	work->flow = *flow;
	return translate(skb, work, known, &work->flow);
}

/* Translate an ICMP error about a translated packet: send it to the packet's original sender, with
 * the packet quoted as it was sent. */
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
		return CONTINUE;
	struct tuple *key = &work->key;
	set_key(key, &was->destination, was->destination_port, &was->source, was->source_port, was->protocol, packet->tuple.stage);
	struct flow *found = bpf_map_lookup_elem(&flows, key);
	if (!found || !is_same(&packet->tuple.destination, &key->destination))
		return CONTINUE;
	work->flow = *found;
	if (found->flags & TO_HOME)
		return hand_on(skb, known);

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
		bpf_l3_csum_replace(skb, packet->network + offsetof(struct iphdr, check), 0, change, 0);
	store_addresses(skb, packet->network, is_ipv6, outer);
	return send_on(skb, is_ipv6, known, outer);
}
