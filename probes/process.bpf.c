/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Forks, program starts and exits, from raw tracepoints: the argv that the kernel gave the program.
 *
 * Where a session is gated, a program that starts must be one that was decided on: the gate wrote a
 * ticket for it before it let the call go on. What has none is killed before its first instruction.
 */
#include "files.h"

#define SIGNAL_GROUP_EXIT 0x4	/* linux/sched/signal.h */
#define SIGKILL 9		/* uapi/asm-generic/signal.h */

/*
 * The hash over argv is multilinear: a sum of 32-bit words, each times a secret key of its own, mod
 * 2^64 (Lemire and Kaser, "Strongly universal string hashing is fast"). Who does not know the keys
 * finds no two lists that hash alike. monitor/daemon/gate/tickets.py is the mirror.
 */
#define CHUNK_WORDS 64
#define CHUNK_BYTES (4 * CHUNK_WORDS)
#define CHUNKS 512		/* 128 KiB; a longer list has the hash 0 */

struct argument_keys {
	u64 keys[CHUNK_WORDS];
};

struct argument_chunk {
	u32 words[CHUNK_WORDS];
};

/* Written once by the gate, before any ticket. The last row is for what is beside argv. All 0: no
 * ticket for certain arguments fits. */
BPF_ARRAY(argument_keys, struct argument_keys, CHUNKS + 1);
BPF_PERCPU_ARRAY(argument_chunk, struct argument_chunk, 1);

/* What the working directory adds to the hash; 0: nothing that can be relied on. */
static __always_inline u64 hash_folder(u64 task)
{
	u64 fs = 0, dentry = 0, inode = 0, number = 0;
	u32 device = 0, users = 1;
	int last = CHUNKS;
	struct argument_keys *keys = argument_keys.lookup(&last);

	if (!keys)
		return 0;
	READ(fs, task, OFF_task_struct_fs);
#ifdef OFF_fs_struct_users
	READ(users, fs, OFF_fs_struct_users);
#endif
	if (users != 1)		/* somebody else can move it to another directory */
		return 0;
	READ(dentry, fs, OFF_fs_struct_pwd + OFF_path_dentry);
	READ(inode, dentry, OFF_dentry_d_inode);
	read_inode(inode, &number, &device);
	return (u32)number * keys->keys[1] + (number >> 32) * keys->keys[2] +
	       device * keys->keys[3];
}

static __always_inline u64 hash_chunk(struct argument_chunk *chunk, struct argument_keys *keys)
{
	u64 hash = 0;

#pragma clang loop unroll_count(8)
	for (int i = 0; i < CHUNK_WORDS; i++)
		hash += chunk->words[i] * keys->keys[i];
	return hash;
}

/*
 * The hash over argv; 0: there is none. The last chunk has its own code, so that a round of the loop
 * has no branch but those that leave it: the verifier goes through each of them.
 */
static __always_inline u64 hash_arguments(u64 start, u64 length)
{
	u64 hash;
	u32 rest = length % CHUNK_BYTES;
	int zero = 0, last = CHUNKS, row;
	struct argument_chunk *chunk = argument_chunk.lookup(&zero);
	struct argument_keys *keys = argument_keys.lookup(&last);

	if (!chunk || !keys || length > CHUNKS * CHUNK_BYTES)
		return 0;
	hash = length * keys->keys[0];
	last = length / CHUNK_BYTES;
#pragma clang loop unroll(disable)
	for (u64 i = 0; i < CHUNKS; i++) {	/* of 64 bits: older verifiers lose sight of less */
		if (i >= length / CHUNK_BYTES)
			break;
		row = i;
		keys = argument_keys.lookup(&row);
		if (!keys || bpf_probe_read_user(chunk->words, CHUNK_BYTES,
						 (void *)(start + i * CHUNK_BYTES)) < 0)
			return 0;
		hash += hash_chunk(chunk, keys);
	}
	keys = argument_keys.lookup(&last);
	if (rest && keys) {
		__builtin_memset(chunk, 0, sizeof(*chunk));
		if (bpf_probe_read_user(chunk->words, rest, (void *)(start + length - rest)) < 0)
			return 0;
		hash += hash_chunk(chunk, keys);
	}
	return hash ? hash : 1;
}

/* Why programs were killed whose start is about to be recorded. Written by ri_exec_judge, taken by
 * ri_exec_done. Full: the record says that it was allowed; killed it is all the same. */
BPF_HASH(killed, u64, u32, 1024);

/* Takes the ticket; false: there is none, or its time is over. */
static __always_inline bool take_ticket(struct ri_ticket_key *key)
{
	struct ri_ticket *ticket = tickets.lookup(key);
	bool good = ticket && ticket->expires > bpf_ktime_get_boot_ns();

	if (ticket)
		tickets.delete(key);
	return good;
}

/* Why this program must not run; RI_ALLOWED: it may. */
static __always_inline u32 judge_start(struct ri_session *session, u64 task, u64 inode,
				       u32 device, u64 start, u64 length)
{
	struct ri_ticket_key key = { .inode = inode, .device = device };
	struct ri_budget *budget;
	u64 folder;
	u32 policy;

	if (session->flags & RI_OBSERVE || !(session->flags & RI_GATED))
		return RI_ALLOWED;
	key.pid = bpf_get_current_pid_tgid() >> 32;
	if (session->flags & RI_REVOKED)
		return RI_DENY_ALL;
	if (session->flags & RI_PAUSED)
		return RI_CONDITION;
	if (session->expires && session->expires <= bpf_ktime_get_boot_ns())
		return RI_EXPIRED;
	/* For this file; for these arguments; for these in this directory. */
	if (!take_ticket(&key)) {
		key.arguments = hash_arguments(start, length);
		if (!key.arguments)
			return RI_NO_TICKET;
		if (!take_ticket(&key)) {
			folder = hash_folder(task);
			key.arguments += folder;
			if (!folder || !take_ticket(&key))
				return RI_NO_TICKET;
		}
	}
	if (!(session->budgets & 1 << RI_BUDGET_EXECS))
		return RI_ALLOWED;
	for (u32 i = 0; i < RI_MAX_POLICIES; i++) {
		if (i >= session->policy_count)
			break;
		policy = session->policies[i];
		budget = budgets.lookup(&policy);
		if (budget && over_rate(policy, RI_BUDGET_EXECS, budget->execs))
			return RI_OVER_BUDGET;
	}
	return RI_ALLOWED;
}

/* sched_process_fork(struct task_struct *parent, struct task_struct *child) */
int ri_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct ri_event *event;
	u64 cgroup;
	u32 child = 0, group = 0;

	if (!session_of(&cgroup))
		return 0;
	READ(child, ctx->args[1], OFF_task_struct_pid);
	READ(group, ctx->args[1], OFF_task_struct_tgid);
	if (child != group)		/* a thread */
		return 0;
	event = reserve_event(cgroup, RI_FORK, 0);
	if (!event)
		return 0;
	__builtin_memset(&event->process, 0, sizeof(event->process));
	event->process.child = child;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
	return 0;
}

/* sched_process_exec: attached before ri_exec_done, which records. */
int ri_exec_judge(struct bpf_raw_tracepoint_args *ctx)
{
	struct ri_session *session;
	u64 cgroup, mm = 0, start = 0, end = 0, file = 0, dentry = 0, inode = 0, number = 0, thread;
	u32 device = 0, cause;

	session = session_of(&cgroup);
	if (!session || !(session->flags & RI_GATED))
		return 0;
	READ(mm, ctx->args[0], OFF_task_struct_mm);
	READ(start, mm, OFF_mm_struct_arg_start);
	READ(end, mm, OFF_mm_struct_arg_end);
	READ(file, ctx->args[2], OFF_linux_binprm_file);
	READ(dentry, file, OFF_file_f_path + OFF_path_dentry);
	READ(inode, dentry, OFF_dentry_d_inode);
	read_inode(inode, &number, &device);
	cause = judge_start(session, ctx->args[0], number, device, start, end - start);
	if (!cause)
		return 0;
	bpf_send_signal(SIGKILL);
	thread = bpf_get_current_pid_tgid();
	killed.update(&thread, &cause);
	return 0;
}

/* sched_process_exec(struct task_struct *, pid_t old_pid, struct linux_binprm *) */
int ri_exec_done(struct bpf_raw_tracepoint_args *ctx)
{
	struct ri_exec *record;
	struct place place;
	u64 cgroup, mm = 0, start = 0, end = 0, file = 0, inode = 0, directory, length, thread;
	u32 device = 0, *cause;

	if (!session_of(&cgroup))
		return 0;
	READ(mm, ctx->args[0], OFF_task_struct_mm);
	READ(start, mm, OFF_mm_struct_arg_start);
	READ(end, mm, OFF_mm_struct_arg_end);
	READ(file, ctx->args[2], OFF_linux_binprm_file);
	find_path(&place, file + OFF_file_f_path);
	read_inode(place.inode, &inode, &device);
	directory = learn_parent(cgroup, &place);
	record = details.ringbuf_reserve(sizeof(struct ri_exec));
	if (!record) {
		count_lost(cgroup);
		return 0;
	}
	length = end - start;
	fill_header(&record->header, cgroup, RI_EXEC, length > RI_ARGUMENTS ? RI_TRUNCATED : 0);
	record->inode = inode;
	record->directory = directory;
	record->device = device;
	thread = bpf_get_current_pid_tgid();
	cause = killed.lookup(&thread);
	record->cause = cause ? *cause : RI_ALLOWED;
	if (cause)
		killed.delete(&thread);
	record->reserved = 0;
	bpf_probe_read_kernel_str(record->name, sizeof(record->name), (void *)place.name);
	if (length > RI_ARGUMENTS)
		length = RI_ARGUMENTS;
	if (bpf_probe_read_user(record->arguments, length, (void *)start) < 0) {
		record->header.flags = RI_TRUNCATED;
		length = 0;
	}
	record->length = length;
	details.ringbuf_submit(record, RB_NO_WAKEUP);
	return 0;
}

/* sched_process_exit(struct task_struct *): runs for every thread; the last one is the process's. */
int ri_exit_done(struct bpf_raw_tracepoint_args *ctx)
{
	struct ri_event *event;
	u64 cgroup, signal = 0;
	u32 live = 0, flags = 0, status = 0;

	if (!session_of(&cgroup))
		return 0;
	READ(signal, ctx->args[0], OFF_task_struct_signal);
	READ(live, signal, OFF_signal_struct_live);
	if (live)
		return 0;
	READ(flags, signal, OFF_signal_struct_flags);
	if (flags & SIGNAL_GROUP_EXIT)
		READ(status, signal, OFF_signal_struct_group_exit_code);
	else
		READ(status, ctx->args[0], OFF_task_struct_exit_code);
	event = reserve_event(cgroup, RI_EXIT, 0);
	if (!event)
		return 0;
	__builtin_memset(&event->process, 0, sizeof(event->process));
	event->process.status = status;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
	return 0;
}
