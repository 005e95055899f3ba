/* Lookup of the Service port of a packet, and choice of one of its endpoints. */
#pragma once

#include "handing.h"

#define SECOND 1000000000ULL

/* Return the frontend of a packet: by its destination, or as a node port of this node. */
static __noinline struct front *find_front(const struct tuple *asked, int is_ipv6)
{
	struct front_key key = {.address = asked->destination, .port = asked->destination_port, .protocol = asked->protocol};
	struct front *found = bpf_map_lookup_elem(&fronts, &key);
	if (found || !bpf_map_lookup_elem(&doors, &asked->destination))
		return found;
	key.kind = AT_NODE;
	key.address.words[0] = key.address.words[1] = key.address.words[3] = 0;
	key.address.words[2] = is_ipv6 ? 0 : bpf_htonl(0xffff);
	return bpf_map_lookup_elem(&fronts, &key);
}

/* Select the endpoint list by traffic policy, and return the `enum manner` flags of the flow. */
__noinline int choose_list(const struct settings *known, const struct front *front, int is_from_node)
{
	struct work *work = at_hand();
	if (!work || !known || !front)
		return -1;
	const struct packet *packet = &work->packet;
	int is_from_pod = is_within(&packet->tuple.source, &known->local[packet->is_ipv6 != 0]);
	/* Packets of the node itself get a port of their own in any case. */
	int is_foreign = known->is_detecting && !is_from_pod;
	int is_local = (front->flags & IS_LOCAL) != 0, masquerade = is_foreign || is_from_node || front->flags & IS_HIDING;
	if (front->flags & IS_OUTSIDE) {
		masquerade = !is_local || is_from_node;
		if (is_from_pod || is_from_node)
			is_local = 0;
	}
	work->list = is_local ? front->here : front->everywhere;
	work->count = is_local ? front->here_count : front->everywhere_count;
	work->service = front->service;
	work->affinity_s = front->affinity_s;
	return (masquerade ? MASQUERADED : 0) | (is_from_node ? NODE_IS_CLIENT : 0);
}

/* Adjust the flags of a flow that would be masqueraded, if endpoints should see their clients. */
static __always_inline int sent_directly(const struct work *work, const struct settings *known, int manner)
{
	const struct address *client = &work->packet.tuple.source, *endpoint = &work->chosen.address;
	const struct range *pods = &known->pods[work->packet.is_ipv6 != 0];
	struct address *home = home_of(endpoint);
	if (!home)
		/* A pod of this node, or an endpoint outside of the cluster. */
		return is_within(endpoint, pods) ? manner & ~MASQUERADED : manner;
	if (is_within(client, pods) && !home_of(client))
		return manner & ~MASQUERADED; /* a pod of this node, through which replies return */
	if (is_same(client, home))
		return manner; /* a node drops packets with its own source address */
	return (manner & ~MASQUERADED) | HANDED_ON;
}

static __always_inline int is_member(__u64 list, const struct endpoint *endpoint)
{
	struct member_key key = {.list = list, .endpoint = *endpoint};
	return bpf_map_lookup_elem(&members, &key) != 0;
}

static __always_inline int is_admitted(const struct work *work)
{
	struct source_key key = {.prefix_length = 192, .address = work->packet.tuple.source};
	__builtin_memcpy(key.service, &work->service, sizeof key.service);
	return bpf_map_lookup_elem(&sources, &key) != 0;
}

/* Choose an endpoint: by session affinity first, otherwise at random. */
__noinline int choose_endpoint(void)
{
	struct work *work = at_hand();
	if (!work)
		return -1;
	struct client_key client = {.service = work->service, .address = work->packet.tuple.source};
	__u64 now = bpf_ktime_get_ns();
	if (work->affinity_s) {
		struct faith *faith = bpf_map_lookup_elem(&faithful, &client);
		if (faith && now - faith->since_ns < work->affinity_s * SECOND && is_member(work->list, &faith->endpoint)) {
			faith->since_ns = now;
			work->chosen = faith->endpoint;
			return 0;
		}
	}
	struct slot slot = {.list = work->list, .index = bpf_get_prandom_u32() % work->count};
	struct endpoint *drawn = bpf_map_lookup_elem(&endpoints, &slot);
	if (!drawn)
		return -1;
	work->chosen = *drawn;
	if (work->affinity_s) {
		struct faith faith = {.endpoint = *drawn, .since_ns = now};
		bpf_map_update_elem(&faithful, &client, &faith, BPF_ANY);
	}
	return 0;
}
