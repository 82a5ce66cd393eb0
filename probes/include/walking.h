/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * How one link's rules on files are judged for one object: a walk from it up to the root of its mount
 * namespace, as Landlock walks. Rows are packed by monitor/wire/file_rows.py.
 *
 * What is granted is the union over the object and the folders above it. A pattern that takes away
 * is a chain of components below a folder, its start; each has a bit, the one nearest to the start
 * the lowest. Going up, `matched` holds the components whose name is the one just passed and behind
 * which all others have matched, `pending` those of them that any folders may stand before.
 */
#ifndef RI_WALKING_H
#define RI_WALKING_H

#include "files.h"
#include "judging.h"

/* Deeper objects: what is granted is Landlock's to say, what a pattern with `**` may mean is refused.
 * Bounds the walk. */
#define WALK_MAX 128

/* Per policy: its patterns. Written by the worker before a session's row. A miss: refused. */
BPF_HASH(file_policies, u32, struct ri_file_policy, 4096);
/* policy + object -> what is granted on it, and which patterns start there. Written by the worker.
 * Full: the launch is refused. */
BPF_HASH(file_objects, struct ri_file_key, struct ri_file_value, 65536);
/* policy + name -> the components that it matches; reversed, those that match its end. Written by the
 * worker. Full: as above. */
BPF_LPM_TRIE(file_names, struct ri_name_key, u64, 16384);

struct target {
	u64 dentry;
	u64 mount;		/* struct mount; 0: not known, and then only the file system's own */
};

/* What is asked for; as policy.plan.FileAccess. */
#define RI_USE_READ 1
#define RI_USE_WRITE 2
#define RI_USE_EXECUTE 4

/* How an object is judged. */
#define RI_NAMING 1		/* the right is in the folder */
#define RI_MOVING 2		/* what holds something protected stays where it is */
#define RI_MAPPING 4		/* granted or not only where the policy says so */
#define RI_ATTRIBUTES 8		/* the same */
#define RI_MASKS_ONLY 16

#define NAME_BITS (64 + 8 * 32)

/* The components that the name of a dentry matches. */
static __always_inline u64 components_of(u32 policy, struct ri_file_policy *rules, u64 name,
					 u32 length)
{
	struct ri_name_key key = { .prefix_length = NAME_BITS, .policy = policy };
	u64 words[2] = {}, found = rules->any, *value;

	if (rules->flags & RI_HAS_NAMES) {
		bpf_probe_read_kernel_str(key.name, sizeof(key.name), (void *)name);
		value = file_names.lookup(&key);
		if (value)
			found |= *value;
	}
	if (rules->flags & RI_HAS_ENDS) {
		/* The last 16 bytes, backwards; what stands before a shorter name is cut off. */
		bpf_probe_read_kernel(words, sizeof(words), (void *)(name + length - 16));
		key.kind = 1;
		__builtin_memset(key.name, 0, sizeof(key.name));
		u64 last = __builtin_bswap64(words[1]), before = __builtin_bswap64(words[0]);

		if (length < 8) {
			last &= (1ULL << 8 * (length & 7)) - 1;
			before = 0;
		} else if (length < 16) {
			before &= (1ULL << 8 * (length & 7)) - 1;
		}
		*(u64 *)key.name = last;
		*(u64 *)(key.name + 8) = before;
		value = file_names.lookup(&key);
		if (value)
			found |= *value;
	}
	return found;
}

/* A terminal under another name than /dev/tty: which one may be opened Landlock says. */
static __always_inline bool is_terminal(u64 dentry)
{
	u64 inode = 0;
	u32 number = 0, major;
	u16 mode = 0;

	READ(inode, dentry, OFF_dentry_d_inode);
	READ(mode, inode, OFF_inode_i_mode);
	READ(number, inode, OFF_inode_i_rdev);
	major = number >> 20;
	return (mode & 0170000) == 0020000 &&
	       (major == 4 || major == 5 || (major >= 136 && major <= 143));
}

static __always_inline void judge_file(struct target *target, u32 uses, u32 how,
				       struct decision *decision)
{
	u32 policy = decision->policy;
	struct ri_file_policy *rules = file_policies.lookup(&policy);
	u64 dentry = target->dentry, mount = target->mount, root = 0, above = 0;
	u64 matched = 0, pending = 0, hits = 0, against, step;
	u32 granted = 0, lacking;
	bool leaf = true, whole = false;

	decision->rule = -1;
	decision->cause = RI_UNLISTED;
	if (!rules)
		return;
	if (mount)
		READ(root, mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WALK_MAX; i++) {
		WINDOW(window, dentry);
		u64 parent, inode;

		READ_WINDOW(window, dentry, dentry);
		parent = FIELD(u64, window, dentry, d_parent);
		inode = FIELD(u64, window, dentry, d_inode);
		if (inode) {
			struct ri_file_key key = { .policy = policy };
			struct ri_file_value *value;

			read_inode(inode, &key.inode, &key.device);
			value = file_objects.lookup(&key);
			if (value) {
				hits |= (matched | pending) & value->starts;
				if (!leaf)
					granted |= value->tree;
				else if (!(how & RI_NAMING))
					granted |= value->tree | value->own;
			}
		}
		if ((mount && dentry == root) || dentry == parent) {
			if (!mount)
				break;
			READ(above, mount, OFF_mount_mnt_parent);
			if (above == mount) {
				whole = true;
				break;
			}
			READ(dentry, mount, OFF_mount_mnt_mountpoint);
			mount = above;
			READ(root, mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
			continue;
		}
		if (rules->last) {
			u64 place = OFF_dentry_d_name - START_dentry;
			u64 name = *(u64 *)(window + place + OFF_qstr_name);
			u32 length = FIELD(u64, window, dentry, d_name) >> 32;

			step = ((matched | pending) & ~rules->first) >> 1;
			/* Right behind what matched, unless any folders may stand between. */
			step |= leaf ? rules->last | rules->holds : rules->last;
			matched = step & components_of(policy, rules, name, length);
			pending |= matched & rules->gap;
		}
		dentry = parent;
		leaf = false;
	}
	against = rules->hide;
	if (uses & RI_USE_WRITE)
		against |= rules->read_only | rules->no_exec;
	if (uses & RI_USE_EXECUTE)
		against |= rules->no_exec;
	if (how & RI_MOVING)
		against |= rules->held;
	hits &= against;
	if (hits) {
		decision->cause = RI_RULE;
		decision->rule = rules->rules[__builtin_popcountll((hits & -hits) - 1) & 63];
		return;
	}
	if (!whole && target->mount && rules->gap)
		return;		/* too deep */
	decision->cause = RI_ALLOWED;
	if (!whole || how & RI_MASKS_ONLY || !(rules->flags & RI_JUDGES_GRANTS))
		return;
	if (how & RI_MAPPING && !(rules->flags & RI_JUDGES_MAPPING))
		return;
	if (how & RI_ATTRIBUTES && !(rules->flags & RI_JUDGES_ATTRIBUTES))
		return;
	lacking = uses & ~granted;
	if (lacking && is_terminal(target->dentry))
		lacking &= ~rules->terminal;
	if (lacking)
		decision->cause = RI_UNLISTED;
}

#endif
