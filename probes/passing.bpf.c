/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Descriptors that others pass in over unix sockets, at the exit of recvmsg and recvmmsg: what they
 * stand for, from the struct file. Observes only. Which numbers came is read from the caller's
 * memory, where another thread may have changed them by then: a session can hide one from its records,
 * not make one up that it does not have.
 */
#include "files.h"

#define CALL_RECVMSG 47		/* asm/unistd_64.h */
#define SOL_SOCKET 1		/* asm-generic/socket.h */
#define SCM_RIGHTS 1		/* linux/socket.h */
#define MESSAGE_CONTROL 32	/* offsetof(struct user_msghdr, msg_control), linux/socket.h */
#define MESSAGE_SIZE 64		/* sizeof(struct mmsghdr) */
/* What is looked at of one call; the verifier follows each descriptor to its path. What there is more
 * counts as a lost record. A message holds 253 at most; programs send a few, behind one other control
 * message perhaps. */
#define CONTROLS 2
#define TOLD 8

/* struct msghdr's msg_control and msg_controllen; struct cmsghdr */
struct control_memory {
	u64 start;
	u64 length;
};

struct control_header {
	u64 length;
	int level;
	int type;
};

static __always_inline void send_received(struct ri_session *session, u64 cgroup, int descriptor)
{
	u64 file = file_of_descriptor(descriptor), path, tag;
	struct place place;
	WINDOW(window, file);
	u32 mode;

	if (!file)
		return;
	READ_WINDOW(window, file, file);
	mode = FIELD(u32, window, file, f_mode);
	path = OFF_file_f_path - START_file;
	place.mount = *(u64 *)(window + path + OFF_path_mnt) - OFF_mount_mnt;
	find_dentry(&place, *(u64 *)(window + path + OFF_path_dentry));
	tag = mix(mix(mix(cgroup ^ (mode & FMODE_WRITE) ^ RI_RECEIVED, place.dentry),
		      place.parent ^ place.hash), place.inode);
	if (!only_counted(session, cgroup, tag))
		send_open(cgroup, &place, (mode & FMODE_WRITE ? RI_WRITE : 0) | RI_RECEIVED, tag);
}

/* Where the descriptors of one message stand in the caller's memory. */
struct received {
	u64 start;
	u64 count;
};

/* Finds the descriptors among the control messages of one message. */
static __always_inline void find_received(u64 message, struct received *received)
{
	struct control_memory memory = {};
	struct control_header header;
	u64 at;

	bpf_probe_read_user(&memory, sizeof(memory), (void *)(message + MESSAGE_CONTROL));
	at = memory.start;
#pragma clang loop unroll(full)
	for (int i = 0; i < CONTROLS; i++) {
		if (at + sizeof(header) > memory.start + memory.length ||
		    bpf_probe_read_user(&header, sizeof(header), (void *)at) < 0 ||
		    header.length < sizeof(header))
			return;
		if (header.level == SOL_SOCKET && header.type == SCM_RIGHTS) {
			received->start = at + sizeof(header);
			received->count = (header.length - sizeof(header)) / sizeof(int);
			return;
		}
		at += (header.length + 7) & ~7ULL;
	}
}

/* sys_exit of recvmsg and recvmmsg. */
int ri_receive_exit(struct sys_exit *ctx)
{
	struct received received = {};
	struct ri_session *session;
	struct registers registers;
	u64 cgroup, messages;
	int descriptor;

	if (ctx->ret < 0)
		return 0;
	session = session_of(&cgroup);
	if (!session)
		return 0;
	read_registers(&registers);
	messages = registers.arguments[1];
	find_received(messages, &received);
	if (!received.count && ctx->nr != CALL_RECVMSG && ctx->ret > 1)
		find_received(messages + MESSAGE_SIZE, &received);
	if (!received.count)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TOLD; i++) {
		if (i >= received.count)
			return 0;
		if (bpf_probe_read_user(&descriptor, sizeof(descriptor),
					(void *)(received.start + i * sizeof(descriptor))) == 0)
			send_received(session, cgroup, descriptor);
	}
	if (received.count > TOLD)
		add_lost(cgroup, received.count - TOLD);
	return 0;
}
