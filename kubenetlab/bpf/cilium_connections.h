/* Working memory, flow events, connections and policies of the CNI mode cilium. */
#pragma once

#include <linux/pkt_cls.h>
#include "cilium_maps.h"

#define SECOND 1000000000ULL
#define TCP_LIFETIME_NS (8000 * SECOND)
#define OTHER_LIFETIME_NS (60 * SECOND)
#define CLOSING_LIFETIME_NS (10 * SECOND)
#define REPORT_INTERVAL_NS (5 * SECOND)
#define TO_ENDPOINT COMING
#define FROM_ENDPOINT GOING

/* Working memory for one packet; too large for the stack. */
struct memory {
	struct packet packet;
	struct tuple key;
	struct connection opened;
	struct ipcache_key prefix;
	struct fragmented fragmented;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 status;
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

/* Parse a frame, and find the ports of later fragments. Return 0 if it has no valid IP packet. */
static __always_inline int take_packet(struct __sk_buff *skb, struct memory *memory)
{
	struct packet *packet = &memory->packet;
	memory->status = STATUS_UNKNOWN;
	if (!take_apart(skb, FROM_ENDPOINT, packet))
		return 0;
	if (packet->part == WHOLE)
		return 1;
	struct fragmented *key = &memory->fragmented;
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

static __always_inline void report(struct __sk_buff *skb, const struct memory *memory, int type, int point, int detail)
{
	struct event *event = bpf_ringbuf_reserve(&cilium_events, sizeof *event, 0);
	if (!event) { /* there is no reader, or it is too slow */
		__u32 zero = 0;
		__u64 *lost = bpf_map_lookup_elem(&cilium_lost, &zero);
		if (lost)
			__sync_fetch_and_add(lost, 1);
		return;
	}
	const struct tuple *tuple = &memory->packet.tuple;
	event->at_ns = bpf_ktime_get_ns();
	event->source = tuple->source;
	event->destination = tuple->destination;
	event->source_port = tuple->source_port;
	event->destination_port = tuple->destination_port;
	event->protocol = tuple->protocol;
	event->type = type;
	event->point = point;
	event->detail = detail;
	event->source_identity = memory->source_identity;
	event->destination_identity = memory->destination_identity;
	event->link = skb->ifindex;
	event->length = skb->len;
	event->tcp_flags = memory->packet.tcp_flags;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline int drop(struct __sk_buff *skb, const struct memory *memory, int point, int reason)
{
	report(skb, memory, EVENT_DROP, point, reason);
	return TC_ACT_SHOT;
}

/* Report where a packet comes from, unless events are aggregated. */
static __always_inline void trace_received(struct __sk_buff *skb, const struct memory *memory, const struct cilium_config *config, int point)
{
	if (!config->is_aggregating)
		report(skb, memory, EVENT_TRACE, point, memory->status);
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
		report(skb, memory, EVENT_TRACE, point, memory->status);
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
 * connection. An entry has the direction, seen from the endpoint, in which its first packet went. */
static __always_inline struct connection *find_connection(struct memory *memory, __u8 stage)
{
	const struct packet *packet = &memory->packet;
	const struct tuple *tuple = &packet->tuple;
	struct tuple *key = &memory->key;
	key->source = tuple->destination;
	key->destination = tuple->source;
	key->source_port = tuple->destination_port;
	key->destination_port = tuple->source_port;
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
	key->stage = stage;
	found = bpf_map_lookup_elem(&cilium_ct, key);
	memory->status = STATUS_ESTABLISHED;
	if (found && !is_expired(found, packet)) {
		touch(found, packet);
		return found;
	}
	memory->status = STATUS_NEW;
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

/* Return true if an endpoint may exchange the packet with a peer of this identity. */
static __always_inline int is_allowed(const struct memory *memory, __u32 endpoint, __u32 identity, __u8 direction)
{
	const struct tuple *tuple = &memory->packet.tuple;
	struct policy_key key = {
		.prefix_length = POLICY_PREFIX,
		.endpoint = endpoint,
		.identity = identity,
		.direction = direction,
		.protocol = tuple->protocol,
		.port = tuple->destination_port,
	};
	struct policy_entry *own = bpf_map_lookup_elem(&cilium_policy, &key);
	key.identity = 0;
	struct policy_entry *any = bpf_map_lookup_elem(&cilium_policy, &key);
	if ((own && own->is_denied) || (any && any->is_denied))
		return 0;
	return own || any;
}
