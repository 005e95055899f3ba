/* Parsing of packets, and rewriting with all checksums. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include "tuple.h"

#define NETWORK ETH_HLEN /* offset of the IP header on links with Ethernet headers */
#define IPV4_FRAGMENT 0x1fff
#define IPV4_MORE 0x2000
#define IPV6_FRAGMENT 0xfff8
#define IPV6_MORE 0x0001
#define SYN 0x02
#define RST 0x04
#define FIN 0x01
#define ACK 0x10

#define ICMP_ERROR_UNREACHABLE 3
#define ICMP_ERROR_EXPIRED 11
#define ICMP_ERROR_PARAMETER 12
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAGMENTS_NEEDED 4
#define ICMPV6_ERROR_UNREACHABLE 1
#define ICMPV6_ERROR_TOO_BIG 2
#define ICMPV6_ERROR_PARAMETER 4
#define ICMPV6_PORT_UNREACHABLE 4

enum part { WHOLE, FIRST, LATER };

struct packet {
	struct tuple tuple;
	__u32 network;	 /* offset of the IP header */
	__u32 transport; /* offset of the transport header */
	__u32 fragment_id;
	__u8 is_ipv6;
	__u8 part;
	__u8 tcp_flags;
	__u8 icmp_type;
};

/* Header of ICMP and ICMPv6. linux/icmp.h is not used, because it includes headers of libc. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

struct fragment_header {
	__u8 next;
	__u8 zero;
	__be16 place;
	__be32 id;
};

static __always_inline void set_ipv4(struct address *address, __be32 ipv4)
{
	address->words[0] = address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = ipv4;
}

static __always_inline void set_ipv6(struct address *address, const struct in6_addr *ipv6)
{
	for (int i = 0; i < 4; i++)
		address->words[i] = ipv6->in6_u.u6_addr32[i];
}

static __always_inline int is_same(const struct address *one, const struct address *other)
{
	return one->words[0] == other->words[0] && one->words[1] == other->words[1] && one->words[2] == other->words[2] &&
	       one->words[3] == other->words[3];
}

static __always_inline int is_zero(const struct address *address)
{
	return !(address->words[0] | address->words[1] | address->words[2] | address->words[3]);
}

static __always_inline int is_within(const struct address *address, const struct range *range)
{
	int any = 0;
	for (int i = 0; i < 4; i++) {
		any |= range->mask.words[i] != 0;
		if ((address->words[i] & range->mask.words[i]) != range->first.words[i])
			return 0;
	}
	return any;
}

/* Parse the IP headers at an offset. Return the offset of the transport header; 0 on failure. */
static __always_inline __u32 take_ip_apart(struct __sk_buff *skb, __u32 offset, int is_ipv6, struct packet *packet)
{
	struct tuple *tuple = &packet->tuple;
	packet->part = WHOLE;
	if (!is_ipv6) {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof ip) || ip.ihl < 5)
			return 0;
		set_ipv4(&tuple->source, ip.saddr);
		set_ipv4(&tuple->destination, ip.daddr);
		tuple->protocol = ip.protocol;
		__u16 place = bpf_ntohs(ip.frag_off);
		packet->fragment_id = ip.id;
		if (place & IPV4_FRAGMENT)
			packet->part = LATER;
		else if (place & IPV4_MORE)
			packet->part = FIRST;
		return offset + ip.ihl * 4;
	}
	struct ipv6hdr ip;
	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof ip))
		return 0;
	set_ipv6(&tuple->source, &ip.saddr);
	set_ipv6(&tuple->destination, &ip.daddr);
	tuple->protocol = ip.nexthdr;
	offset += sizeof ip;
	if (ip.nexthdr == IPPROTO_FRAGMENT) {
		struct fragment_header fragment;
		if (bpf_skb_load_bytes(skb, offset, &fragment, sizeof fragment))
			return 0;
		tuple->protocol = fragment.next;
		__u16 place = bpf_ntohs(fragment.place);
		packet->fragment_id = fragment.id;
		if (place & IPV6_FRAGMENT)
			packet->part = LATER;
		else if (place & IPV6_MORE)
			packet->part = FIRST;
		offset += sizeof fragment;
	}
	return offset;
}

static __always_inline int has_ports(const struct tuple *tuple)
{
	return tuple->protocol == IPPROTO_TCP || tuple->protocol == IPPROTO_UDP;
}

static __always_inline int load_ports(struct __sk_buff *skb, __u32 offset, struct tuple *tuple)
{
	__be16 ports[2];
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof ports))
		return -1;
	tuple->source_port = ports[0];
	tuple->destination_port = ports[1];
	return 0;
}

/* Parse a frame whose IP header is at the offset `network`. Return 0 if it has no valid IP packet. */
static __always_inline int take_apart(struct __sk_buff *skb, int stage, __u32 network, struct packet *packet)
{
	__builtin_memset(packet, 0, sizeof *packet);
	packet->network = network;
	packet->is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (!packet->is_ipv6 && skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	struct tuple *tuple = &packet->tuple;
	tuple->stage = stage;
	packet->transport = take_ip_apart(skb, network, packet->is_ipv6, packet);
	if (!packet->transport)
		return 0;
	if (packet->part == LATER)
		return 1;
	if (has_ports(tuple) && load_ports(skb, packet->transport, tuple))
		return 0;
	if (tuple->protocol == IPPROTO_TCP)
		bpf_skb_load_bytes(skb, packet->transport + 13, &packet->tcp_flags, 1);
	if (tuple->protocol == (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		bpf_skb_load_bytes(skb, packet->transport, &packet->icmp_type, 1);
	return 1;
}

/* Return true for an ICMP error, which quotes another packet. */
static __always_inline int is_icmp_error(const struct packet *packet)
{
	__u8 type = packet->icmp_type;
	if (packet->is_ipv6)
		return packet->tuple.protocol == IPPROTO_ICMPV6 && type >= ICMPV6_ERROR_UNREACHABLE && type <= ICMPV6_ERROR_PARAMETER;
	return packet->tuple.protocol == IPPROTO_ICMP &&
	       (type == ICMP_ERROR_UNREACHABLE || type == ICMP_ERROR_EXPIRED || type == ICMP_ERROR_PARAMETER);
}

/* Return the checksum difference of both addresses. The constant prefix of IPv4 addresses cancels
 * out. */
static __always_inline __u32 address_change(const struct tuple *old, const struct flow *new)
{
	return bpf_csum_diff((__be32 *)&old->source, 32, (__be32 *)&new->source, 32, 0);
}

static __always_inline void store_addresses(struct __sk_buff *skb, __u32 offset, int is_ipv6, const struct flow *new)
{
	if (is_ipv6) {
		bpf_skb_store_bytes(skb, offset + offsetof(struct ipv6hdr, saddr), &new->source, 32, 0);
		return;
	}
	__be32 both[2] = {new->source.words[3], new->destination.words[3]};
	bpf_skb_store_bytes(skb, offset + offsetof(struct iphdr, saddr), both, sizeof both, 0);
}

/* Rewrite the addresses and ports of a packet. */
__noinline int rewrite(struct __sk_buff *skb, struct packet *packet, const struct flow *new)
{
	if (!packet || !new)
		return -1;
	const struct tuple *old = &packet->tuple;
	__u32 change = address_change(old, new);
	if (packet->part != LATER && has_ports(old)) {
		int is_udp = old->protocol == IPPROTO_UDP;
		__u32 sum = packet->transport + (is_udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
		__u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
		__be16 ports[2] = {new->source_port, new->destination_port};
		__u32 port_change = bpf_csum_diff((__be32 *)&old->source_port, 4, (__be32 *)ports, 4, 0);
		bpf_l4_csum_replace(skb, sum, 0, change, flags | BPF_F_PSEUDO_HDR);
		bpf_l4_csum_replace(skb, sum, 0, port_change, flags);
		bpf_skb_store_bytes(skb, packet->transport, ports, sizeof ports, 0);
	}
	if (!packet->is_ipv6)
		bpf_l3_csum_replace(skb, packet->network + offsetof(struct iphdr, check), 0, change, 0);
	store_addresses(skb, packet->network, packet->is_ipv6, new);
	return 0;
}
