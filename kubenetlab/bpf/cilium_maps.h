/* Maps of the CNI mode cilium. The node agent writes cilium_config, cilium_lxc, cilium_ipcache,
 * cilium_links, and the maps of the policy engine ebpf: cilium_policy, cilium_policed, cilium_cidr
 * and cilium_rules. The programs write the others.
 *
 * Names are those of Cilium, cut to the 15 characters of the kernel. One map serves both families.
 * kubenetlab/hoststate/rules/cilium_entries.py has the same layouts.
 */
#pragma once

#include "checksum.h"

/* Numeric identities that do not depend on labels; those of labels begin at 256. */
enum identity { IDENTITY_HOST = 1, IDENTITY_WORLD = 2, IDENTITY_REMOTE_NODE = 6 };

/* Settings of a node; index 0 is IPv4, 1 is IPv6. A family that the node does not have is zero. */
struct cilium_config {
	struct address router[2];  /* addresses of cilium_host, the pods' gateways */
	struct address underlay;   /* the node's own end of tunnels; zero without tunnels */
	__u8 mac[ETH_ALEN];	   /* of the node's ends of all pod links */
	__u8 is_legacy;		   /* 1: packets between pods pass the stack of their nodes */
	__u8 is_aggregating;	   /* 1: not every packet of a connection is an event */
	__u8 is_encrypted;	   /* 1: packets of tunnels get MARK_ENCRYPT */
	__u8 zero[3];
};

enum link_kind { POD_LINK, TUNNEL_LINK };

struct link_key {
	__u32 id; /* endpoint; 0 for the tunnel */
	__u32 kind;
};

/* A pod of this node, by each of its addresses. */
struct pod_endpoint {
	__u32 id;
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

struct ipcache_key {
	__u32 prefix_length; /* as of an IPv6 address */
	struct address address;
};

struct ipcache_info {
	__u32 identity;
	__u32 zero;
	struct address tunnel; /* node to which packets are tunnelled; zero: they are routed */
};

/* An endpoint with policies in one direction, by its number. Beside a kube-proxy egress is decided
 * after translation, where the identity stands for the endpoint. */
struct policed_key {
	__u32 subject; /* endpoint; identity with BY_IDENTITY */
	__u32 kind;    /* enum stage: TO_ENDPOINT or FROM_ENDPOINT, and subject_flag */
};

enum subject_flag { BY_IDENTITY = 0x10 };

struct policed {
	__u64 policies; /* set of policies */
	__u32 flags;
	__u32 zero;
};

enum policed_flag {
	HAS_TIERS = 1,
	KNOWS_OWN_NODE = 2, /* the verdicts about the own node differ from those about the pod itself */
};

/* Verdict of a set of policies about an identity. Identity 0 is every identity without entries of
 * its own. The port of an ICMP message is its type. A shorter prefix covers more ports, every port, or every protocol and port. */
struct policy_key {
	__u32 prefix_length;
	__u32 identity;
	__u64 policies;
	__u8 scope; /* enum stage, and scope_flag */
	__u8 protocol;
	__be16 port;
	__u32 zero; /* after every prefix */
};

enum scope_flag {
	IS_IPV6 = 2,
	IS_EXEMPT = 4, /* NetworkPolicies do not apply: a pod to itself, or to its node */
	TO_OWN_NODE = 8, /* with IS_EXEMPT: a pod to its node, if the policies know it */
};

#define FIRST_CIDR_IDENTITY (1 << 24) /* smallest identity in cilium_cidr; its 24 lower bits follow from a digest */
#define POLICY_PREFIX 128

struct policy_entry {
	__u64 rule; /* entry of cilium_rules; 0: no rule decides */
	__u32 is_denied;
	__u32 zero;
};

#define RULE_BYTES 128

struct rule_text {
	char text[RULE_BYTES];
};

enum connection_flag {
	IS_CLOSING = 1,
	IS_ANSWERED = 2,
	BY_STACK = 4, /* the stack sent the first packet to the pod, and may have to translate replies */
};

struct connection {
	struct address tunnel; /* node from whose tunnel the first packet came; zero: without tunnel */
	__u64 seen_ns;
	__u64 reported_ns;
	__u32 source_identity;
	__u32 flags;
};

struct fragmented {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};

struct fragment_ports {
	__be16 source;
	__be16 destination;
};

enum event_type { EVENT_DROP = 1, EVENT_TRACE = 4 };

enum point {
	FROM_POD,
	FROM_OVERLAY,
	FROM_HOST,
	FROM_NETWORK,
	TO_POD,
	TO_OVERLAY,
	TO_STACK,
	TO_NETWORK,
};

enum drop_reason { DROP_INVALID_SOURCE = 1, DROP_POLICY, DROP_NO_ENDPOINT, DROP_NO_TUNNEL };

enum connection_status { STATUS_NEW, STATUS_ESTABLISHED, STATUS_REPLY, STATUS_UNKNOWN };

struct event {
	__u64 at_ns; /* CLOCK_MONOTONIC */
	__u64 rule;  /* entry of cilium_rules that denied the packet; 0: none */
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 type;
	__u8 point;
	__u8 detail; /* drop_reason, or connection_status */
	__u32 source_identity;
	__u32 destination_identity;
	__u32 link; /* index of the link whose program reports */
	__u32 length;
	__u32 tcp_flags;
	__be16 echo_id; /* of an ICMP echo message */
	__be16 echo_number;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cilium_config);
} cilium_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct link_key);
	__type(value, __u32);
} cilium_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct pod_endpoint);
} cilium_lxc SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_info);
} cilium_ipcache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key);
	__type(value, struct policy_entry);
} cilium_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policed_key);
	__type(value, struct policed);
} cilium_policed SEC(".maps");

/* Identities of addresses that policies distinguish by more than by labels. They take precedence
 * over those of cilium_ipcache. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, __u32);
} cilium_cidr SEC(".maps");

/* Rules that allow or deny packets, as text. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct rule_text);
} cilium_rules SEC(".maps");

/* Number of packets that each rule has dropped. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} cilium_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct tuple);
	__type(value, struct connection);
} cilium_ct SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct fragmented);
	__type(value, struct fragment_ports);
} cilium_frag SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} cilium_events SEC(".maps");

/* Events of packets that policies deny, for another reader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} cilium_denied SEC(".maps");

/* Number of events that were lost because the ring buffer was full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} cilium_lost SEC(".maps");
