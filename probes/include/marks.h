/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Files that sessions wrote and others use: started as programs, read by interpreters, obeyed as
 * configuration. Records only. A host on which nothing is marked pays one array lookup an open.
 */
#ifndef RI_MARKS_H
#define RI_MARKS_H

#include "files.h"

/* Written by the worker; read by the programs. Full: the worker forgets the oldest. A miss: not
 * written by a session. */
BPF_HASH(marks, struct ri_mark_key, struct ri_mark, 65536);

/* How many rows `marks` has. Written by the worker. */
BPF_ARRAY(marking, u32, 1);

/* Programs that run what they read. Written by the worker when it starts. A miss: it is none. */
BPF_HASH(runners, struct ri_runner_key, u8, 256);

/* What was told already: a process, of a row. Full: the one told longest ago is told again. */
BPF_TABLE("lru_hash", u64, u8, told, 16384);

#define RI_PROGRAM 24		/* bytes of ri_use.program */

static __always_inline bool any_marks(void)
{
	int zero = 0;
	u32 *rows = marking.lookup(&zero);

	return rows && *rows;
}

/* The name of what the current process runs. */
static __always_inline void read_program(char *name)
{
	u64 task = bpf_get_current_task(), mm = 0, file = 0, dentry = 0, text = 0;

	READ(mm, task, OFF_task_struct_mm);
	READ(file, mm, OFF_mm_struct_exe_file);
	READ(dentry, file, OFF_file_f_path + OFF_path_dentry);
	READ(text, dentry, OFF_dentry_d_name + OFF_qstr_name);
	bpf_probe_read_kernel_str(name, RI_PROGRAM, (void *)text);
}

static __always_inline bool is_runner(const char *program)
{
	struct ri_runner_key key = {};
	bool cut = false;

	/* As many as the key has, the last stays NUL. */
#pragma unroll
	for (int i = 0; i < (int)sizeof(key.name) - 1; i++) {
		char each = program[i];

		cut |= each == 0 || each == '.' || each == '-' || (each >= '0' && each <= '9');
		key.name[i] = cut ? 0 : each;
	}
	return runners.lookup(&key) != NULL;
}

/* `file` was opened for reading, or started, by a process of no session. */
static __always_inline void note_use(u64 file, u32 executed)
{
	struct ri_mark_key key = {};
	struct ri_mark *mark;
	struct ri_event *event;
	struct place place;
	char program[RI_PROGRAM] = {};
	u64 dentry = 0, inode = 0, tag, directory;
	u32 generation = 0;
	u8 one = 1;

	READ(dentry, file, OFF_file_f_path + OFF_path_dentry);
	READ(inode, dentry, OFF_dentry_d_inode);
	read_inode(inode, &key.inode, &key.device);
	mark = marks.lookup(&key);
	if (!mark)
		return;
	if (mark->generation) {
		READ(generation, inode, OFF_inode_i_generation);
		if (generation != mark->generation)
			return;
	}
	read_program(program);
	if (!executed && !(mark->kinds & RI_MARK_READ) &&
	    !(mark->kinds & RI_MARK_RUN && is_runner(program)))
		return;
	tag = mix(mix(key.inode, (u64)key.device << 32 | mark->serial),
		  bpf_get_current_pid_tgid() >> 32 | (u64)executed << 32);
	if (told.lookup(&tag))
		return;
	told.update(&tag, &one);
	find_path(&place, file + OFF_file_f_path);
	directory = learn_parent(0, &place);
	event = reserve_event(0, RI_USE, 0);
	if (!event)
		return;
	event->use.inode = key.inode;
	event->use.directory = directory;
	event->use.device = key.device;
	event->use.executed = executed;
	__builtin_memset(event->use.name, 0, sizeof(event->use.name));
	bpf_probe_read_kernel_str(event->use.name, sizeof(event->use.name), (void *)place.name);
	__builtin_memcpy(event->use.program, program, sizeof(event->use.program));
	events.ringbuf_submit(event, RB_NO_WAKEUP);
}

#endif
