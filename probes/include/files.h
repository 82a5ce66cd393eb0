/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* From descriptors and dentries to identities and paths. Records only: nothing here decides. */
#ifndef RI_FILES_H
#define RI_FILES_H

#include "common.h"

#define FMODE_READ 0x1		/* linux/fs.h */
#define FMODE_WRITE 0x2

#define DEPTH_MAX 64		/* path components walked; deeper paths are flagged truncated */

/* What perf hands to a program on syscalls:sys_exit_*; the four bytes behind nr are garbage. */
struct sys_exit {
	u64 common;
	int nr;
	int padding;
	long ret;
};

/* A name in the tree. Pointers are the kernel's own, good as identity while the object lives. */
struct place {
	u64 dentry;
	u64 parent;
	u64 hash;		/* of the name, and its length: d_name.hash_len */
	u64 name;
	u64 inode;		/* struct inode */
	u64 mount;		/* struct mount, not vfsmount */
};

static __always_inline u64 file_of_descriptor(int descriptor)
{
	u64 task = bpf_get_current_task(), files = 0, table = 0, file = 0;
	WINDOW(fdtable, fdtable);

	READ(files, task, OFF_task_struct_files);
	READ(table, files, OFF_files_struct_fdt);
	READ_WINDOW(fdtable, fdtable, table);
	if (descriptor < 0 || (u32)descriptor >= FIELD(u32, fdtable, fdtable, max_fds))
		return 0;
	READ(file, FIELD(u64, fdtable, fdtable, fd), 8 * (u64)(u32)descriptor);
	return file;
}

static __always_inline void find_dentry(struct place *place, u64 dentry)
{
	WINDOW(window, dentry);

	READ_WINDOW(window, dentry, dentry);
	place->dentry = dentry;
	place->parent = FIELD(u64, window, dentry, d_parent);
	place->hash = FIELD(u64, window, dentry, d_name);
	place->name = *(u64 *)(window + OFF_dentry_d_name + OFF_qstr_name - START_dentry);
	place->inode = FIELD(u64, window, dentry, d_inode);
}

/* `path` is the address of a struct path. */
static __always_inline void find_path(struct place *place, u64 path)
{
	u64 mount = 0, dentry = 0;

	READ(mount, path, OFF_path_mnt);
	READ(dentry, path, OFF_path_dentry);
	place->mount = mount - OFF_mount_mnt;
	find_dentry(place, dentry);
}

static __always_inline void read_inode(u64 inode, u64 *number, u32 *device)
{
	u64 super = 0;

	READ(*number, inode, OFF_inode_i_ino);
	READ(super, inode, OFF_inode_i_sb);
	READ(*device, super, OFF_super_block_s_dev);
}

/* A path that ends in a namespace's root is whole; one in a mount of no namespace is not. */
static __always_inline bool in_namespace(u64 mount)
{
	u64 namespace = 0;

	READ(namespace, mount, OFF_mount_mnt_ns);
	return namespace && namespace < (u64)-4095;	/* not ERR_PTR: MNT_NS_INTERNAL */
}

/* Sends the path of `place`, leaf first, each name ended by NUL; false: the ring is full. */
static __always_inline bool send_directory(u64 cgroup, struct place *place, u64 tag)
{
	struct ri_long *record = reserve_long(cgroup, RI_DIRECTORY, RI_TRUNCATED);
	u64 dentry = place->dentry, mount = place->mount;
	u64 root = 0, parent = 0, name = 0, above = 0;
	/* Kept in the record, whose memory the verifier knows nothing of: so that every round of the
	 * loop starts with the same range, and is checked once. */
	volatile u32 *used = &record->detail.length;

	if (!record)
		return false;
	record->detail.directory = tag;
	READ(root, mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
	FORGET(parent);
	FORGET(name);
	FORGET(above);
	for (int i = 0; i < DEPTH_MAX; i++) {
		u32 offset = *used;
		long length;

		if (offset >= RI_LONG_DATA - RI_NAME_MAX)
			break;
		READ(parent, dentry, OFF_dentry_d_parent);
		if (dentry == root || dentry == parent) {
			READ(above, mount, OFF_mount_mnt_parent);
			if (above == mount) {
				if (in_namespace(mount))
					record->detail.header.flags = 0;
				break;
			}
			READ(dentry, mount, OFF_mount_mnt_mountpoint);
			mount = above;
			READ(root, mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
			continue;
		}
		READ(name, dentry, OFF_dentry_d_name + OFF_qstr_name);
		length = bpf_probe_read_kernel_str(&record->data[offset], RI_NAME_MAX, (void *)name);
		if (length <= 0)
			break;
		*used = offset + length;
		dentry = parent;
	}
	details.ringbuf_submit(record, RB_NO_WAKEUP);
	return true;
}

/*
 * Makes sure that the reader knows the path of directory `place`; returns the tag that names it.
 * Its own name is part of the tag, so that a renamed directory is sent anew at once.
 */
static __always_inline u64 learn_directory(u64 cgroup, struct place *place)
{
	u64 tag = mix(mix(mix(mix(place->dentry, place->parent), place->hash), place->inode),
		      place->mount);
	u64 now = bpf_ktime_get_boot_ns();
	int slot = (tag >> 24) & (RI_DIRECTORY_SLOTS - 1);
	struct ri_directory *known = directories.lookup(&slot);

	if (known && known->tag == tag && now - known->sent < RI_DIRECTORY_LIFE)
		return tag;
	if (send_directory(cgroup, place, tag) && known) {
		known->tag = tag;
		known->sent = now;
	}
	return tag;
}

/* The directory that holds the name of `place`: for a mount's root, where it is mounted. */
static __always_inline u64 learn_parent(u64 cgroup, struct place *place)
{
	struct place directory;
	u64 root = 0, above = 0, mountpoint = 0;

	READ(root, place->mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
	if (place->dentry == root) {
		READ(above, place->mount, OFF_mount_mnt_parent);
		if (above != place->mount) {
			READ(mountpoint, place->mount, OFF_mount_mnt_mountpoint);
			place->mount = above;
			find_dentry(place, mountpoint);
		}
	}
	directory.mount = place->mount;
	find_dentry(&directory, place->parent);
	return learn_directory(cgroup, &directory);
}

#endif
