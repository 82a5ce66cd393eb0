/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The maps all programs share, and what each of them needs: the session of the caller, reading
 * kernel memory, sending a record.
 *
 * OFF_struct_field are byte offsets from the running kernel's BTF, START_struct and SIZE_struct the
 * stretch of a struct that holds several of them (monitor/daemon/probes/headers.py).
 */
#ifndef RI_COMMON_H
#define RI_COMMON_H

#include "records.h"
#include "maps.h"

/* Written by the worker at launch, on revocation and at the end; read by every program.
 * Full: the launch is refused. A miss: not a session. */
BPF_HASH(sessions, u64, struct ri_session, 4096);

/* Which labels were earned. The worker writes a row of 0 for each before the session's row; the
 * programs and the gates set its time. Full: the launch is refused. */
BPF_HASH(earned, u32, struct ri_earned, 32768);

/* People's answers to network asks. Written by the worker; the programs count the uses. Full: the
 * approval fails. A miss: refused. */
BPF_HASH(approvals, struct ri_approval_key, struct ri_approval, 65536);

/* Budgets of links that have any. Written by the worker. Full: the launch is refused. */
BPF_HASH(budgets, u32, struct ri_budget, 4096);
/* What was used. The worker writes a row of 0 for each; the programs count. A miss: over it. */
BPF_HASH(usage, struct ri_usage_key, u64, 20480);
/* Addresses that a link's budget has counted. Written by the programs, removed by the worker. Full:
 * another address is refused. */
BPF_HASH(destinations, struct ri_destination_key, u8, 65536);

/* Decided program starts. Written by the gate, taken by ri_exec_done. Full: the start is refused.
 * A miss: killed. */
BPF_HASH(tickets, struct ri_ticket_key, struct ri_ticket, 16384);

/* The rings. Written by the programs, read by the worker. Full: the record is lost and counted. */
BPF_RINGBUF_OUTPUT(events, 2048);	/* pages: 8 MiB, 61,000 records */
BPF_RINGBUF_OUTPUT(details, 4096);	/* pages: 16 MiB, 14,000 short ones */

/* Records lost per session's cgroup. Written by the programs, read by the worker. Full: counted
 * under cgroup 0, whose row the worker makes. */
BPF_HASH(lost, u64, u64, 4096);

/* Aggregation of repeats. Written by the programs; mapped by the worker, which reads it at a
 * session's end. A slot taken over by another object sends its count first. */
#define RI_SEEN_SLOTS 65536
BPF_F_TABLE("array", int, struct ri_seen, seen, RI_SEEN_SLOTS, BPF_F_MMAPABLE);

/* Directories whose path was sent lately. Written by the programs; a worker that starts clears it,
 * so that it is told of each again. */
#define RI_DIRECTORY_SLOTS 16384
BPF_F_TABLE("array", int, struct ri_directory, directories, RI_DIRECTORY_SLOTS, BPF_F_MMAPABLE);

/* After this long a directory is sent again: an ancestor may have been renamed. */
#define RI_DIRECTORY_LIFE 2000000000ULL

#define SUN_PATH 2			/* offsetof(struct sockaddr_un, sun_path), uapi/linux/un.h */
#define SUN_PATH_SIZE 108
#define RB_NO_WAKEUP 1			/* BPF_RB_NO_WAKEUP: the reader polls by a timer */

#define READ(destination, base, offset) \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

/* Has the verifier forget what it knows of a variable, so that it goes through what follows once and
 * not for each way that led here: Linux 6.1 tells zeros and numbers on the stack from other bytes. */
#define FORGET(variable) READ(variable, &(variable), 0)

/* One read for several fields: WINDOW declares the buffer, FIELD takes a member out of it. */
#define WINDOW(name, structure) char name[SIZE_##structure] __attribute__((aligned(8)))
#define READ_WINDOW(name, structure, base) \
	bpf_probe_read_kernel(name, sizeof(name), (void *)((u64)(base) + START_##structure))
#define FIELD(type, name, structure, field) \
	(*(type *)((name) + OFF_##structure##_##field - START_##structure))

static __always_inline struct ri_session *session_of(u64 *cgroup)
{
	*cgroup = bpf_get_current_cgroup_id();
	return sessions.lookup(cgroup);
}

static __always_inline void add_lost(u64 cgroup, u64 more)
{
	u64 nobody = 0;
	u64 *count = lost.lookup(&cgroup);

	if (!count) {
		if (lost.insert(&cgroup, &more) == 0)
			return;
		count = lost.lookup(&cgroup);	/* another processor was first */
	}
	if (!count)
		count = lost.lookup(&nobody);
	if (count)
		__sync_fetch_and_add(count, more);
}

static __always_inline void count_lost(u64 cgroup)
{
	add_lost(cgroup, 1);
}

/* For programs that run in the context of any process, and which older kernels do not let ask for it
 * (cgroup_skb): the record names none. */
static __always_inline void fill_header_of_none(struct ri_header *header, u64 cgroup, u16 kind,
						u16 flags)
{
	__builtin_memset(header, 0, sizeof(*header));
	header->time = bpf_ktime_get_boot_ns();
	header->cgroup = cgroup;
	header->kind = kind;
	header->flags = flags;
}

/* Adds the process that runs. */
static __always_inline void fill_actor(struct ri_header *header)
{
	u64 task = bpf_get_current_pid_tgid();

	header->pid = task >> 32;
	header->tid = (u32)task;
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

static __always_inline void fill_header(struct ri_header *header, u64 cgroup, u16 kind, u16 flags)
{
	fill_header_of_none(header, cgroup, kind, flags);
	fill_actor(header);
}

static __always_inline struct ri_event *reserve_event_of_none(u64 cgroup, u16 kind, u16 flags)
{
	struct ri_event *event = events.ringbuf_reserve(sizeof(struct ri_event));

	if (!event) {
		count_lost(cgroup);
		return NULL;
	}
	fill_header_of_none(&event->header, cgroup, kind, flags);
	return event;
}

static __always_inline struct ri_event *reserve_event(u64 cgroup, u16 kind, u16 flags)
{
	struct ri_event *event = reserve_event_of_none(cgroup, kind, flags);

	if (event)
		fill_actor(&event->header);
	return event;
}

static __always_inline void fill_detail_of_none(struct ri_detail *detail, u64 cgroup, u16 kind,
						u16 flags)
{
	__builtin_memset(detail, 0, sizeof(*detail));
	fill_header_of_none(&detail->header, cgroup, kind, flags);
	detail->rule = -1;
}

static __always_inline struct ri_short *reserve_short_of_none(u64 cgroup, u16 kind, u16 flags)
{
	struct ri_short *record = details.ringbuf_reserve(sizeof(struct ri_short));

	if (!record) {
		count_lost(cgroup);
		return NULL;
	}
	fill_detail_of_none(&record->detail, cgroup, kind, flags);
	return record;
}

static __always_inline struct ri_short *reserve_short(u64 cgroup, u16 kind, u16 flags)
{
	struct ri_short *record = reserve_short_of_none(cgroup, kind, flags);

	if (record)
		fill_actor(&record->detail.header);
	return record;
}

static __always_inline struct ri_long *reserve_long(u64 cgroup, u16 kind, u16 flags)
{
	struct ri_long *record = details.ringbuf_reserve(sizeof(struct ri_long));

	if (!record) {
		count_lost(cgroup);
		return NULL;
	}
	fill_detail_of_none(&record->detail, cgroup, kind, flags);
	fill_actor(&record->detail.header);
	return record;
}

#define RI_MINUTE 60000000000ULL	/* ns */

/*
 * Counts one more use of a budget that is for a minute; true: that is too many. The count is in one
 * word with the minute that it is of, which only moves on, so that no two uses count as one.
 */
static __always_inline bool over_rate(u32 policy, u32 kind, u32 limit)
{
	struct ri_usage_key key = { .policy = policy, .budget = kind };
	u64 minute = bpf_ktime_get_boot_ns() / RI_MINUTE;
	u64 *word, before;

	if (limit == RI_UNLIMITED)
		return false;
	word = usage.lookup(&key);
	if (!word)
		return true;
	before = *word;
	if (before >> 32 < minute)
		__sync_val_compare_and_swap(word, before, minute << 32);
	before = __sync_fetch_and_add(word, 1);
	return (u32)before >= limit;
}

static __always_inline u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

/* True where `tag` was seen before in this session, and so is only counted. */
static __always_inline bool only_counted(struct ri_session *session, u64 cgroup, u64 tag)
{
	int slot = (tag >> 20) & (RI_SEEN_SLOTS - 1);
	struct ri_seen *entry;

	if (session->flags & RI_EVERY)
		return false;
	entry = seen.lookup(&slot);
	if (!entry)
		return false;
	if (entry->tag == tag) {
		__sync_fetch_and_add(&entry->count, 1);
		return true;
	}
	if (entry->count) {
		struct ri_event *event = reserve_event_of_none(entry->cgroup, RI_COUNT, 0);

		if (event) {
			__builtin_memset(&event->count, 0, sizeof(event->count));
			event->count.tag = entry->tag;
			event->count.count = entry->count;
			events.ringbuf_submit(event, RB_NO_WAKEUP);
		} else {
			add_lost(entry->cgroup, entry->count - 1);	/* reserving counted one */
		}
	}
	entry->tag = tag;
	entry->cgroup = cgroup;
	entry->count = 0;
	return false;
}

#endif
