/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 * (some helper functions of the kernel are available to GPL programs only)
 *
 * Packets between pods by the programs of the CNI mode cilium, on the links of a node:
 *
 *     pod ── lxc… ▶ cil_from_container ─┬─ pod of this node ──────────────▶ lxc… ── pod
 *                                       ├─ pod of another node ───────────▶ cilium_vxlan
 *                                       └─ node, outside ─────────────────▶ stack
 *     cilium_vxlan ▶ cil_from_overlay ──┬─ pod of this node ──────────────▶ lxc… ── pod
 *                                       └─ node ──────────────────────────▶ stack
 *     stack ─ cilium_host ▶ cil_from_host ─┬─ pod of this node ───────────▶ lxc… ── pod
 *                                          └─ pod of another node ────────▶ cilium_vxlan
 *
 * Netfilter sees no packet between two pods, and both directions of any other connection. With
 * legacy routing every packet passes the stack, which routes those for pods to cilium_host.
 *
 * The VXLAN network identifier is the identity of the sender. In the stack the mark of the packet
 * is: 0x0f00, bits 0 to 15 of the identity in the upper half, and bits 16 to 23 in the lowest byte.
 * The mark 0x0e00 selects the routing table that leads packets of tunnels to cilium_wg0, which
 * encrypts them.
 *
 * With legacy routing, the stack may translate destinations, and masquerade senders. Then the mark
 * has 0x1000 if policies for egress of the sender have to decide behind the stack, and 0x2000 for
 * bit 24 of the identity, which those in cilium_cidr have.
 */
#include "cilium_policies.h"

#define MARK_IDENTITY 0x0f00
#define MARK_MASK 0x0f00
#define MARK_ENCRYPT 0x0e00
#define MARK_DECIDE 0x1000
#define MARK_CIDR 0x2000
#define MARK_HIGH_BITS 0x00ff /* of the identity */
#define MARK_ALL 0xffff3fff
#define SOLICITATION 135
#define ADVERTISEMENT 136
#define ADVERTISEMENT_FLAGS 0xe0000000 /* router, solicited, override: RFC 4861 §4.4 */
#define TARGET_LINK_ADDRESS 2

/* Neighbour solicitation or advertisement with one option. */
struct neighbor_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct in6_addr target;
	__u8 option;
	__u8 option_length;
	__u8 mac[ETH_ALEN];
};

struct ethernet_addresses {
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

static __always_inline __u32 identity_mark(__u32 identity)
{
	__u32 bit24 = identity < FIRST_CIDR_IDENTITY ? 0 : MARK_CIDR;
	return MARK_IDENTITY | bit24 | identity << 16 | (identity >> 16 & MARK_HIGH_BITS);
}

static __always_inline __u32 marked_identity(__u32 mark)
{
	return (mark & MARK_CIDR ? FIRST_CIDR_IDENTITY : 0) | (mark & MARK_HIGH_BITS) << 16 | mark >> 16;
}

/* Leave a packet to the stack, with its identity. */
static __always_inline int to_stack(struct __sk_buff *skb, const struct memory *memory, const struct cilium_config *config,
				    struct connection *connection)
{
	trace(skb, memory, config, TO_STACK, connection);
	skb->mark = (skb->mark & ~MARK_ALL) | identity_mark(memory->source_identity) | (memory->is_undecided ? MARK_DECIDE : 0);
	bpf_skb_change_type(skb, 0 /* PACKET_HOST: the MAC address may be that of another link */);
	return CONTINUE;
}

static __always_inline __u8 hop_limit(struct __sk_buff *skb, int is_ipv6)
{
	__u8 limit = 0;
	bpf_skb_load_bytes(skb, NETWORK + (is_ipv6 ? offsetof(struct ipv6hdr, hop_limit) : offsetof(struct iphdr, ttl)), &limit, 1);
	return limit;
}

static __always_inline void decrement_hop_limit(struct __sk_buff *skb, int is_ipv6, __u8 limit)
{
	__u8 left = limit - 1;
	if (is_ipv6) {
		bpf_skb_store_bytes(skb, NETWORK + offsetof(struct ipv6hdr, hop_limit), &left, 1, 0);
		return;
	}
	bpf_l3_csum_replace(skb, NETWORK + offsetof(struct iphdr, check), bpf_htons(limit << 8), bpf_htons(left << 8), 2);
	bpf_skb_store_bytes(skb, NETWORK + offsetof(struct iphdr, ttl), &left, 1, 0);
}

/* Send a packet to a pod of this node.
 *
 * tunnel: node from which the packet came; 0 if it was not tunnelled.
 * is_routed: true if the program forwards the packet instead of the stack.
 */
static __always_inline int to_pod(struct __sk_buff *skb, struct memory *memory, const struct cilium_config *config,
				  const struct pod_endpoint *endpoint, const struct address *tunnel, int is_routed)
{
	struct link_key key = {.id = endpoint->id, .kind = POD_LINK};
	__u32 *link = bpf_map_lookup_elem(&cilium_links, &key);
	if (!link)
		return drop(skb, memory, TO_POD, DROP_NO_ENDPOINT);
	int is_ipv6 = memory->packet.is_ipv6 != 0;
	if (is_routed) {
		__u8 limit = hop_limit(skb, is_ipv6);
		if (limit <= 1)
			return to_stack(skb, memory, config, 0); /* it sends an ICMP error */
		decrement_hop_limit(skb, is_ipv6, limit);
	}
	struct connection *connection = find_connection(memory, TO_ENDPOINT);
	if (memory->status != STATUS_REPLY && !may_enter(endpoint->id))
		return drop(skb, memory, TO_POD, DROP_POLICY);
	if (!connection)
		open_connection(memory, tunnel, is_routed ? 0 : BY_STACK);
	trace(skb, memory, config, TO_POD, connection);
	struct ethernet_addresses addresses;
	__builtin_memcpy(addresses.destination, endpoint->mac, ETH_ALEN);
	__builtin_memcpy(addresses.source, config->mac, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, &addresses, sizeof addresses, 0);
	return bpf_redirect(*link, 0);
}

/* Send a packet to another node by the tunnel. */
static __always_inline int to_overlay(struct __sk_buff *skb, struct memory *memory, const struct cilium_config *config,
				      const struct address *tunnel, struct connection *connection)
{
	struct link_key key = {.kind = TUNNEL_LINK};
	__u32 *link = bpf_map_lookup_elem(&cilium_links, &key);
	if (!link)
		return drop(skb, memory, TO_OVERLAY, DROP_NO_TUNNEL);
	if (is_same(tunnel, &config->underlay))
		return drop(skb, memory, TO_OVERLAY, DROP_NO_ENDPOINT);
	__u32 identity = memory->source_identity;
	struct bpf_tunnel_key tunnel_key = {.tunnel_id = identity == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : identity, .tunnel_ttl = 64};
	__u64 flags = BPF_F_ZERO_CSUM_TX;
	if (tunnel->words[0] || tunnel->words[1] || tunnel->words[2] != bpf_htonl(0xffff)) {
		__builtin_memcpy(tunnel_key.remote_ipv6, tunnel, sizeof *tunnel);
		flags = BPF_F_TUNINFO_IPV6;
	} else {
		tunnel_key.remote_ipv4 = bpf_ntohl(tunnel->words[3]);
	}
	if (bpf_skb_set_tunnel_key(skb, &tunnel_key, sizeof tunnel_key, flags))
		return drop(skb, memory, TO_OVERLAY, DROP_NO_TUNNEL);
	if (config->is_encrypted)
		skb->mark = (skb->mark & ~(MARK_MASK | MARK_HIGH_BITS)) | MARK_ENCRYPT;
	trace(skb, memory, config, TO_OVERLAY, connection);
	return bpf_redirect(*link, 0);
}

/* Answer a pod that asks for the MAC address of its IPv6 gateway, which is an address of another
 * link. Return CONTINUE for any other packet. */
static __always_inline int answer_solicitation(struct __sk_buff *skb, const struct memory *memory, const struct cilium_config *config)
{
	struct neighbor_message message;
	struct ipv6hdr ip;
	struct ethernet_addresses addresses;
	struct address target;
	const struct packet *packet = &memory->packet;
	if (packet->transport != NETWORK + sizeof ip || bpf_skb_load_bytes(skb, packet->transport, &message, sizeof message) ||
	    bpf_skb_load_bytes(skb, NETWORK, &ip, sizeof ip) || ip.payload_len != bpf_htons(sizeof message) ||
	    bpf_skb_load_bytes(skb, 0, &addresses, sizeof addresses))
		return CONTINUE;
	set_ipv6(&target, &message.target);
	if (!is_same(&target, &config->router[1]))
		return CONTINUE;
	message.type = ADVERTISEMENT;
	message.code = 0;
	message.checksum = 0;
	message.flags = bpf_htonl(ADVERTISEMENT_FLAGS);
	message.option = TARGET_LINK_ADDRESS;
	__builtin_memcpy(message.mac, config->mac, ETH_ALEN);
	ip.daddr = ip.saddr;
	ip.saddr = message.target;
	__u32 sum = pseudo_sum(&ip.saddr, &ip.daddr, sizeof message, IPPROTO_ICMPV6);
	message.checksum = folded(bpf_csum_diff(0, 0, (__be32 *)&message, sizeof message, sum));
	__builtin_memcpy(addresses.destination, addresses.source, ETH_ALEN);
	__builtin_memcpy(addresses.source, config->mac, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, &addresses, sizeof addresses, 0);
	bpf_skb_store_bytes(skb, NETWORK, &ip, sizeof ip, 0);
	bpf_skb_store_bytes(skb, NETWORK + sizeof ip, &message, sizeof message, 0);
	return bpf_redirect(skb->ifindex, 0);
}

/* Return true for addresses that are valid on one link only, and for groups. */
static __always_inline int is_of_link(const struct address *address)
{
	__u32 first = bpf_ntohl(address->words[0]), last = bpf_ntohl(address->words[3]);
	if (address->words[0] || address->words[1] || address->words[2] != bpf_htonl(0xffff))
		return !is_set(address) || first >> 22 == 0xfe80 >> 6 || first >> 24 == 0xff;
	return !last || last >> 28 == 0xe || last == 0xffffffff;
}

SEC("tc") int cil_from_container(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	struct cilium_config *config_ = config();
	if (!memory_ || !config_ || !take_packet(skb))
		return CONTINUE;
	const struct tuple *tuple = &memory_->packet.tuple;
	if (memory_->packet.is_ipv6 && tuple->protocol == IPPROTO_ICMPV6 && memory_->packet.icmp_type == SOLICITATION)
		return answer_solicitation(skb, memory_, config_);
	if (is_of_link(&tuple->source) || is_of_link(&tuple->destination))
		return CONTINUE;
	memory_->source_identity = identity_of(memory_, &tuple->source);
	struct ipcache_info *peer = find_peer(memory_, &tuple->destination);
	memory_->destination_identity = peer ? peer->identity : IDENTITY_WORLD;

	struct pod_endpoint *source = bpf_map_lookup_elem(&cilium_lxc, &tuple->source);
	struct link_key key = {.id = source ? source->id : 0, .kind = POD_LINK};
	__u32 *link = bpf_map_lookup_elem(&cilium_links, &key);
	if (!source || !link || *link != skb->ifindex)
		return drop(skb, memory_, FROM_POD, DROP_INVALID_SOURCE);
	struct connection *connection = find_connection(memory_, FROM_ENDPOINT);
	trace_received(skb, memory_, config_, FROM_POD);
	if (memory_->status != STATUS_REPLY && !may_leave(source->id, config_->is_legacy))
		return drop(skb, memory_, FROM_POD, DROP_POLICY);
	if (!connection)
		open_connection(memory_, 0, 0);
	struct pod_endpoint *destination = bpf_map_lookup_elem(&cilium_lxc, &tuple->destination);
	int is_reply = connection && memory_->status == STATUS_REPLY;
	if (config_->is_legacy || (is_reply && connection->flags & BY_STACK))
		return to_stack(skb, memory_, config_, connection);
	if (destination)
		return to_pod(skb, memory_, config_, destination, 0, 1);
	/* A reply to a node takes the way of the request: the stack would masquerade it. */
	if (is_reply && is_set(&connection->tunnel))
		return to_overlay(skb, memory_, config_, &connection->tunnel, connection);
	if (peer && is_set(&peer->tunnel))
		return to_overlay(skb, memory_, config_, &peer->tunnel, connection);
	return to_stack(skb, memory_, config_, connection);
}

SEC("tc") int cil_from_overlay(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	struct cilium_config *config_ = config();
	if (!memory_ || !config_)
		return CONTINUE;
	if (!take_packet(skb))
		return TC_ACT_SHOT;
	const struct tuple *tuple = &memory_->packet.tuple;
	struct bpf_tunnel_key key = {};
	int is_ipv6 = config_->underlay.words[2] != bpf_htonl(0xffff);
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof key, is_ipv6 ? BPF_F_TUNINFO_IPV6 : 0))
		return TC_ACT_SHOT;
	struct address tunnel;
	if (is_ipv6)
		__builtin_memcpy(&tunnel, key.remote_ipv6, sizeof tunnel);
	else
		set_ipv4(&tunnel, bpf_htonl(key.remote_ipv4));
	memory_->source_identity = key.tunnel_id;
	memory_->destination_identity = identity_of(memory_, &tuple->destination);
	trace_received(skb, memory_, config_, FROM_OVERLAY);
	struct pod_endpoint *destination = bpf_map_lookup_elem(&cilium_lxc, &tuple->destination);
	if (!destination || config_->is_legacy)
		return to_stack(skb, memory_, config_, 0);
	return to_pod(skb, memory_, config_, destination, &tunnel, 1);
}

SEC("tc") int cil_from_host(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	struct cilium_config *config_ = config();
	if (!memory_ || !config_ || !take_packet(skb))
		return CONTINUE;
	const struct tuple *tuple = &memory_->packet.tuple;
	if (is_of_link(&tuple->source) || is_of_link(&tuple->destination))
		return CONTINUE;
	__u32 mark = (skb->mark & MARK_MASK) == MARK_IDENTITY ? skb->mark : 0;
	__u32 sender = mark ? marked_identity(mark) : identity_of(memory_, &tuple->source);
	memory_->source_identity = mark & MARK_CIDR ? IDENTITY_WORLD : sender;
	memory_->masqueraded_identity = sender;
	if (mark)
		skb->mark &= ~MARK_ALL;
	struct ipcache_info *peer = find_peer(memory_, &tuple->destination);
	memory_->destination_identity = peer ? peer->identity : IDENTITY_WORLD;
	trace_received(skb, memory_, config_, FROM_HOST);
	if (mark & MARK_DECIDE && !may_leave_stack(sender))
		return drop(skb, memory_, FROM_HOST, DROP_POLICY);
	struct pod_endpoint *destination = bpf_map_lookup_elem(&cilium_lxc, &tuple->destination);
	if (destination)
		return to_pod(skb, memory_, config_, destination, 0, 0);
	if (peer && is_set(&peer->tunnel))
		return to_overlay(skb, memory_, config_, &peer->tunnel, 0);
	return drop(skb, memory_, FROM_HOST, DROP_NO_ENDPOINT);
}

/* Report the packets of the node's uplink. Return 0 if it has none to report. */
static __always_inline int pass_network(struct __sk_buff *skb, struct memory *memory, struct cilium_config *config, int point)
{
	if (!take_packet(skb))
		return 0;
	const struct tuple *tuple = &memory->packet.tuple;
	memory->source_identity = identity_of(memory, &tuple->source);
	memory->destination_identity = identity_of(memory, &tuple->destination);
	trace_received(skb, memory, config, point);
	return 1;
}

SEC("tc") int cil_from_netdev(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	struct cilium_config *config_ = config();
	if (!memory_ || !config_ || (config_->is_aggregating && !config_->is_legacy))
		return CONTINUE;
	if (!pass_network(skb, memory_, config_, FROM_NETWORK) || !config_->is_legacy)
		return CONTINUE;
	/* The stack may masquerade the sender. */
	__u32 sender = policy_identity(memory_, &memory_->packet.tuple.source, memory_->source_identity);
	skb->mark = (skb->mark & ~MARK_ALL) | identity_mark(sender);
	return CONTINUE;
}

SEC("tc") int cil_to_netdev(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	struct cilium_config *config_ = config();
	int is_undecided = (skb->mark & MARK_MASK) == MARK_IDENTITY && skb->mark & MARK_DECIDE;
	if (!memory_ || !config_ || (config_->is_aggregating && !is_undecided))
		return CONTINUE;
	if (pass_network(skb, memory_, config_, TO_NETWORK) && is_undecided && !may_leave_stack(marked_identity(skb->mark)))
		return drop(skb, memory_, TO_NETWORK, DROP_POLICY);
	return CONTINUE;
}

char _license[] SEC("license") = "GPL";
