/* Replies to packets that cannot be delivered: a TCP reset, or an ICMP error for other protocols
 * and for packets that are too large. The packet itself is turned into the reply. */
#pragma once

#include "checksum.h"

#define QUOTED 20 /* bytes after the IP header: a TCP header, or UDP's after that of a fragment */
#define LEAST_QUOTED 8 /* minimum of RFC 792 */
#define TTL 64

struct ipv4_reset {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct ipv6_reset {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

struct ipv4_error {
	struct iphdr ip;
	struct icmp_header icmp;
	__u8 quoted[sizeof(struct iphdr) + QUOTED];
};

struct ipv6_error {
	struct ipv6hdr ip;
	struct icmp_header icmp;
	__u8 quoted[sizeof(struct ipv6hdr) + QUOTED];
};

union answer {
	struct ipv4_reset reset4;
	struct ipv6_reset reset6;
	struct ipv4_error error4;
	struct ipv6_error error6;
};

static __always_inline void set_ipv4_header(struct iphdr *ip, __u16 length, __u8 protocol, __be32 source, __be32 destination)
{
	__builtin_memset(ip, 0, sizeof *ip);
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = TTL;
	ip->protocol = protocol;
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = folded(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof *ip, 0));
}

static __always_inline void set_ipv6_header(struct ipv6hdr *ip, __u16 length, __u8 protocol, const struct address *source,
					    const struct address *destination)
{
	__builtin_memset(ip, 0, sizeof *ip);
	ip->version = 6;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = TTL;
	__builtin_memcpy(&ip->saddr, source, sizeof *source);
	__builtin_memcpy(&ip->daddr, destination, sizeof *destination);
}

/* Build a reset for a segment without connection: RFC 9293 §3.10.7.1. */
static __always_inline void set_reset(struct tcphdr *reset, const struct tcphdr *asked, const struct tuple *tuple)
{
	__builtin_memset(reset, 0, sizeof *reset);
	reset->source = tuple->destination_port;
	reset->dest = tuple->source_port;
	reset->doff = sizeof *reset / 4;
	reset->rst = 1;
	if (asked->ack) {
		reset->seq = asked->ack_seq;
	} else {
		reset->ack = 1;
		reset->ack_seq = bpf_htonl(bpf_ntohl(asked->seq) + asked->syn);
	}
}

__noinline int reset(struct __sk_buff *skb, const struct packet *packet, union answer *answer)
{
	if (!packet || !answer)
		return -1;
	struct tcphdr asked;
	const struct tuple *tuple = &packet->tuple;
	if (bpf_skb_load_bytes(skb, packet->transport, &asked, sizeof asked) || asked.rst)
		return -1;
	if (packet->is_ipv6) {
		struct ipv6_reset *made = &answer->reset6;
		set_ipv6_header(&made->ip, sizeof made->tcp, IPPROTO_TCP, &tuple->destination, &tuple->source);
		set_reset(&made->tcp, &asked, tuple);
		__u32 sum = pseudo_sum(&made->ip.saddr, &made->ip.daddr, sizeof made->tcp, IPPROTO_TCP);
		made->tcp.check = folded(bpf_csum_diff(0, 0, (__be32 *)&made->tcp, sizeof made->tcp, sum));
		if (bpf_skb_change_tail(skb, packet->network + sizeof *made, 0))
			return -1;
		return bpf_skb_store_bytes(skb, packet->network, made, sizeof *made, 0);
	}
	struct ipv4_reset *made = &answer->reset4;
	set_ipv4_header(&made->ip, sizeof *made, IPPROTO_TCP, tuple->destination.words[3], tuple->source.words[3]);
	set_reset(&made->tcp, &asked, tuple);
	__u32 sum = pseudo_sum4(made->ip.saddr, made->ip.daddr, sizeof made->tcp, IPPROTO_TCP);
	made->tcp.check = folded(bpf_csum_diff(0, 0, (__be32 *)&made->tcp, sizeof made->tcp, sum));
	if (bpf_skb_change_tail(skb, packet->network + sizeof *made, 0))
		return -1;
	return bpf_skb_store_bytes(skb, packet->network, made, sizeof *made, 0);
}

static __always_inline void set_unreachable(struct icmp_header *word, int is_ipv6)
{
	word->type = is_ipv6 ? ICMPV6_ERROR_UNREACHABLE : ICMP_ERROR_UNREACHABLE;
	word->code = is_ipv6 ? ICMPV6_PORT_UNREACHABLE : ICMP_PORT_UNREACHABLE;
}

/* Build a "packet too big" error. It does not matter whether the packet may be fragmented: senders
 * adapt to the MTU in either case. */
static __always_inline void set_too_big(struct icmp_header *word, int is_ipv6, __u32 mtu)
{
	word->type = is_ipv6 ? ICMPV6_ERROR_TOO_BIG : ICMP_ERROR_UNREACHABLE;
	word->code = is_ipv6 ? 0 : ICMP_FRAGMENTS_NEEDED;
	word->rest = bpf_htonl(mtu);
}

/* Return the number of bytes that an error quotes of a packet with an IP header of this length. */
static __always_inline __u32 quotable(const struct __sk_buff *skb, __u32 network, __u32 header)
{
	return header + (skb->len >= network + header + QUOTED ? QUOTED : LEAST_QUOTED);
}

/* Truncate the packet to the quoted bytes and make room for headers before them. */
static __always_inline int make_room(struct __sk_buff *skb, __u32 network, __u32 quoted, __u32 headers)
{
	return bpf_skb_change_tail(skb, network + quoted, 0) || bpf_skb_adjust_room(skb, headers, BPF_ADJ_ROOM_MAC, 0);
}

/* Turn the packet into an ICMP error sent by the node, as the kernel does. */
__noinline int say(struct __sk_buff *skb, const struct packet *packet, const struct address *node, union answer *answer,
		   const struct icmp_header *word)
{
	if (!packet || !node || !answer || !word)
		return -1;
	const struct tuple *tuple = &packet->tuple;
	__u32 network = packet->network;
	if (packet->is_ipv6) {
		struct ipv6_error *made = &answer->error6;
		__u32 quoted = quotable(skb, network, sizeof made->ip), length = sizeof made->icmp + quoted;
		if (bpf_skb_load_bytes(skb, network, made->quoted, quoted))
			return -1;
		set_ipv6_header(&made->ip, length, IPPROTO_ICMPV6, node, &tuple->source);
		made->icmp = *word;
		__u32 sum = pseudo_sum(&made->ip.saddr, &made->ip.daddr, length, IPPROTO_ICMPV6);
		made->icmp.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&made->icmp, length, sum));
		if (make_room(skb, network, quoted, sizeof made->ip + sizeof made->icmp))
			return -1;
		return bpf_skb_store_bytes(skb, network, made, sizeof made->ip + length, 0);
	}
	struct ipv4_error *made = &answer->error4;
	__u32 quoted = quotable(skb, network, sizeof made->ip), length = sizeof made->icmp + quoted;
	if (packet->transport != network + sizeof made->ip || bpf_skb_load_bytes(skb, network, made->quoted, quoted))
		return -1;
	set_ipv4_header(&made->ip, sizeof made->ip + length, IPPROTO_ICMP, node->words[3], tuple->source.words[3]);
	made->icmp = *word;
	made->icmp.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&made->icmp, length, 0));
	if (make_room(skb, network, quoted, sizeof made->ip + sizeof made->icmp))
		return -1;
	return bpf_skb_store_bytes(skb, network, made, sizeof made->ip + length, 0);
}
