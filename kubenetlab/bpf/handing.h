/* Direct server return: a packet is forwarded unchanged to the node of its endpoint, and that node
 * replies to the client.
 *
 * The packet is encapsulated in Geneve (RFC 8926). A Geneve option names the endpoint, because the
 * destination of the packet is still the Service's address. The node's stack does not see it.
 */
#pragma once

#include "work.h"

#define GENEVE_PORT 6081
#define GENEVE_OPTION_CLASS 0xff80 /* reserved for experiments */
#define GENEVE_OPTION_TYPE 0x81    /* the endpoint; critical: receivers must know the option */
#define GENEVE_LENGTH 6		   /* length of the option, in words of four bytes */
#define FIRST_EPHEMERAL 0xc000

/* Return the node that has an address; 0 for this node and for addresses outside of the cluster. */
static __always_inline struct address *home_of(const struct address *address)
{
	struct home_key key = {.prefix_length = 128, .address = *address};
	return bpf_map_lookup_elem(&homes, &key);
}

static __always_inline void set_geneve(struct udphdr *udp, struct geneve *geneve, __u16 length, __u32 hash, int is_ipv6,
				       const struct flow *flow)
{
	udp->source = bpf_htons(FIRST_EPHEMERAL | (hash & ~FIRST_EPHEMERAL & 0xffff));
	udp->dest = bpf_htons(GENEVE_PORT);
	udp->len = bpf_htons(length);
	udp->check = 0; /* RFC 6935: the inner packet has its own checksum */
	__builtin_memset(geneve, 0, sizeof *geneve);
	geneve->version_and_length = GENEVE_LENGTH;
	geneve->protocol = is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	geneve->option_class = bpf_htons(GENEVE_OPTION_CLASS);
	geneve->option_type = GENEVE_OPTION_TYPE;
	geneve->option_length = GENEVE_LENGTH - 1;
	geneve->endpoint = flow->destination;
	geneve->port = flow->destination_port;
}

/* Encapsulate a packet for the node of its flow's endpoint. */
__noinline int wrap(struct __sk_buff *skb, const struct settings *known, const struct address *home)
{
	struct work *work = at_hand();
	if (!work || !known || !home)
		return -1;
	__u32 hash = bpf_get_hash_recalc(skb);
	if (add_header(skb))
		return -1;
	__u32 length = skb->len - NETWORK;
	if (work->packet.is_ipv6) {
		struct ipv6_wrapping *made = &work->wrapping.ipv6;
		length += sizeof *made - sizeof made->ip;
		set_ipv6_header(&made->ip, length, IPPROTO_UDP, &known->node[1], home);
		set_geneve(&made->udp, &made->geneve, length, hash, 1, &work->flow);
		if (bpf_skb_adjust_room(skb, sizeof *made, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
			return -1;
		return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
	}
	struct ipv4_wrapping *made = &work->wrapping.ipv4;
	length += sizeof *made;
	set_ipv4_header(&made->ip, length, IPPROTO_UDP, known->node[0].words[3], home->words[3]);
	set_geneve(&made->udp, &made->geneve, length - sizeof made->ip, hash, 0, &work->flow);
	if (bpf_skb_adjust_room(skb, sizeof *made, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
		return -1;
	return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
}

/* Forward the packet to the node of its flow's endpoint. If it is too large after encapsulation,
 * send an ICMP error to its sender instead. */
__noinline int hand_on(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return TC_ACT_SHOT;
	int is_ipv6 = work->packet.is_ipv6 != 0;
	__u32 more = is_ipv6 ? sizeof(struct ipv6_wrapping) : sizeof(struct ipv4_wrapping);
	struct address *home = home_of(&work->flow.destination);
	if (!home)
		return TC_ACT_SHOT;
	struct bpf_fib_lookup *route = &work->route;
	set_route(route, skb, is_ipv6, &known->node[is_ipv6], home);
	/* A GSO packet is segmented later, into segments that fit. */
	route->tot_len = skb->gso_size ? 0 : skb->len - work->packet.network + more;
	int outcome = bpf_fib_lookup(skb, route, sizeof *route, 0);
	if (outcome == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		struct icmp_header word = {};
		set_too_big(&word, is_ipv6, route->mtu_result - more);
		return say(skb, &work->packet, &known->node[is_ipv6], &work->answer, &word) ? TC_ACT_SHOT : send_back(skb, &work->packet);
	}
	if (outcome != BPF_FIB_LKUP_RET_SUCCESS && outcome != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	return wrap(skb, known, home) ? TC_ACT_SHOT : bpf_redirect_neigh(route->ifindex, 0, 0, 0);
}

/* Decapsulate a packet that another node has forwarded, and set work->chosen to its endpoint.
 * Return 0 for any other packet. */
__noinline int unwrap(struct __sk_buff *skb, const struct settings *known)
{
	struct work *work = at_hand();
	if (!work || !known)
		return 0;
	const struct tuple *outer = &work->packet.tuple;
	int is_ipv6 = work->packet.is_ipv6 != 0;
	if (outer->protocol != IPPROTO_UDP || outer->destination_port != bpf_htons(GENEVE_PORT) || work->packet.part != WHOLE ||
	    !is_same(&outer->destination, &known->node[is_ipv6]))
		return 0;
	struct address *home = home_of(&outer->source);
	if (!home || !is_same(home, &outer->source))
		return 0; /* not from a node of the cluster */
	struct geneve *geneve = &work->wrapping.ipv4.geneve;
	__u32 at = work->packet.transport + sizeof(struct udphdr);
	if (bpf_skb_load_bytes(skb, at, geneve, sizeof *geneve) || geneve->version_and_length != GENEVE_LENGTH ||
	    geneve->protocol != (is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)) ||
	    geneve->option_class != bpf_htons(GENEVE_OPTION_CLASS) || geneve->option_type != GENEVE_OPTION_TYPE)
		return 0;
	work->chosen = (struct endpoint){.address = geneve->endpoint, .port = geneve->port};
	if (bpf_skb_adjust_room(skb, -(__s32)(at + sizeof *geneve - work->packet.network), BPF_ADJ_ROOM_MAC, 0))
		return 0;
	return take_apart(skb, HANDED_OVER, work->packet.network, &work->packet);
}
