/* What the programs know: settings and Services, written from outside; flows, fragments and faithful clients, written by packets.
 *
 * An address has 16 bytes, an IPv4 address as ::ffff:a.b.c.d, so that both families share maps and code. Ports are in network order,
 * all else in the machine's. kubenetlab/hoststate/rules/bpf_entries.py has the same layouts.
 */
#pragma once

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct address {
	__u32 words[4];
};

struct range {
	struct address first;
	struct address mask;
};

/* Of one node: index 0 is IPv4, 1 is IPv6. An all-zero mask of a family that the node does not have covers no address of it. */
struct settings {
	struct address node[2];
	struct range pods[2];
	struct range services[2];
	struct range local[2]; /* sources that count as pods where a policy depends on it: kube-proxy's detectLocalMode */
	__u32 is_detecting;    /* 0: there is no such range, and nothing is masqueraded because it is outside of one */
};

enum front_kind { AT_ADDRESS, AT_NODE };

/* Where a Service is reached: at an address, or (address zero, but for the family) under a node port at any of the node's doors.
 * With port and protocol 0 it says that the address is a cluster IP. */
struct front_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 kind;
};

enum front_flag {
	IS_OUTSIDE = 1, /* an external address or node port, so the policy is the external one */
	IS_LOCAL = 2,   /* that policy is Local */
	IS_FENCED = 4,  /* only sources in the map `sources` may come */
	IS_HIDING = 8,  /* all clients are masqueraded, pods too */
	IS_DIRECT = 16, /* endpoints see clients themselves, and answer them from their own nodes */
};

struct front {
	__u64 everywhere; /* the list of endpoints by the policy Cluster */
	__u64 here;       /* by the policy Local */
	__u64 service;    /* the Service port, whichever way it is reached */
	__u32 everywhere_count;
	__u32 here_count;
	__u32 affinity_s;
	__u32 flags;
};

struct slot {
	__u64 list;
	__u32 index;
	__u32 zero;
};

struct endpoint {
	struct address address;
	__be16 port;
	__u16 zero[3];
};

struct member_key {
	__u64 list;
	struct endpoint endpoint;
};

struct source_key {
	__u32 prefix_length; /* 64 and the length as of an IPv6 address */
	__u32 service[2];
	struct address address;
};

struct home_key {
	__u32 prefix_length; /* as of an IPv6 address */
	struct address address;
};

struct client_key {
	__u64 service;
	struct address address;
};

struct faith {
	struct endpoint endpoint;
	__u64 since_ns;
};

enum stage { COMING, GOING, HANDED_OVER };

/* A packet before it is rewritten: where it comes into the node (tc ingress), where it goes out (tc egress), or where it comes in from
 * another node that has handed it on: it may have passed here before. */
struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 stage;
	__u16 zero;
};

enum flow_flag {
	IS_SERVICE = 1,  /* the way to a Service's endpoint, as the client's packets begin it */
	FROM_NODE = 2,   /* the node itself is the client: the packet has passed the stack and is sent on from here */
	TO_NODE = 4,     /* an answer to it */
	IS_CLOSED = 8,   /* the client has said goodbye */
	IS_APART = 16,   /* the way to the same endpoint without a Service */
	TO_HOME = 32,    /* as it is to the endpoint's node, which translates it */
};

/* What a packet becomes. */
struct flow {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 flags;
	__u64 seen_ns;
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u8 protocol;
	__u8 stage;
	__u16 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* The node's addresses at which node ports answer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u8);
} doors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct front_key);
	__type(value, struct front);
} fronts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct member_key);
	__type(value, __u8);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u8);
} sources SEC(".maps");

/* Where addresses of other nodes are: pods at their nodes, and nodes at themselves. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct home_key);
	__type(value, struct address);
} homes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct client_key);
	__type(value, struct faith);
} faithful SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct tuple);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct fragment_key);
	__type(value, struct flow);
} fragments SEC(".maps");
