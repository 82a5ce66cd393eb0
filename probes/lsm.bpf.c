/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * BPF LSM: where `bpf` is among the active security modules, the same decisions once more, by the
 * kernel's own objects, at the moment they are used. Four functions serve all hooks: the loader puts
 * the number of the hook (enum ri_hook) in place of HOOK's constant and loads a copy for each
 * (monitor/daemon/probes/lsm.py), so that the compiler sees them once and the verifier drops what a
 * hook has no use for.
 *
 * Only armed sessions are judged: those whose first process wears its floor. What is not in a
 * session costs one look-up that misses. Returns 0 to go on, or a negative errno.
 */
#include "walking.h"

#define EPERM 1			/* uapi/asm-generic/errno-base.h */
#define EACCES 13

#define S_IFMT 0170000		/* uapi/linux/stat.h */
#define S_IFCHR 0020000
#define S_IFDIR 0040000
#define S_IFREG 0100000
#define FMODE_EXEC 0x20		/* linux/fs.h; in f_flags */
#define SB_NOUSER 0x80000000
#define PROT_EXEC 0x4		/* uapi/asm-generic/mman-common.h */

/* Sessions that are judged here. Written by the worker when the first process wears its floor, taken
 * away with the session; read by every program here. Full: the launch is refused. A miss: not judged. */
BPF_HASH(armed, u64, struct ri_armed, 4096);

/* The hook's number; an immediate that the loader replaces. */
#define HOOK(hook) asm volatile("%0 = 0x72690000" : "=r"(hook))

struct request {
	struct target targets[2];	/* of which `count` are meant */
	u32 count;
	u32 uses;		/* RI_USE_* */
	u32 how;		/* RI_NAMING and so on */
	u16 flags;		/* enum ri_flag, for the record */
};

/* A struct path at `address`. */
static __always_inline void aim(struct target *target, u64 address)
{
	u64 mount = 0;

	READ(mount, address, OFF_path_mnt);
	READ(target->dentry, address, OFF_path_dentry);
	target->mount = mount - OFF_mount_mnt;
}

/* A name in the folder whose struct path is at `address`. */
static __always_inline void aim_in(struct target *target, u64 address, u64 dentry)
{
	aim(target, address);
	target->dentry = dentry;
}

static __always_inline u16 mode_of(u64 dentry)
{
	u64 inode = 0;
	u16 mode = 0;

	READ(inode, dentry, OFF_dentry_d_inode);
	if (inode)
		READ(mode, inode, OFF_inode_i_mode);
	return mode;
}

/* Pipes, sockets, memfd and the like have no name that a rule could mean. */
static __always_inline bool nameless(struct target *target)
{
	u64 super = 0, inode = 0, flags = 0;

	READ(inode, target->dentry, OFF_dentry_d_inode);
	if (inode) {
		READ(super, inode, OFF_inode_i_sb);
		READ(flags, super, OFF_super_block_s_flags);
	}
	return (u32)flags & SB_NOUSER || (target->mount && !in_namespace(target->mount));
}

static __always_inline void aim_at_file(struct request *request, u64 file)
{
	aim(&request->targets[0], file + OFF_file_f_path);
	request->count = file ? 1 : 0;
}

/* What each hook is asked for; false: nothing that is judged. */
static __always_inline bool understand(struct bpf_raw_tracepoint_args *ctx, u64 hook,
				       struct request *request)
{
	u64 file = 0;
	u32 mode = 0, flags = 0;

	request->uses = RI_USE_WRITE;
	request->flags = RI_WRITE;
	switch (hook) {
	case RI_HOOK_FILE_OPEN:
		file = ctx->args[0];
		READ(mode, file, OFF_file_f_mode);
		READ(flags, file, OFF_file_f_flags);
		request->uses = (mode & FMODE_READ ? RI_USE_READ : 0) |
				(mode & FMODE_WRITE ? RI_USE_WRITE : 0) |
				(flags & FMODE_EXEC ? RI_USE_EXECUTE : 0);
		request->flags = mode & FMODE_WRITE ? RI_WRITE : 0;
		aim_at_file(request, file);
		return true;
	case RI_HOOK_BPRM_CHECK:
		READ(file, ctx->args[0], OFF_linux_binprm_file);
		request->uses = RI_USE_READ | RI_USE_EXECUTE;
		request->flags = 0;
		aim_at_file(request, file);
		return true;
	case RI_HOOK_MMAP_FILE:
	case RI_HOOK_FILE_MPROTECT:
		if (hook == RI_HOOK_MMAP_FILE)
			file = ctx->args[0];
		else
			READ(file, ctx->args[0], OFF_vm_area_struct_vm_file);
		request->uses = RI_USE_EXECUTE;
		request->how = RI_MAPPING;
		request->flags = 0;
		if (!file || !(ctx->args[2] & PROT_EXEC))
			return false;
		aim_at_file(request, file);
		return true;
	case RI_HOOK_PATH_UNLINK:
	case RI_HOOK_PATH_RMDIR:
		request->how = RI_NAMING | RI_MOVING;
		request->count = 1;
		aim_in(&request->targets[0], ctx->args[0], ctx->args[1]);
		return true;
	case RI_HOOK_PATH_MKNOD:
	case RI_HOOK_PATH_MKDIR:
	case RI_HOOK_PATH_SYMLINK:
		request->how = RI_NAMING;
		request->count = 1;
		aim_in(&request->targets[0], ctx->args[0], ctx->args[1]);
		return true;
	case RI_HOOK_PATH_RENAME:
		request->how = RI_NAMING | RI_MOVING;
		request->count = 2;
		aim_in(&request->targets[0], ctx->args[0], ctx->args[1]);
		aim_in(&request->targets[1], ctx->args[2], ctx->args[3]);
		return true;
	case RI_HOOK_PATH_LINK:
		/* Of the name that is there, only that it is not masked. */
		request->how = RI_NAMING;
		request->count = 2;
		aim_in(&request->targets[0], ctx->args[1], ctx->args[0]);
		aim_in(&request->targets[1], ctx->args[1], ctx->args[2]);
		return true;
	case RI_HOOK_PATH_TRUNCATE:
		request->count = 1;
		aim(&request->targets[0], ctx->args[0]);
		return true;
	case RI_HOOK_FILE_TRUNCATE:
		aim_at_file(request, ctx->args[0]);
		return true;
	case RI_HOOK_PATH_CHMOD:
	case RI_HOOK_PATH_CHOWN:
		request->how = RI_ATTRIBUTES;
		request->count = 1;
		aim(&request->targets[0], ctx->args[0]);
		return true;
	case RI_HOOK_SETXATTR:
	case RI_HOOK_REMOVEXATTR:
		request->how = RI_ATTRIBUTES;
		request->count = 1;
		request->targets[0].dentry = ctx->args[1];
		return true;
	}
	return false;
}

/* RI_DENIED: which hook refused, by which rule, and the object as the kernel knows it. */
static __always_inline void send_denied(u64 cgroup, u64 hook, struct target *target, u16 flags,
					struct decision *decision, u64 tag)
{
	struct place place = { .mount = target->mount };
	struct ri_short *record;
	u64 directory = 0, inode = 0;
	u32 device = 0;
	long length;

	find_dentry(&place, target->dentry);
	inode = place.inode;
	if (target->mount)
		directory = learn_parent(cgroup, &place);
	record = reserve_short(cgroup, RI_DENIED, flags);
	if (!record)
		return;
	if (inode)
		read_inode(inode, &record->detail.inode, &device);
	record->detail.device = device;
	record->detail.tag = tag;
	record->detail.number = hook;
	record->detail.error = EACCES;
	record->detail.directory = directory;
	record->detail.rule = decision->rule;
	record->detail.policy = decision->policy;
	record->detail.cause = decision->cause;
	length = bpf_probe_read_kernel_str(record->data, RI_NAME_MAX, (void *)place.name);
	record->detail.length = length > 0 ? length - 1 : 0;
	details.ringbuf_submit(record, RB_NO_WAKEUP);
}

/* Hooks on files and names: standing, then every link of the chain must let it be. */
int ri_lsm_path(struct bpf_raw_tracepoint_args *ctx)
{
	struct decision decision = { .rule = -1 };
	struct request request = {};
	struct ri_session *session;
	struct ri_armed *row;
	struct target target;
	u64 hook, cgroup;

	HOOK(hook);
	cgroup = bpf_get_current_cgroup_id();
	row = armed.lookup(&cgroup);
	if (!row)
		return 0;
	if (row->flags & RI_CANARY)
		return -EACCES;
	session = sessions.lookup(&cgroup);
	if (!understand(ctx, hook, &request))
		return 0;
	decision.cause = standing(session);
	target = request.targets[0];
#pragma clang loop unroll(disable)
	for (u32 n = 0; n < 2; n++) {	/* a rename has two names */
		if (n >= request.count || decision.cause || !session || session->flags & RI_OBSERVE)
			break;
		target = request.targets[n];
		if (nameless(&target))
			continue;
		if (hook == RI_HOOK_PATH_LINK && n == 0)
			request.how |= RI_MASKS_ONLY;
		else
			request.how &= ~RI_MASKS_ONLY;
		judge_file(row->rules, &target, request.uses, request.how, &decision);
	}
	if (!decision.cause)
		return 0;
	send_denied(cgroup, hook, &target, request.flags, &decision, 0);
	return -EACCES;
}

/*
 * file_permission: what is open already ends with the authority. Files and folders only: a session
 * whose time is over still tells its terminal, and its pipes, why.
 */
int ri_lsm_held(struct bpf_raw_tracepoint_args *ctx)
{
	struct decision decision = { .rule = -1 };
	struct ri_session *session;
	struct ri_armed *row;
	struct target target;
	u64 hook, cgroup, tag;
	u16 kind;

	HOOK(hook);
	cgroup = bpf_get_current_cgroup_id();
	row = armed.lookup(&cgroup);
	if (!row)
		return 0;
	session = sessions.lookup(&cgroup);
	decision.cause = standing(session);
	if (!decision.cause && !(row->flags & RI_CANARY))
		return 0;
	aim(&target, ctx->args[0] + OFF_file_f_path);
	kind = mode_of(target.dentry) & S_IFMT;
	if ((kind != S_IFREG && kind != S_IFDIR) || nameless(&target))
		return 0;
	if (row->flags & RI_CANARY)
		return -EACCES;
	tag = mix(mix(cgroup, hook), target.dentry);
	if (!session || !only_counted(session, cgroup, tag))
		send_denied(cgroup, hook, &target, 0, &decision, session ? tag : 0);
	return -EACCES;
}
