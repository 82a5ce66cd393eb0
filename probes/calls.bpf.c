/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Calls that change names, and calls that were refused, read at their exit. What refused a call
 * (Landlock, the view, seccomp, the host's permissions) is told apart by the reader; here every
 * refusal is recorded, whatever gave it: the exit tracepoint runs for seccomp's too. Paths are what
 * the caller claimed: good for a record, never for a decision.
 */
#include "files.h"

#define AT_FDCWD -100		/* uapi/linux/fcntl.h, uapi/asm-generic/fcntl.h */
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000

#define EPERM 1			/* uapi/asm-generic/errno-base.h, errno.h */
#define EACCES 13
#define EBUSY 16
#define EXDEV 18
#define EROFS 30
#define ENOSYS 38
#define EPROTONOSUPPORT 93
#define EAFNOSUPPORT 97

#define AF_UNIX 1		/* linux/socket.h */
#define AF_INET 2
#define AF_INET6 10

#define CALL_BIND 49		/* asm/unistd_64.h */

struct registers {
	u64 arguments[6];
};

static __always_inline void read_registers(struct registers *registers)
{
	u64 saved = (u64)bpf_task_pt_regs((void *)bpf_get_current_task_btf());

	/* x86-64 system call order */
	READ(registers->arguments[0], saved, OFF_pt_regs_di);
	READ(registers->arguments[1], saved, OFF_pt_regs_si);
	READ(registers->arguments[2], saved, OFF_pt_regs_dx);
	READ(registers->arguments[3], saved, OFF_pt_regs_r10);
	READ(registers->arguments[4], saved, OFF_pt_regs_r8);
	READ(registers->arguments[5], saved, OFF_pt_regs_r9);
}

/* One path argument: where it is in memory and the descriptor that it starts from. */
struct claim {
	u64 path;		/* 0: none; the descriptor itself is meant */
	int base;
	bool given;
};

struct claims {
	struct claim first, second;
};

/* Arguments by system call number, asm/unistd_64.h. */
static __always_inline void find_claims(int nr, struct registers *registers, struct claims *claims)
{
	u64 a = registers->arguments[0], b = registers->arguments[1];
	u64 c = registers->arguments[2], d = registers->arguments[3];

	switch (nr) {
	case 257: case 437: case 322:	/* openat, openat2, execveat */
	case 263: case 258: case 259:	/* unlinkat, mkdirat, mknodat */
	case 268: case 260:		/* fchmodat, fchownat */
		*claims = (struct claims){ { b, a, true } };
		break;
	case 91: case 93: case 77:	/* fchmod, fchown, ftruncate */
	case 190: case 199:		/* fsetxattr, fremovexattr */
		*claims = (struct claims){ { 0, a, true } };
		break;
	case 82: case 86:		/* rename, link */
		*claims = (struct claims){ { a, AT_FDCWD, true }, { b, AT_FDCWD, true } };
		break;
	case 264: case 316: case 265:	/* renameat, renameat2, linkat */
		*claims = (struct claims){ { b, a, true }, { d, c, true } };
		break;
	case 88:			/* symlink: its first argument is text, not a name */
		*claims = (struct claims){ { b, AT_FDCWD, true } };
		break;
	case 266:			/* symlinkat */
		*claims = (struct claims){ { c, b, true } };
		break;
	case CALL_BIND:
		*claims = (struct claims){ { b + SUN_PATH, AT_FDCWD, true } };
		break;
	default:
		*claims = (struct claims){ { a, AT_FDCWD, true } };
	}
}

/* The directory that a claimed path starts from; 0: it is absolute, or there is none. */
static __always_inline u64 learn_base(u64 cgroup, struct claim *claim)
{
	struct place place;
	u64 fs = 0, file, path;
	char first = 0;

	if (!claim->given)
		return 0;
	if (claim->path && bpf_probe_read_user(&first, 1, (void *)claim->path) == 0 && first == '/')
		return 0;
	if (claim->base == AT_FDCWD) {
		READ(fs, bpf_get_current_task(), OFF_task_struct_fs);
		path = fs + OFF_fs_struct_pwd;
	} else {
		file = file_of_descriptor(claim->base);
		if (!file)
			return 0;
		path = file + OFF_file_f_path;
	}
	find_path(&place, path);
	return learn_directory(cgroup, &place);
}

/* Copies the claimed strings into `data`, whose halves hold `size` bytes; false: one is longer. */
static __always_inline bool copy_claims(struct ri_detail *detail, char *data, const u32 size,
					struct claims *claims)
{
	long first = 0, second = 0;

	data[0] = 0;
	data[size] = 0;
	if (claims->first.path)
		first = bpf_probe_read_user_str(data, size, (void *)claims->first.path);
	detail->length = first > 0 ? first - 1 : 0;
	if (claims->second.given) {
		second = bpf_probe_read_user_str(data + size, size, (void *)claims->second.path);
		detail->second = size;
	}
	return first < size && second < size;
}

static __always_inline void fill_call(struct ri_detail *detail, struct sys_exit *ctx, u16 flags,
				      u64 directory, u64 second_directory)
{
	detail->header.flags = flags;
	detail->number = ctx->nr;
	detail->error = ctx->ret < 0 ? -ctx->ret : 0;
	detail->directory = directory;
	detail->second_directory = second_directory;
}

static __always_inline void send_path_call(struct sys_exit *ctx, u64 cgroup, struct claims *claims,
					   u16 flags)
{
	u64 directory = learn_base(cgroup, &claims->first);
	u64 second_directory;
	struct ri_short *record;
	struct ri_long *longer;

	FORGET(directory);
	second_directory = learn_base(cgroup, &claims->second);
	FORGET(second_directory);
	record = reserve_short(cgroup, RI_PATH_CALL, 0);
	if (!record)
		return;
	fill_call(&record->detail, ctx, flags, directory, second_directory);
	if (copy_claims(&record->detail, record->data, RI_SHORT_DATA / 2, claims)) {
		details.ringbuf_submit(record, RB_NO_WAKEUP);
		return;
	}
	details.ringbuf_discard(record, RB_NO_WAKEUP);
	longer = reserve_long(cgroup, RI_PATH_CALL, 0);
	if (!longer)
		return;
	fill_call(&longer->detail, ctx, flags, directory, second_directory);
	if (!copy_claims(&longer->detail, longer->data, RI_LONG_DATA / 2, claims))
		longer->detail.header.flags |= RI_TRUNCATED;
	details.ringbuf_submit(longer, RB_NO_WAKEUP);
}

static __always_inline bool refusal(long ret)
{
	return ret == -EACCES || ret == -EPERM || ret == -EROFS || ret == -EXDEV || ret == -EBUSY;
}

/* What a refused open asked for. */
static __always_inline u16 asked_flags(int nr, struct registers *registers)
{
	u64 flags = 0;

	switch (nr) {
	case 2:				/* open */
		flags = registers->arguments[1];
		break;
	case 257:			/* openat */
		flags = registers->arguments[2];
		break;
	case 437:			/* openat2: struct open_how starts with them */
		bpf_probe_read_user(&flags, sizeof(flags), (void *)registers->arguments[2]);
		break;
	case 85:			/* creat */
		flags = O_CREAT;
		break;
	}
	return (flags & (O_ACCMODE | O_CREAT | O_TRUNC) ? RI_WRITE : 0) |
	       (flags & O_CREAT ? RI_CREATED : 0) |
	       ((flags & O_ACCMODE) == O_ACCMODE ? RI_IOCTL_ONLY : 0);
}

/* Calls of which only refusals are told here: what succeeded, other programs record. */
static __always_inline bool only_refused(int nr)
{
	switch (nr) {
	case 2: case 257: case 437: case 85:	/* open, openat, openat2, creat */
	case 59: case 322:			/* execve, execveat */
	case CALL_BIND:
		return true;
	}
	return false;
}

/* bind of an internet socket is the cgroup programs' to tell. */
static __always_inline bool names_no_path(int nr, struct registers *registers)
{
	u16 family = 0;

	if (nr != CALL_BIND)
		return false;
	bpf_probe_read_user(&family, sizeof(family), (void *)registers->arguments[1]);
	return family != AF_UNIX;
}

/*
 * sys_exit of every call that names a path: one program, because each copy of what it inlines costs
 * the loader a quarter of a second.
 */
int ri_path_exit(struct sys_exit *ctx)
{
	struct registers registers;
	struct claims claims;
	u64 cgroup;

	if (!refusal(ctx->ret) && (ctx->ret < 0 || only_refused(ctx->nr)))
		return 0;
	if (!session_of(&cgroup))
		return 0;
	read_registers(&registers);
	if (names_no_path(ctx->nr, &registers))
		return 0;
	find_claims(ctx->nr, &registers, &claims);
	FORGET(claims);
	send_path_call(ctx, cgroup, &claims, asked_flags(ctx->nr, &registers));
	return 0;
}

static __always_inline bool call_refusal(long ret)
{
	return ret == -EPERM || ret == -EACCES || ret == -ENOSYS || ret == -EAFNOSUPPORT ||
	       ret == -EPROTONOSUPPORT;
}

static __always_inline void send_refused_call(struct sys_exit *ctx, u64 cgroup)
{
	struct ri_event *event = reserve_event(cgroup, RI_SYSCALL, 0);
	struct registers registers;

	if (!event)
		return;
	__builtin_memset(&event->call, 0, sizeof(event->call));
	read_registers(&registers);
	for (int i = 0; i < 6; i++)	/* a system call has six arguments */
		event->call.arguments[i] = registers.arguments[i];
	event->call.number = ctx->nr;
	event->call.error = -ctx->ret;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
}

/* sys_exit of the calls that the floor refuses, and of kill. */
int ri_refused_call_exit(struct sys_exit *ctx)
{
	u64 cgroup;

	if (call_refusal(ctx->ret) && session_of(&cgroup))
		send_refused_call(ctx, cgroup);
	return 0;
}

/* The address a listening internet socket is bound to; false for other families. */
static __always_inline bool read_listener(struct ri_net *net, int descriptor)
{
	u64 file = file_of_descriptor(descriptor), socket = 0, sock = 0;
	u32 address = 0;

	READ(socket, file, OFF_file_private_data);
	READ(sock, socket, OFF_socket_sk);
	READ(net->family, sock, OFF_sock_common_skc_family);
	READ(net->port, sock, OFF_sock_common_skc_num);
	READ(net->type, sock, OFF_sock_sk_type);
	READ(net->protocol, sock, OFF_sock_sk_protocol);
	if (net->family == AF_INET6) {
		READ(net->address, sock, OFF_sock_common_skc_v6_rcv_saddr);
		return true;
	}
	READ(address, sock, OFF_sock_common_skc_rcv_saddr);
	net->address[10] = 0xff;
	net->address[11] = 0xff;
	__builtin_memcpy(net->address + 12, &address, 4);
	return net->family == AF_INET;
}

/* sys_exit of listen: no cgroup hook sees it. */
int ri_listen_exit(struct sys_exit *ctx)
{
	struct registers registers;
	struct ri_event *event;
	struct ri_net net = { .rule = -1, .operation = RI_LISTEN };
	u64 cgroup;

	if (!session_of(&cgroup))
		return 0;
	if (call_refusal(ctx->ret))
		send_refused_call(ctx, cgroup);
	if (ctx->ret < 0)
		return 0;
	read_registers(&registers);
	if (!read_listener(&net, registers.arguments[0]))
		return 0;
	event = reserve_event(cgroup, RI_NET, 0);
	if (!event)
		return 0;
	event->net = net;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
	return 0;
}
