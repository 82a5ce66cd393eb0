/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the probes report. Two rings: `events` holds ri_event only, one size, so that a reader can
 * take thousands at once; `details` holds what is larger (ri_short, ri_long, ri_exec). Written by
 * the programs, read by monitor/wire/decode.py. monitor/wire/layout.py is the one mirror; a test
 * compares the two.
 *
 * Order: a program submits RI_DIRECTORY before it reserves the record that names the directory. So
 * a reader that notes the end of `events`, drains `details`, and then drains `events` up to that
 * end knows every directory before the open that refers to it.
 */
#ifndef RI_RECORDS_H
#define RI_RECORDS_H

enum ri_kind {
	RI_OPEN = 1,		/* ri_event.open: an open that succeeded */
	RI_FORK = 2,		/* ri_event.process */
	RI_EXIT = 3,		/* ri_event.process */
	RI_NET = 4,		/* ri_event.net: an internet socket's action, allowed or refused */
	RI_SYSCALL = 5,		/* ri_event.call: a refused system call that names no path */
	RI_COUNT = 6,		/* ri_event.count: how often a record already sent came again */
	RI_DIRECTORY = 64,	/* ri_long: data is the path of `directory`, leaf first */
	RI_PATH_CALL = 65,	/* ri_short or ri_long: a call by path, as the caller claimed it */
	RI_NAME = 66,		/* ri_short: an open whose name is longer than ri_open holds */
	RI_UNIX = 67,		/* ri_short: connect or send to a unix socket's name */
	RI_EXEC = 68,		/* ri_exec */
	RI_DENIED = 69,		/* ri_short: an LSM program refused; number is the hook */
	RI_HELLO = 72,		/* ri_short: data is ri_asked, a TLS hello that was refused */
	RI_LABEL = 7,		/* ri_event.net: this action earned the label whose policy is `policy` */
};

enum ri_flag {
	RI_WRITE = 1,		/* opened for writing; a refused open: would have been */
	RI_CREATED = 2,		/* the open made the file; a refused open: would have */
	RI_OBSERVED = 4,	/* would have been refused; let pass under --observe */
	RI_TRUNCATED = 8,	/* there was more than the record holds */
	RI_IOCTL_ONLY = 16,	/* a refused open: with access mode 3, neither reading nor writing */
	RI_RECEIVED = 32,	/* RI_OPEN, RI_NAME: not opened, but passed in over a unix socket */
};

enum ri_operation {
	RI_SOCKET = 0,
	RI_CONNECT = 1,
	RI_SEND = 2,
	RI_BIND = 3,
	RI_LISTEN = 4,
};

enum ri_cause {
	RI_ALLOWED = 0,
	RI_RULE = 1,		/* a deny rule */
	RI_UNLISTED = 2,
	RI_EXPIRED = 3,
	RI_DENY_ALL = 4,	/* revoked, or no session row for this cgroup */
	RI_ROUTED = 5,		/* a packet with a source route: it would go elsewhere than decided */
	RI_UNANSWERED = 6,	/* a rule asks, and nobody has approved it */
	RI_OVER_BUDGET = 7,	/* rule: which, enum ri_budget_kind */
	RI_CONDITION = 8,	/* a condition of the session does not hold */
	RI_NO_TICKET = 9,	/* RI_EXEC: not the program start that was decided; it was killed */
	RI_UNHELD = 10,		/* a unix name that the session may redirect, and not by the gate */
};

/* Which LSM hook refused; also which one a copy of a program is loaded for. */
enum ri_hook {
	RI_HOOK_FILE_OPEN = 1,
	RI_HOOK_FILE_PERMISSION = 2,
	RI_HOOK_FILE_TRUNCATE = 3,
	RI_HOOK_BPRM_CHECK = 4,
	RI_HOOK_MMAP_FILE = 5,
	RI_HOOK_FILE_MPROTECT = 6,
	RI_HOOK_PATH_UNLINK = 7,
	RI_HOOK_PATH_RMDIR = 8,
	RI_HOOK_PATH_MKNOD = 9,
	RI_HOOK_PATH_MKDIR = 10,
	RI_HOOK_PATH_SYMLINK = 11,
	RI_HOOK_PATH_RENAME = 12,
	RI_HOOK_PATH_LINK = 13,
	RI_HOOK_PATH_TRUNCATE = 14,
	RI_HOOK_PATH_CHMOD = 15,
	RI_HOOK_PATH_CHOWN = 16,
	RI_HOOK_SETXATTR = 17,
	RI_HOOK_REMOVEXATTR = 18,
	RI_HOOK_SOCKET_CREATE = 32,
	RI_HOOK_SOCKET_CONNECT = 33,
	RI_HOOK_SOCKET_SENDMSG = 34,
	RI_HOOK_SOCKET_BIND = 35,
	RI_HOOK_SOCKET_LISTEN = 36,
	RI_HOOK_UNIX_STREAM = 37,
	RI_HOOK_UNIX_SEND = 38,
	RI_HOOK_FILE_RECEIVE = 39,
	RI_HOOK_BPF = 64,
	RI_HOOK_MOUNT = 65,
	RI_HOOK_USERNS = 66,
	RI_HOOK_PTRACE = 67,
	RI_HOOK_TRACEME = 68,
	RI_HOOK_KERNEL_READ = 69,
	RI_HOOK_PERF = 70,
	RI_HOOK_MOVE_MOUNT = 71,
	RI_HOOK_KILL = 72,
};

#define RI_HOOK_CALLS 64	/* from here on they stand for whole system calls */

enum ri_budget_kind {
	RI_BUDGET_CONNECTS = 0,
	RI_BUDGET_DESTINATIONS = 1,
	RI_BUDGET_EGRESS = 2,
	RI_BUDGET_EXECS = 3,
	RI_BUDGET_DELETES = 4,
};

/* What became of a TLS hello; ri_detail.cause of RI_HELLO is one from RI_TLS_PLAIN on. */
enum ri_tls {
	RI_TLS_INCOMPLETE = 0,	/* more is to come */
	RI_TLS_ALLOWED = 1,
	RI_TLS_HOLE = 2,	/* bytes before these did not leave, but will */
	RI_TLS_PLAIN = 3,	/* no hello at all */
	RI_TLS_BROKEN = 4,	/* one that servers may read in different ways */
	RI_TLS_NAMELESS = 5,
	RI_TLS_OTHER = 6,	/* a name that the session was not told this address for */
	RI_TLS_URGENT = 7,	/* urgent data: what is read is not what was sent */
	RI_TLS_SHARED = 8,	/* bytes that the sender can still change */
};

/* Starts every record: who and when. */
struct ri_header {
	__u64 time;		/* bpf_ktime_get_boot_ns */
	__u64 cgroup;		/* cgroup id of the session */
	__u32 pid;
	__u32 tid;
	__u16 kind;		/* enum ri_kind */
	__u16 flags;		/* enum ri_flag */
	__u32 reserved;
	char comm[16];
};

struct ri_open {
	__u64 tag;		/* of the aggregation slot; RI_COUNT refers to it */
	__u64 inode;
	__u64 directory;	/* the RI_DIRECTORY record that holds the path of the parent */
	__u32 device;		/* kernel dev_t: major << 20 | minor */
	__u32 length;
	char name[48];
};

struct ri_net {
	__u64 tag;
	__u8 address[16];	/* network order; IPv4 as ::ffff:a.b.c.d */
	__s32 rule;		/* index in Policy.rules, -1: none */
	__u32 policy;		/* kernel policy id of the link that decided */
	__u16 port;		/* host order */
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u16 operation;	/* enum ri_operation */
	__u16 cause;		/* enum ri_cause */
	__u32 reserved[9];
};

struct ri_process {
	__u32 child;		/* RI_FORK: pid of the new process */
	__u32 status;		/* RI_EXIT: wait(2) status */
	__u64 reserved[9];
};

struct ri_syscall {
	__u64 arguments[6];
	__s32 number;
	__s32 error;		/* positive errno */
	__u64 reserved[3];
};

struct ri_count {
	__u64 tag;
	__u64 count;
	__u64 reserved[8];
};

struct ri_event {
	struct ri_header header;
	union {
		struct ri_open open;
		struct ri_net net;
		struct ri_process process;
		struct ri_syscall call;
		struct ri_count count;
	};
};

struct ri_detail {
	struct ri_header header;
	__u64 tag;		/* RI_NAME, RI_UNIX: as in ri_open */
	__u64 inode;		/* RI_NAME */
	__u64 directory;	/* RI_PATH_CALL: where a relative path starts, 0: it is absolute */
	__u64 second_directory;	/* the same for the second path of a rename or link */
	__u32 device;		/* RI_NAME */
	__s32 number;		/* RI_PATH_CALL: system call; RI_UNIX: enum ri_operation */
	__s32 error;		/* RI_PATH_CALL: positive errno, 0: it succeeded */
	__u32 length;		/* bytes used of data; for RI_PATH_CALL by the first path */
	__u32 second;		/* RI_PATH_CALL: where the second path starts in data, 0: none */
	__s32 rule;		/* RI_UNIX: as in ri_net */
	__u32 policy;		/* RI_UNIX */
	__u32 cause;		/* RI_UNIX */
};

#define RI_NAME_MAX 256		/* NAME_MAX and its NUL */
#define RI_SHORT_DATA 1024
#define RI_LONG_DATA 8192	/* two paths of PATH_MAX */

struct ri_short {
	struct ri_detail detail;
	char data[RI_SHORT_DATA];
};

struct ri_long {
	struct ri_detail detail;
	char data[RI_LONG_DATA];
};

/* Where a TLS hello went, and the name in it. */
struct ri_asked {
	__u8 address[16];	/* as in ri_net */
	__u16 port;		/* host order */
	__u16 own_port;		/* of the socket */
	__u32 length;		/* bytes of name that count; 0: it has none, or not a whole one */
	char name[256];
};

#define RI_ARGUMENTS 4096	/* argv bytes kept; longer ones are flagged RI_TRUNCATED */

struct ri_exec {
	struct ri_header header;
	__u64 inode;
	__u64 directory;	/* of the file that runs */
	__u32 device;
	__u32 length;		/* bytes used of arguments */
	__u32 cause;		/* enum ri_cause: RI_ALLOWED, or why it was killed */
	__u32 reserved;
	char name[RI_NAME_MAX];
	char arguments[RI_ARGUMENTS];
};

#endif
