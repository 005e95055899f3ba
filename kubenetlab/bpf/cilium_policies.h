/* The policy engine ebpf: verdicts of policies about the packets of endpoints.
 *
 * An endpoint with policies in a direction has a set of policies (cilium_policed). The verdict about
 * a peer is found in cilium_policy by this set and the identity of the peer, which follows from its
 * address: from cilium_cidr, or else from cilium_ipcache. So a packet needs at most five lookups,
 * whatever the number of policies and peers, and one if there are no policies.
 *
 * Every packet in the direction in which a connection was opened is decided, so a change applies to
 * open connections, too. Replies always pass.
 */
#pragma once

#include "cilium_connections.h"

static __always_inline struct policed *find_policed(__u32 subject, __u32 kind)
{
	struct policed_key key = {.subject = subject, .kind = kind};
	return bpf_map_lookup_elem(&cilium_policed, &key);
}

/* Return the identity of an address for policies; `known` is that of cilium_ipcache, which 0 in
 * cilium_cidr refers to. */
static __always_inline __u32 policy_identity(struct memory *memory, const struct address *address, __u32 known)
{
	memory->prefix.prefix_length = 128;
	memory->prefix.address = *address;
	__u32 *identity = bpf_map_lookup_elem(&cilium_cidr, &memory->prefix);
	return identity && *identity ? *identity : known;
}

static __always_inline void count_drop(struct memory *memory)
{
	__u64 first = 1;
	if (!bpf_map_lookup_elem(&cilium_rules, &memory->rule))
		return;
	__u64 *dropped = bpf_map_lookup_elem(&cilium_drops, &memory->rule);
	if (dropped)
		__sync_fetch_and_add(dropped, 1);
	else
		bpf_map_update_elem(&cilium_drops, &memory->rule, &first, BPF_ANY);
}

/* Return 1 if a set of policies lets the packet pass. It is a function of its own, which the kernel
 * verifies once.
 *
 * identity: of the peer, for policies.
 * direction: TO_ENDPOINT or FROM_ENDPOINT.
 * exemption: IS_EXEMPT if NetworkPolicies do not apply, but policies of tiers do; with TO_OWN_NODE if
 * the peer is the node of the endpoint, and the policies know it.
 */
__noinline int is_allowed(__u64 policies, __u32 identity, __u32 direction, __u32 exemption)
{
	struct memory *memory_ = memory();
	if (!memory_)
		return 0;
	const struct tuple *tuple = &memory_->packet.tuple;
	struct policy_key *key = &memory_->policy;
	key->prefix_length = POLICY_PREFIX;
	key->policies = policies;
	key->identity = identity;
	key->scope = direction | (memory_->packet.is_ipv6 ? IS_IPV6 : 0) | exemption;
	key->protocol = tuple->protocol;
	key->port = is_icmp(&memory_->packet) ? bpf_htons(memory_->packet.icmp_type) : tuple->destination_port;
	struct policy_entry *entry = bpf_map_lookup_elem(&cilium_policy, key);
	if (!entry) {
		key->identity = 0;
		entry = bpf_map_lookup_elem(&cilium_policy, key);
	}
	if (!entry)
		return 0; /* the policies are not loaded yet */
	if (!entry->is_denied)
		return 1;
	memory_->rule = entry->rule;
	count_drop(memory_);
	return 0;
}

/* Return 1 if an endpoint may send the packet.
 *
 * is_legacy: 1 if the stack may translate the destination. Then policies decide behind it, and
 * is_undecided is set, unless the destination is the node.
 */
__noinline int may_leave(__u32 endpoint, __u32 is_legacy)
{
	struct policed *policed = find_policed(endpoint, FROM_ENDPOINT);
	struct memory *memory_ = memory();
	if (!policed)
		return 1;
	if (!memory_)
		return 0;
	const struct tuple *tuple = &memory_->packet.tuple;
	__u32 known = memory_->destination_identity;
	memory_->is_undecided = is_legacy;
	if (is_legacy && known != IDENTITY_HOST)
		return 1;
	__u32 exemption = is_same(&tuple->source, &tuple->destination) ? IS_EXEMPT : 0;
	if (known == IDENTITY_HOST)
		exemption = policed->flags & KNOWS_OWN_NODE ? IS_EXEMPT | TO_OWN_NODE : IS_EXEMPT;
	if (exemption && !(policed->flags & HAS_TIERS))
		return 1;
	return is_allowed(policed->policies, policy_identity(memory_, &tuple->destination, known), FROM_ENDPOINT, exemption);
}

/* Return 1 if the stack may send the packet of an endpoint on, after translation.
 *
 * sender: identity of the endpoint; its address may have been masqueraded.
 */
__noinline int may_leave_stack(__u32 sender)
{
	struct memory *memory_ = memory();
	if (!memory_)
		return 0;
	const struct tuple *tuple = &memory_->packet.tuple;
	__u32 known = memory_->destination_identity;
	struct policed *policed = find_policed(sender, FROM_ENDPOINT | BY_IDENTITY);
	if (!policed)
		return 1;
	int is_masqueraded = identity_of(memory_, &tuple->source) == IDENTITY_HOST;
	int is_exempt = is_same(&tuple->source, &tuple->destination) || (is_masqueraded && known == sender);
	if (is_exempt && !(policed->flags & HAS_TIERS))
		return 1;
	return is_allowed(policed->policies, policy_identity(memory_, &tuple->destination, known), FROM_ENDPOINT, is_exempt ? IS_EXEMPT : 0);
}

/* Return 1 if an endpoint may receive the packet.
 *
 * The address says who sends it, also if another node does. Only where this node has masqueraded
 * the sender, the mark does.
 */
__noinline int may_enter(__u32 endpoint)
{
	struct policed *policed = find_policed(endpoint, TO_ENDPOINT);
	struct memory *memory_ = memory();
	if (!policed)
		return 1;
	if (!memory_)
		return 0;
	const struct tuple *tuple = &memory_->packet.tuple;
	__u32 known = identity_of(memory_, &tuple->source);
	__u32 identity = memory_->masqueraded_identity;
	int is_exempt = is_same(&tuple->source, &tuple->destination);
	if (known == IDENTITY_HOST) {
		if (memory_->source_identity == IDENTITY_HOST)
			return 1;
		is_exempt = memory_->source_identity == memory_->destination_identity;
	} else {
		identity = policy_identity(memory_, &tuple->source, known);
	}
	if (is_exempt && !(policed->flags & HAS_TIERS))
		return 1;
	return is_allowed(policed->policies, identity, TO_ENDPOINT, is_exempt ? IS_EXEMPT : 0);
}
