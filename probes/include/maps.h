/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Keys and values of the maps. Rows are packed by monitor/wire/rows.py and written by
 * monitor/daemon/probes/tables.py; the programs read them. Every lookup that misses denies.
 */
#ifndef RI_MAPS_H
#define RI_MAPS_H

#define RI_MAX_POLICIES 8	/* links of a chain; Landlock allows 16 layers, so this is the bound */

enum ri_session_flag {
	RI_OBSERVE = 1,		/* record what a rule would refuse, let it pass */
	RI_REVOKED = 2,		/* deny everything */
	RI_EVERY = 4,		/* no aggregation */
};

struct ri_session {
	__u64 expires;		/* boottime ns; 0: never */
	__u32 flags;		/* enum ri_session_flag */
	__u32 policy_count;
	__u32 policies[RI_MAX_POLICIES];	/* every one must allow */
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

struct ri_port_value {
	__s32 rule;
	__u32 allow;
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

#endif
