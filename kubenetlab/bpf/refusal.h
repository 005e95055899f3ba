/* What a client hears where nobody serves: TCP a reset, all else that the port is unreachable. The packet itself becomes the answer. */
#pragma once

#include "packet.h"

#define QUOTED 8 /* bytes beyond the IP header, as RFC 792 asks for */
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

/* The beginning of a pseudo header, whichever family: of IPv4 addresses what is always the same counts, too, and is taken off again. */
struct pseudo {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
};

union answer {
	struct ipv4_reset reset4;
	struct ipv6_reset reset6;
	struct ipv4_error error4;
	struct ipv6_error error6;
};

static __always_inline __u16 folded(__s64 sum)
{
	__u32 found = sum;
	found = (found & 0xffff) + (found >> 16);
	found = (found & 0xffff) + (found >> 16);
	return ~found;
}

static __always_inline __u32 pseudo_sum(const struct in6_addr *source, const struct in6_addr *destination, __u32 length, __u8 protocol)
{
	struct pseudo pseudo = {.length = bpf_htonl(length), .protocol = bpf_htonl(protocol)};
	set_ipv6(&pseudo.source, source);
	set_ipv6(&pseudo.destination, destination);
	return bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof pseudo, 0);
}

static __always_inline __u32 pseudo_sum4(__be32 source, __be32 destination, __u16 length, __u8 protocol)
{
	__be32 pseudo[3] = {source, destination, bpf_htonl((__u32)protocol << 16 | length)};
	return bpf_csum_diff(0, 0, pseudo, sizeof pseudo, 0);
}

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

/* RFC 9293 §3.10.7.1: a reset for a segment of a connection that is none. */
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
		if (bpf_skb_change_tail(skb, NETWORK + sizeof *made, 0))
			return -1;
		return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
	}
	struct ipv4_reset *made = &answer->reset4;
	set_ipv4_header(&made->ip, sizeof *made, IPPROTO_TCP, tuple->destination.words[3], tuple->source.words[3]);
	set_reset(&made->tcp, &asked, tuple);
	__u32 sum = pseudo_sum4(made->ip.saddr, made->ip.daddr, sizeof made->tcp, IPPROTO_TCP);
	made->tcp.check = folded(bpf_csum_diff(0, 0, (__be32 *)&made->tcp, sizeof made->tcp, sum));
	if (bpf_skb_change_tail(skb, NETWORK + sizeof *made, 0))
		return -1;
	return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
}

/* From the node, as the kernel's own errors are. */
__noinline int say_unreachable(struct __sk_buff *skb, const struct packet *packet, const struct address *node, union answer *answer)
{
	if (!packet || !node || !answer)
		return -1;
	const struct tuple *tuple = &packet->tuple;
	if (packet->is_ipv6) {
		struct ipv6_error *made = &answer->error6;
		if (bpf_skb_load_bytes(skb, NETWORK, made->quoted, sizeof made->quoted))
			return -1;
		__u16 length = sizeof *made - sizeof made->ip;
		set_ipv6_header(&made->ip, length, IPPROTO_ICMPV6, node, &tuple->source);
		__builtin_memset(&made->icmp, 0, sizeof made->icmp);
		made->icmp.type = ICMPV6_ERROR_UNREACHABLE;
		made->icmp.code = ICMPV6_PORT_UNREACHABLE;
		__u32 sum = pseudo_sum(&made->ip.saddr, &made->ip.daddr, length, IPPROTO_ICMPV6);
		made->icmp.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&made->icmp, sizeof *made - sizeof made->ip, sum));
		if (bpf_skb_change_tail(skb, NETWORK + sizeof made->quoted, 0) ||
		    bpf_skb_adjust_room(skb, sizeof *made - sizeof made->quoted, BPF_ADJ_ROOM_MAC, 0))
			return -1;
		return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
	}
	struct ipv4_error *made = &answer->error4;
	if (packet->transport != NETWORK + sizeof made->ip || bpf_skb_load_bytes(skb, NETWORK, made->quoted, sizeof made->quoted))
		return -1;
	set_ipv4_header(&made->ip, sizeof *made, IPPROTO_ICMP, node->words[3], tuple->source.words[3]);
	__builtin_memset(&made->icmp, 0, sizeof made->icmp);
	made->icmp.type = ICMP_ERROR_UNREACHABLE;
	made->icmp.code = ICMP_PORT_UNREACHABLE;
	made->icmp.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&made->icmp, sizeof *made - sizeof made->ip, 0));
	if (bpf_skb_change_tail(skb, NETWORK + sizeof made->quoted, 0) ||
	    bpf_skb_adjust_room(skb, sizeof *made - sizeof made->quoted, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	return bpf_skb_store_bytes(skb, NETWORK, made, sizeof *made, 0);
}
