/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Opens that succeeded, resolved from the struct file that the open returned. Attached to the
 * sys_exit tracepoint of each open call: per-call tracepoints cost everybody 50 ns a system call,
 * raw sys_exit 130 ns. Observes only: a sibling thread can use the descriptor first.
 */
#include "files.h"

#define FMODE_PATH 0x4000		/* linux/fs.h */
#define FMODE_CREATED 0x100000

static __always_inline u16 open_flags(u32 mode)
{
	return (mode & FMODE_WRITE ? RI_WRITE : 0) | (mode & FMODE_CREATED ? RI_CREATED : 0);
}

static __always_inline void send_long_name(u64 cgroup, struct place *place, u16 flags, u64 tag,
					   u64 inode, u32 device, u64 directory)
{
	struct ri_short *record = reserve_short(cgroup, RI_NAME, flags);
	long length;

	if (!record)
		return;
	record->detail.tag = tag;
	record->detail.inode = inode;
	record->detail.device = device;
	record->detail.directory = directory;
	length = bpf_probe_read_kernel_str(record->data, RI_NAME_MAX, (void *)place->name);
	record->detail.length = length > 0 ? length - 1 : 0;
	details.ringbuf_submit(record, RB_NO_WAKEUP);
}

static __always_inline void send_open(u64 cgroup, struct place *place, u16 flags, u64 tag)
{
	struct ri_event *event;
	u64 inode = 0, directory;
	u32 device = 0;
	long length;

	read_inode(place->inode, &inode, &device);
	directory = learn_parent(cgroup, place);
	if (place->hash >> 32 >= sizeof(event->open.name)) {
		send_long_name(cgroup, place, flags, tag, inode, device, directory);
		return;
	}
	event = reserve_event(cgroup, RI_OPEN, flags);
	if (!event)
		return;
	event->open.tag = tag;
	event->open.inode = inode;
	event->open.directory = directory;
	event->open.device = device;
	length = bpf_probe_read_kernel_str(event->open.name, sizeof(event->open.name),
					   (void *)place->name);
	event->open.length = length > 0 ? length - 1 : 0;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
}

/* sys_exit of open, openat, openat2, creat. */
int ri_open_exit(struct sys_exit *ctx)
{
	struct ri_session *session;
	struct place place;
	WINDOW(window, file);
	u64 cgroup, file, path, tag;
	u32 mode;

	if (ctx->ret < 0)
		return 0;
	session = session_of(&cgroup);
	if (!session)
		return 0;
	file = file_of_descriptor(ctx->ret);
	if (!file)
		return 0;
	READ_WINDOW(window, file, file);
	mode = FIELD(u32, window, file, f_mode);
	if (mode & FMODE_PATH)
		return 0;
	path = OFF_file_f_path - START_file;
	place.mount = *(u64 *)(window + path + OFF_path_mnt) - OFF_mount_mnt;
	find_dentry(&place, *(u64 *)(window + path + OFF_path_dentry));
	/* By name as well as by object: inode numbers are given out again at once. */
	tag = mix(mix(mix(cgroup ^ (mode & (FMODE_WRITE | FMODE_CREATED)), place.dentry),
		      place.parent ^ place.hash), place.inode);
	if (!only_counted(session, cgroup, tag))
		send_open(cgroup, &place, open_flags(mode), tag);
	return 0;
}
