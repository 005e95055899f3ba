/* Checksums of packets that a program builds itself. */
#pragma once

#include "packet.h"

/* Pseudo header of IPv6 checksums: RFC 8200 §8.1. */
struct pseudo {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
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
