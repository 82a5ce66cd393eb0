/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Forks, program starts and exits, from raw tracepoints: the argv that the kernel gave the program. */
#include "files.h"

#define SIGNAL_GROUP_EXIT 0x4	/* linux/sched/signal.h */

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

/* sched_process_exec(struct task_struct *, pid_t old_pid, struct linux_binprm *) */
int ri_exec_done(struct bpf_raw_tracepoint_args *ctx)
{
	struct ri_exec *record;
	struct place place;
	u64 cgroup, mm = 0, start = 0, end = 0, file = 0, inode = 0, directory, length;
	u32 device = 0;

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
	record->cause = RI_ALLOWED;
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
