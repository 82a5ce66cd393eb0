/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * How the rules on files of a chain are judged for one object: a walk from it up to the root of its
 * mount namespace, as Landlock walks, for all links at once. Rows are packed by
 * monitor/wire/file_rows.py.
 *
 * What a link grants is the union over the object and the folders above it. A pattern that takes away
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

/* Rules of a chain. Written by the worker before a session is armed with them. Full: the launch is
 * refused. A miss: refused. */
BPF_HASH(file_rules, u32, struct ri_file_rules, 4096);
/* rules + object -> what is granted on it, and which patterns start there. Written by the worker.
 * Full: as above. */
BPF_HASH(file_objects, struct ri_file_key, struct ri_file_value, 131072);
/* rules + name -> the components that it matches; reversed, those that match its end. Written by the
 * worker. Full: as above. */
BPF_LPM_TRIE(file_names, struct ri_name_key, u64, 65536);

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

#define NAME_BITS (96 + 8 * 32)

/* The components that the name of a dentry matches. */
static __always_inline u64 components_of(u32 number, struct ri_file_rules *rules, u64 name,
					 u32 length)
{
	struct ri_name_key key = { .prefix_length = NAME_BITS, .rules = number };
	u64 words[2] = {}, found = rules->any, *value;

	bpf_probe_read_kernel_str(key.name, sizeof(key.name), (void *)name);
	value = file_names.lookup(&key);
	if (value)
		found |= *value;
	if (!(rules->flags & RI_HAS_ENDS))
		return found;
	/*
	 * The last 16 bytes, backwards. Before a shorter name there is a pointer or a count in a
	 * dentry, which is no text.
	 */
	bpf_probe_read_kernel(words, sizeof(words), (void *)(name + length - 16));
	key.kind = 1;
	*(u64 *)key.name = __builtin_bswap64(words[1]);
	*(u64 *)(key.name + 8) = __builtin_bswap64(words[0]);
	value = file_names.lookup(&key);
	if (value)
		found |= *value;
	return found;
}

static __always_inline u32 lowest(u64 bits)
{
	return __builtin_popcountll((bits & -bits) - 1);
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

/* Sets cause, and for a pattern the rule: link << RI_FILE_LINK_BITS | index; else the link alone. */
static __always_inline void judge_file(u32 number, struct target *target, u32 uses, u32 how,
				       struct decision *decision)
{
	struct ri_file_rules *rules = file_rules.lookup(&number);
	u64 dentry = target->dentry, mount = target->mount, root = 0, above = 0;
	u64 matched, pending, hits, against, step, ends;
	u32 granted, links, lacking, own, tree, zero;
	bool whole = false;

	decision->rule = -1;
	decision->cause = RI_UNLISTED;
	if (!rules)
		return;
	/*
	 * From the row, so that the verifier knows nothing of it: every round of the loop then starts
	 * with the same ranges, and is checked once.
	 */
	zero = rules->reserved;
	matched = pending = hits = granted = zero;
	ends = rules->last | rules->holds;
	own = tree = zero | (how & RI_NAMING ? 0 : ~0);
	READ(root, mount, OFF_mount_mnt + OFF_vfsmount_mnt_root);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WALK_MAX; i++) {
		WINDOW(window, dentry);
		struct ri_file_key key = { .rules = number };
		struct ri_file_value *value;
		u64 parent;

		READ_WINDOW(window, dentry, dentry);
		parent = FIELD(u64, window, dentry, d_parent);
		/* Of a name without an object both are 0. */
		read_inode(FIELD(u64, window, dentry, d_inode), &key.inode, &key.device);
		value = file_objects.lookup(&key);
		if (value) {
			hits |= (matched | pending) & value->starts;
			granted |= (value->tree & tree) | (value->own & own);
		}
		if (dentry == root || dentry == parent) {
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

			/* Right behind what matched, unless any folders may stand between. */
			step = ((matched | pending) & ~rules->first) >> 1 | ends;
			matched = step & components_of(number, rules, name, length);
			pending |= matched & rules->gap;
			ends = rules->last;
		}
		dentry = parent;
		own = zero;
		tree = ~zero;
	}
	if (!target->mount)	/* all that can be seen from here */
		whole = false;
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
		decision->rule = rules->rules[lowest(hits) & (RI_FILE_COMPONENTS - 1)];
		return;
	}
	if (!whole && target->mount && rules->gap)
		return;		/* too deep */
	decision->cause = RI_ALLOWED;
	if (!whole || how & RI_MASKS_ONLY)
		return;
	links = how & RI_MAPPING ? rules->mapping :
		how & RI_ATTRIBUTES ? rules->attributes : rules->grants;
	lacking = uses * links & ~granted;
	if (lacking && is_terminal(target->dentry))
		lacking &= ~rules->terminal;
	if (!lacking)
		return;
	decision->cause = RI_UNLISTED;
	decision->rule = lowest(lacking) / 3 << RI_FILE_LINK_BITS;
}

#endif
