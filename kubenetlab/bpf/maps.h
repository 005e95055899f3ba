/* Maps of the programs: settings and Services are written by the node agent; flows, fragments and
 * session affinities are written by the programs.
 *
 * kubenetlab/hoststate/rules/bpf_entries.py has the same layouts.
 */
#pragma once

#include "tuple.h"

/* Settings of a node; index 0 is IPv4, 1 is IPv6. A family that the node does not have has all-zero
 * masks, which match no address. */
struct settings {
	struct address node[2];
	struct range pods[2];
	struct range services[2];
	struct range local[2]; /* sources that count as pods: kube-proxy's detectLocalMode */
	__u32 is_detecting;    /* 0: no such range; no packet is masqueraded for its source */
	__u32 overlay_count;
	__u32 bare_count; /* overlay links whose packets have no Ethernet header; they come first */
};

enum front_kind { AT_ADDRESS, AT_NODE };

/* Frontend of a Service: an address and port, or a node port, whose address is zero except for the
 * family. An entry with port and protocol 0 marks the address as a cluster IP. */
struct front_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 kind;
};

enum front_flag {
	IS_OUTSIDE = 1, /* external address or node port: the external traffic policy applies */
	IS_LOCAL = 2,   /* the traffic policy is Local */
	IS_FENCED = 4,  /* only clients in the map `sources` are allowed */
	IS_HIDING = 8,  /* all clients are masqueraded, including pods */
	IS_DIRECT = 16, /* direct server return: endpoints see clients and reply directly */
};

struct front {
	__u64 everywhere; /* endpoint list for policy Cluster */
	__u64 here;       /* endpoint list for policy Local */
	__u64 service;    /* Service port, the same for all its frontends */
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
	__u32 prefix_length; /* 64 (the service) + prefix length as of an IPv6 address */
	__u32 service[2];
	struct address address;
};

struct home_key {
	__u32 prefix_length; /* prefix length as of an IPv6 address */
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

/* Links to pods of other nodes, in addition to the uplink, such as tunnels: numbers from 0 on → index
 * of the link, and the node's own addresses on it. An address is zero if the link has none. */
#define MAX_OVERLAYS 8

struct overlay {
	struct address own[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OVERLAYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} overlay_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OVERLAYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct overlay);
} overlays SEC(".maps");

/* Addresses of the node at which node ports are reached. */
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

/* Address prefix of another node → that node: pod ranges, and the nodes' own addresses. */
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
