/* Working memory, flow events and connections of the CNI mode cilium. */
#pragma once

#include <linux/pkt_cls.h>
#include "cilium_maps.h"

#define SECOND 1000000000ULL
#define TCP_LIFETIME_NS (8000 * SECOND)
#define OTHER_LIFETIME_NS (60 * SECOND)
#define CLOSING_LIFETIME_NS (10 * SECOND)
#define REPORT_INTERVAL_NS (5 * SECOND)
#define ICMP_ANSWER 0
#define ICMPV6_ANSWER 129
#define TO_ENDPOINT COMING
#define FROM_ENDPOINT GOING

/* Working memory for one packet; too large for the stack. */
struct memory {
	struct packet packet;
	struct packet quoted; /* packet that an ICMP error is about */
	struct tuple answer;  /* answer to that packet */
	struct tuple key;
	struct connection opened;
	struct ipcache_key prefix;
	struct fragmented fragmented;
	struct policy_key policy;
	__u64 rule; /* entry of cilium_rules that decided */
	__u32 source_identity;
	__u32 destination_identity;
	__u32 masqueraded_identity; /* of the sender for policies, if its address is that of the node */
	__u32 status;
	__u16 is_undecided; /* 1: policies for egress decide behind the stack */
	__u16 has_quote; /* 1: quoted and answer are valid */
	__be16 echo_id;	 /* identifier of an ICMP echo message, and its number */
	__be16 echo_number;
	struct event event;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct memory);
} cilium_memory SEC(".maps");

static __always_inline struct memory *memory(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&cilium_memory, &zero);
}

static __always_inline struct cilium_config *config(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&cilium_config, &zero);
}

static __always_inline int is_set(const struct address *address)
{
	return (address->words[0] | address->words[1] | address->words[2] | address->words[3]) != 0;
}

static __always_inline int is_icmp(const struct packet *packet)
{
	return packet->tuple.protocol == (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Parse an ICMP message: the packet that an error is about, or the identifier of an echo. It is a
 * function of its own, which the kernel verifies once. */
__noinline int take_message(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	if (!memory_)
		return -1;
	struct packet *packet = &memory_->packet, *quoted = &memory_->quoted;
	if (!is_icmp_error(packet))
		return bpf_skb_load_bytes(skb, packet->transport + offsetof(struct icmp_header, rest), &memory_->echo_id, 4);
	__builtin_memset(quoted, 0, sizeof *quoted);
	quoted->transport = take_ip_apart(skb, packet->transport + sizeof(struct icmp_header), packet->is_ipv6 != 0, quoted);
	if (!quoted->transport || quoted->part == LATER)
		return -1;
	if (!has_ports(&quoted->tuple) && quoted->tuple.protocol != IPPROTO_SCTP)
		return -1;
	if (load_ports(skb, quoted->transport, &quoted->tuple))
		return -1;
	struct tuple *answer = &memory_->answer;
	answer->source = quoted->tuple.destination;
	answer->destination = quoted->tuple.source;
	answer->source_port = quoted->tuple.destination_port;
	answer->destination_port = quoted->tuple.source_port;
	answer->protocol = quoted->tuple.protocol;
	answer->zero = 0;
	memory_->has_quote = 1;
	return 0;
}

/* Parse a frame, and find the ports of later fragments. Return 0 if it has no valid IP packet. */
__noinline int take_packet(struct __sk_buff *skb)
{
	struct memory *memory_ = memory();
	if (!memory_)
		return 0;
	struct packet *packet = &memory_->packet;
	memory_->status = STATUS_UNKNOWN;
	memory_->rule = 0;
	memory_->has_quote = 0;
	memory_->echo_id = memory_->echo_number = 0;
	memory_->is_undecided = 0;
	if (!take_apart(skb, FROM_ENDPOINT, NETWORK, packet))
		return 0;
	if (packet->part != LATER && packet->tuple.protocol == IPPROTO_SCTP && load_ports(skb, packet->transport, &packet->tuple))
		return 0;
	if (packet->part != LATER && is_icmp(packet))
		take_message(skb);
	if (packet->part == WHOLE)
		return 1;
	struct fragmented *key = &memory_->fragmented;
	key->source = packet->tuple.source;
	key->destination = packet->tuple.destination;
	key->id = packet->fragment_id;
	key->protocol = packet->tuple.protocol;
	if (packet->part == FIRST) {
		struct fragment_ports ports = {packet->tuple.source_port, packet->tuple.destination_port};
		bpf_map_update_elem(&cilium_frag, key, &ports, BPF_ANY);
		return 1;
	}
	struct fragment_ports *ports = bpf_map_lookup_elem(&cilium_frag, key);
	if (ports) {
		packet->tuple.source_port = ports->source;
		packet->tuple.destination_port = ports->destination;
	}
	return 1;
}

static __always_inline struct ipcache_info *find_peer(struct memory *memory, const struct address *address)
{
	memory->prefix.prefix_length = 128;
	memory->prefix.address = *address;
	return bpf_map_lookup_elem(&cilium_ipcache, &memory->prefix);
}

static __always_inline __u32 identity_of(struct memory *memory, const struct address *address)
{
	struct ipcache_info *info = find_peer(memory, address);
	return info ? info->identity : IDENTITY_WORLD;
}

__noinline int report(struct __sk_buff *skb, __u32 type, __u32 point, __u32 detail)
{
	struct memory *memory_ = memory();
	if (!memory_)
		return -1;
	struct event *event = &memory_->event;
	const struct tuple *tuple = &memory_->packet.tuple;
	event->at_ns = bpf_ktime_get_ns();
	event->source = tuple->source;
	event->destination = tuple->destination;
	event->source_port = tuple->source_port;
	event->destination_port = tuple->destination_port;
	event->protocol = tuple->protocol;
	event->type = type;
	event->point = point;
	event->detail = detail;
	event->source_identity = memory_->source_identity;
	event->destination_identity = memory_->destination_identity;
	event->link = skb->ifindex;
	event->length = skb->len;
	event->tcp_flags = memory_->packet.tcp_flags;
	event->rule = memory_->rule;
	event->echo_id = memory_->echo_id;
	event->echo_number = memory_->echo_number;
	if (type == EVENT_DROP && detail == DROP_POLICY)
		bpf_ringbuf_output(&cilium_denied, event, sizeof *event, 0);
	if (!bpf_ringbuf_output(&cilium_events, event, sizeof *event, 0))
		return 0;
	__u32 zero = 0; /* there is no reader, or it is too slow */
	__u64 *lost = bpf_map_lookup_elem(&cilium_lost, &zero);
	if (lost)
		__sync_fetch_and_add(lost, 1);
	return -1;
}

static __always_inline int drop(struct __sk_buff *skb, const struct memory *memory, int point, int reason)
{
	report(skb, EVENT_DROP, point, reason);
	return TC_ACT_SHOT;
}

/* Report where a packet comes from, unless events are aggregated. */
static __always_inline void trace_received(struct __sk_buff *skb, const struct memory *memory, const struct cilium_config *config, int point)
{
	if (!config->is_aggregating)
		report(skb, EVENT_TRACE, point, memory->status);
}

/* Report where a packet goes: every packet, or the first one of a connection, those that open and
 * close it, and one in each interval. */
static __always_inline void trace(struct __sk_buff *skb, const struct memory *memory, const struct cilium_config *config, int point,
				  struct connection *connection)
{
	__u64 now = bpf_ktime_get_ns();
	int is_due = !connection || memory->status == STATUS_NEW || memory->packet.tcp_flags & (SYN | FIN | RST) ||
		     now - connection->reported_ns > REPORT_INTERVAL_NS ||
		     (memory->status == STATUS_REPLY && !(connection->flags & IS_ANSWERED));
	if (connection && is_due)
		connection->reported_ns = now;
	if (connection && memory->status == STATUS_REPLY)
		connection->flags |= IS_ANSWERED;
	if (is_due || !config->is_aggregating)
		report(skb, EVENT_TRACE, point, memory->status);
}

static __always_inline int is_expired(const struct connection *connection, const struct packet *packet)
{
	__u64 age = bpf_ktime_get_ns() - connection->seen_ns;
	if (connection->flags & IS_CLOSING)
		return age > CLOSING_LIFETIME_NS || (packet->tcp_flags & (SYN | ACK)) == SYN;
	return age > (packet->tuple.protocol == IPPROTO_TCP ? TCP_LIFETIME_NS : OTHER_LIFETIME_NS);
}

static __always_inline void touch(struct connection *connection, const struct packet *packet)
{
	connection->seen_ns = bpf_ktime_get_ns();
	if (packet->tcp_flags & (FIN | RST))
		connection->flags |= IS_CLOSING;
}

/* Return the connection of a packet from or to an endpoint, and set memory->status; 0 for a new
 * connection. An entry has the direction, seen from the endpoint, in which its first packet went.
 * An ICMP error about a connection belongs to it, as a reply. */
static __always_inline struct connection *find_connection(struct memory *memory, __u8 stage)
{
	const struct packet *packet = &memory->packet;
	int is_related = memory->has_quote;
	const struct tuple *tuple = is_related ? &memory->answer : &packet->tuple;
	struct tuple *key = &memory->key;
	__be16 source_port = tuple->source_port, destination_port = tuple->destination_port;
	if (is_icmp(packet) && !is_related) { /* one connection for each identifier */
		int is_answer = packet->icmp_type == (packet->is_ipv6 ? ICMPV6_ANSWER : ICMP_ANSWER);
		source_port = is_answer ? 0 : memory->echo_id;
		destination_port = is_answer ? memory->echo_id : 0;
	}
	key->source = tuple->destination;
	key->destination = tuple->source;
	key->source_port = destination_port;
	key->destination_port = source_port;
	key->protocol = tuple->protocol;
	key->stage = stage == TO_ENDPOINT ? FROM_ENDPOINT : TO_ENDPOINT;
	key->zero = 0;
	struct connection *found = bpf_map_lookup_elem(&cilium_ct, key);
	memory->status = STATUS_REPLY;
	if (found && !is_expired(found, packet)) {
		touch(found, packet);
		return found;
	}
	*key = *tuple;
	key->source_port = source_port;
	key->destination_port = destination_port;
	key->stage = stage;
	found = bpf_map_lookup_elem(&cilium_ct, key);
	memory->status = is_related ? STATUS_REPLY : STATUS_ESTABLISHED;
	if (found && !is_expired(found, packet)) {
		touch(found, packet);
		return found;
	}
	memory->status = STATUS_NEW;
	if (is_related) {
		*key = packet->tuple;
		key->stage = stage;
	}
	return 0;
}

/* Store the connection of which the packet is the first, under memory->key. */
static __always_inline void open_connection(struct memory *memory, const struct address *tunnel, __u32 flags)
{
	struct connection *opened = &memory->opened;
	__builtin_memset(opened, 0, sizeof *opened);
	if (tunnel)
		opened->tunnel = *tunnel;
	opened->seen_ns = opened->reported_ns = bpf_ktime_get_ns();
	opened->source_identity = memory->source_identity;
	opened->flags = flags;
	bpf_map_update_elem(&cilium_ct, &memory->key, opened, BPF_ANY);
}
