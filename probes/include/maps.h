/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Keys and values of the maps. Rows are packed by monitor/wire/rows.py and written by
 * monitor/daemon/probes/tables.py; the programs read them. Every lookup that misses denies.
 */
#ifndef RI_MAPS_H
#define RI_MAPS_H

#define RI_MAX_POLICIES 8	/* links of a chain; Landlock allows 16 layers, so this is the bound */
#define RI_MAX_LABELS 8		/* labels of a session, those of all links together */

enum ri_session_flag {
	RI_OBSERVE = 1,		/* record what a rule would refuse, let it pass */
	RI_REVOKED = 2,		/* deny everything */
	RI_EVERY = 4,		/* no aggregation */
	RI_GATED = 8,		/* a program starts by a ticket only */
	RI_PAUSED = 16,		/* a condition does not hold: deny everything until it does */
	RI_NAMES = 32,		/* hosts by name: what it asks name servers goes to the resolver */
};

struct ri_session {
	__u64 expires;		/* boottime ns; 0: never */
	__u32 flags;		/* enum ri_session_flag */
	__u32 policy_count;
	__u32 policies[RI_MAX_POLICIES];	/* every one must allow */
	__u32 label_count;
	__u32 labels[RI_MAX_LABELS];	/* policies, too, once the map `earned` holds them */
	__u32 budgets;		/* 1 << enum ri_budget_kind, for each that any policy has */
};

/* Key: u32, the policy of a label. A label without its row counts as earned. */
struct ri_earned {
	__u64 time;		/* boottime ns when it was earned; 0: it was not */
};

enum ri_table {
	RI_TABLE_CONNECT = 0,
	RI_TABLE_BIND = 1,
};

/* LPM: policy and table are part of the prefix, so a policy's rows never match another's. */
struct ri_prefix_key {
	__u32 prefix_length;	/* 64 + bits of the address */
	__u32 policy;
	__u32 table;		/* enum ri_table */
	__u8 address[16];	/* IPv4 as ::ffff:a.b.c.d */
};

/* LPM over ports: a range is a few prefixes of the 16 bits. */
struct ri_port_key {
	__u32 prefix_length;	/* 80 + bits of the port */
	__u32 policy;
	__u32 set;		/* value of the prefix row */
	__u16 protocol;
	__u16 port;		/* network order: LPM compares from the highest bit */
};

enum ri_verdict {
	RI_DENY = 0,
	RI_ALLOW = 1,
	RI_ASK = 2,		/* allowed where the map `approvals` has a row, else refused */
};

struct ri_port_value {
	__s32 rule;
	__u32 verdict;		/* enum ri_verdict */
	__u32 label;		/* policy of the label that is earned by it, 0: none */
};

/* A person's yes to one destination, of one session, as one link's rule asks for it. */
struct ri_approval_key {
	__u64 cgroup;
	__u32 policy;
	__u16 protocol;
	__u16 port;		/* network order */
	__u8 address[16];
};

struct ri_approval {
	__u64 expires;		/* boottime ns; 0: with the session */
	__s64 uses;		/* how many more times; below 0: any number */
};

/* One decided program start. Present: the process may become exactly this. */
struct ri_ticket_key {
	__u64 inode;		/* of the file that will run: for a script its interpreter */
	__u64 arguments;	/* hash over all bytes of argv; 0: not looked at */
	__u32 pid;		/* the process: task_struct.tgid */
	__u32 device;		/* kernel dev_t: major << 20 | minor */
};

struct ri_ticket {
	__u64 expires;		/* boottime ns */
};

/* Key: u32, policy. What a link's budgets are; RI_UNLIMITED: it has none of that kind. */
struct ri_budget {
	__u64 egress;		/* bytes, in all */
	__u32 connects;		/* within a minute */
	__u32 execs;
	__u32 deletes;
	__u32 destinations;	/* different addresses, in all */
};

#define RI_UNLIMITED 0xffffffff			/* of egress: all 64 bits set */

/*
 * One count of one policy. Value: u64, what was used in all; or, where the budget is for a minute,
 * minute << 32 | count, where minute is boottime divided into minutes.
 */
struct ri_usage_key {
	__u32 policy;
	__u32 budget;		/* enum ri_budget_kind */
};

/* One address that a link's budget of destinations has counted. */
struct ri_destination_key {
	__u32 policy;
	__u8 address[16];
};

/* An address that a session was told when it looked a name up. */
struct ri_named_key {
	__u64 cgroup;
	__u8 address[16];
};

#define RI_NAMED_SPANS 16	/* of one address; more cannot be allowed */

enum ri_span_flag {
	RI_SPAN_HOST = 1,	/* a link names the host, and not merely any */
};

/* Ports that all links allow there by name. */
struct ri_named_span {
	__u64 until;		/* boottime ns */
	__u16 first;		/* ports in host order, both included */
	__u16 last;
	__u16 protocol;
	__u16 flags;		/* enum ri_span_flag */
	__u32 labels;		/* 1 << index in ri_session.labels, for each that leaves the name */
	__s32 rules[RI_MAX_POLICIES];	/* of the links, as ri_session.policies has them */
	__u32 place;		/* its index in ri_named.spans */
};

struct ri_named {
	__u32 count;		/* of spans, which are sorted and disjoint */
	__u32 reserved;
	struct ri_named_span spans[RI_NAMED_SPANS];
};

/* A name that a session was told an address for. */
struct ri_host_key {
	__u64 cgroup;
	__u8 address[16];
	__u32 length;		/* of name: one with a NUL behind it is another */
	__u32 reserved;
	__u8 name[256];		/* lower case, padded with NUL */
};

#define RI_ANY_PROTOCOL 0xffff

struct ri_socket_key {
	__u32 policy;
	__u16 family;
	__u16 type;
	__u16 protocol;		/* or RI_ANY_PROTOCOL */
	__u16 reserved;
};

/*
 * `length` tells an abstract name from the same one with NULs behind it, which is another socket.
 * `path` has room for sun_path that is not ended by NUL.
 */
struct ri_unix_key {
	__u32 policy;
	__u32 length;		/* bytes of path that count, its end NUL not among them */
	char path[112];		/* padded with NUL; an abstract name starts with NUL */
};

struct ri_unix_value {
	__s32 rule;
	__u32 held;		/* the session may redirect the name: only the gate connects to it */
};

/* Key of a connection to a held name: the gate's process that makes it, on which socket. */
struct ri_unix_ticket {
	__u64 cookie;		/* SO_COOKIE of the session's socket */
	__u32 pid;
	__u32 reserved;
};

/* One slot of the direct-mapped cache behind `audit: first`. */
struct ri_seen {
	__u64 tag;
	__u64 cgroup;
	__u64 count;
};

/* One slot of the cache of directories whose path was sent. */
struct ri_directory {
	__u64 tag;
	__u64 sent;		/* boottime ns */
};

enum ri_armed_flag {
	RI_CANARY = 1,		/* no session: everything is refused, to see that programs are called */
};

/* Key: u64, cgroup. A session that the LSM programs judge. */
struct ri_armed {
	__u32 flags;		/* enum ri_armed_flag */
	__u32 rules;		/* key of its ri_file_rules */
	__u32 calls;		/* 1 << (enum ri_hook - RI_HOOK_CALLS): what its filter refuses as well */
	__u32 reserved;
	__u64 home;		/* cgroup that its processes, and those of sessions in it, stand in */
};

enum ri_file_flag {
	RI_HAS_NAMES = 1,	/* components that are a name, or the start of one */
	RI_HAS_ENDS = 2,	/* components that are the end of a name */
};

#define RI_FILE_COMPONENTS 64
#define RI_FILE_LINK_BITS 12	/* ri_file_rules.rules: link << these | index in Policy.masks */

/*
 * Key: u32. The rules on files of all links of a chain together, shared by sessions whose rules are
 * the same. 64-bit words have a bit for each component of a pattern (see walking.h). 32-bit words
 * have three bits for each link, RI_USE_*, the outermost link's lowest.
 */
struct ri_file_rules {
	__u64 first;		/* the component nearest to the start */
	__u64 last;		/* the one nearest to the object */
	__u64 gap;		/* any number of folders may stand before it */
	__u64 any;		/* every name matches it */
	__u64 holds;		/* last ones of patterns that mean the very object only */
	/* What a pattern takes away, by its first component. */
	__u64 hide;
	__u64 read_only;
	__u64 no_exec;
	__u64 held;		/* moving or removing it */
	__u32 flags;		/* enum ri_file_flag */
	__u32 terminal;		/* what is granted on terminals */
	/* The lowest bit of each link that refuses what it does not grant: at all, where code is
	 * mapped, where modes and attributes change. */
	__u32 grants;
	__u32 mapping;
	__u32 attributes;
	__u32 reserved;
	__u16 rules[RI_FILE_COMPONENTS];	/* by first component */
};

struct ri_file_key {
	__u64 inode;
	__u32 device;		/* kernel dev_t: major << 20 | minor */
	__u32 rules;		/* ri_armed.rules */
};

struct ri_file_value {
	__u64 starts;		/* first components of the patterns that start here */
	__u32 tree;		/* granted on it and beneath */
	__u32 own;		/* granted on it alone */
};

/* LPM: rules and kind are part of the prefix. The value, u64, holds all components that match. */
struct ri_name_key {
	__u32 prefix_length;	/* 96 + bits of the name */
	__u32 rules;
	__u32 kind;		/* 0: from the start, an exact name with its NUL; 1: from the end */
	__u32 reserved;
	char name[32];
};

#endif
