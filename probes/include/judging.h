/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * How a network action is judged: by the session's standing, then by every link of its chain, then by
 * every label that was earned. Rows of policies are packed by monitor/wire/rows.py.
 */
#ifndef RI_JUDGING_H
#define RI_JUDGING_H

#include "common.h"

/* policy + table + address -> port set. Written by the worker. Full: the launch is refused. */
BPF_LPM_TRIE(prefixes, struct ri_prefix_key, u32, 65536);
/* policy + port set + protocol + port -> verdict. Written by the worker. Full: as above. */
BPF_LPM_TRIE(ports, struct ri_port_key, struct ri_port_value, 65536);
/* What socket(2) may make. Written by the worker. Full: as above. */
BPF_HASH(sockets, struct ri_socket_key, u32, 65536);
/* Unix destinations. Written by the worker. Full: as above. */
BPF_HASH(unix_paths, struct ri_unix_key, struct ri_unix_value, 16384);

/* What names came to. Written by the worker before a look-up is answered; kept where it dies, until
 * the time in it. Full: the answer is refused. Rows are large and few: room is taken as needed. */
BPF_F_TABLE("hash", struct ri_named_key, struct ri_named, named, 65536, 1 /* BPF_F_NO_PREALLOC */);

/* TCP sockets that a session with labels has connected. Written by ri_connect*. Full: refused. */
BPF_SK_STORAGE(connected, u8);

struct decision {
	u32 policy;
	u32 link;		/* its place in ri_session.policies, or RI_MAX_POLICIES + in .labels */
	s32 rule;
	u16 cause;		/* enum ri_cause; RI_ALLOWED allows */
	bool labels;		/* a rule that allows gives a label */
	bool host;		/* a rule that allows names the host */
};

struct destination {
	u64 cgroup;
	u8 address[16];
	u16 port;		/* network order */
	u16 protocol;
	u32 table;
	u32 span;		/* of `named`: the one that holds the port */
	struct ri_named *named;	/* NULL: no name came to this destination */
};

/* What ends a session's authority whatever its rules say. */
static __always_inline u16 standing(struct ri_session *session)
{
	if (!session || session->flags & RI_REVOKED)
		return RI_DENY_ALL;
	if (session->expires && bpf_ktime_get_boot_ns() >= session->expires)
		return RI_EXPIRED;
	if (session->flags & RI_PAUSED)
		return RI_CONDITION;
	return RI_ALLOWED;
}

/* Whether a label's policy counts. */
static __always_inline bool is_earned(u32 label)
{
	struct ri_earned *row = earned.lookup(&label);

	return !row || row->time;
}

/* Whether a label that narrows the network was earned. No label leaves any name. */
static __always_inline bool is_narrowed(struct ri_session *session)
{
	for (u32 i = 0; i < RI_MAX_LABELS; i++) {
		if (i >= session->label_count)
			break;
		if (is_earned(session->labels[i]))
			return true;
	}
	return false;
}

/*
 * The conjunction: runs `judge_one`, which sets decision.cause and .rule for decision.policy, for
 * one policy after the other until one refuses, and then for the labels that were earned.
 * RI_MAX_POLICIES and RI_MAX_LABELS bound the loops.
 */
#define JUDGE(session, decision, judge_one)					\
	do {									\
		(decision).cause = standing(session);				\
		if ((decision).cause || !(session))				\
			break;							\
		(decision).cause = RI_UNLISTED;					\
		for (u32 i = 0; i < RI_MAX_POLICIES; i++) {			\
			if (i >= (session)->policy_count)			\
				break;						\
			(decision).policy = (session)->policies[i];		\
			(decision).link = i;					\
			judge_one;						\
			if ((decision).cause)					\
				break;						\
		}								\
		if ((decision).cause || !(session)->label_count)		\
			break;							\
		JUDGE_LABELS(session, decision, judge_one);			\
	} while (0)

/* Where all earned labels allow, the decision stays what the last link made it. */
#define JUDGE_LABELS(session, decision, judge_one)				\
	do {									\
		typeof(decision) links = (decision);				\
										\
		for (u32 i = 0; i < RI_MAX_LABELS; i++) {			\
			if (i >= (session)->label_count)			\
				break;						\
			if (!is_earned((session)->labels[i]))			\
				continue;					\
			(decision).policy = (session)->labels[i];		\
			(decision).link = RI_MAX_POLICIES + i;			\
			judge_one;						\
			if ((decision).cause)					\
				break;						\
		}								\
		if (!(decision).cause)						\
			(decision) = links;					\
	} while (0)

/* --observe lets pass what a rule would refuse, not what a revocation or the expiry does. */
static __always_inline bool let_pass(struct ri_session *session, struct decision *decision)
{
	return session && session->flags & RI_OBSERVE &&
	       (decision->cause == RI_RULE || decision->cause == RI_UNLISTED ||
		decision->cause == RI_UNANSWERED || decision->cause == RI_OVER_BUDGET);
}

static __always_inline struct ri_approval *approval_of(struct destination *to, u32 policy)
{
	struct ri_approval_key key = { .cgroup = to->cgroup, .policy = policy,
				       .protocol = to->protocol, .port = to->port };

	__builtin_memcpy(key.address, to->address, sizeof(key.address));
	return approvals.lookup(&key);
}

/* Takes one use of a person's approval. Eight others at once that win each time: refused. */
static __always_inline bool is_approved(struct destination *to, u32 policy)
{
	struct ri_approval *approval = approval_of(to, policy);
	s64 left;

	if (!approval)
		return false;
	if (approval->expires && bpf_ktime_get_boot_ns() >= approval->expires)
		return false;
	for (u32 i = 0; i < 8; i++) {
		left = approval->uses;
		if (left <= 0)
			return left < 0;
		if (__sync_val_compare_and_swap(&approval->uses, left, left - 1) == left)
			return true;
	}
	return false;
}

static __always_inline struct ri_port_value *find_rule(struct destination *to, u32 policy)
{
	struct ri_prefix_key prefix = { .prefix_length = 64 + 128, .policy = policy,
					.table = to->table };
	struct ri_port_key port = { .prefix_length = 80 + 16, .policy = policy,
				    .protocol = to->protocol, .port = to->port };
	u32 *set;

	__builtin_memcpy(prefix.address, to->address, sizeof(prefix.address));
	set = prefixes.lookup(&prefix);
	if (!set)
		return NULL;
	port.set = *set;
	return ports.lookup(&port);
}

/*
 * Looks for the names that came to a destination, for sessions that have names, before it is judged.
 * `now`: boottime ns; 0: what was allowed when the connection was made.
 */
static __always_inline void find_named(struct destination *to, u64 now)
{
	struct ri_named_key key = { .cgroup = to->cgroup };
	u16 port = bpf_ntohs(to->port);
	struct ri_named_span *span;
	struct ri_named *row;

	__builtin_memcpy(key.address, to->address, sizeof(key.address));
	row = named.lookup(&key);
	if (!row)
		return;
	for (u32 i = 0; i < RI_NAMED_SPANS; i++) {	/* as many as a row holds */
		if (i >= row->count)
			return;
		span = &row->spans[i];
		if (span->protocol != to->protocol || port < span->first || port > span->last)
			continue;
		if (span->until > now) {
			to->named = row;
			to->span = span->place;	/* not i: the verifier would follow each */
		}
		return;
	}
}

/* What names allow where no rule speaks of the address. */
static __always_inline void judge_named(struct destination *to, struct decision *decision)
{
	struct ri_named_span *span;
	u32 link = decision->link;

	if (!to->named || to->table != RI_TABLE_CONNECT)
		return;
	span = &to->named->spans[to->span & (RI_NAMED_SPANS - 1)];
	if (link >= RI_MAX_POLICIES) {
		if (!(span->labels & 1 << (link - RI_MAX_POLICIES)))
			return;
	} else {
		decision->rule = span->rules[link & (RI_MAX_POLICIES - 1)];
		if (decision->rule < 0)
			return;
	}
	decision->cause = RI_ALLOWED;
	if (span->flags & RI_SPAN_HOST)
		decision->host = true;
}

static __always_inline void judge_destination(struct destination *to, struct decision *decision)
{
	struct ri_port_value *value = find_rule(to, decision->policy);

	decision->rule = -1;
	decision->cause = RI_UNLISTED;
	if (!value) {
		judge_named(to, decision);
		return;
	}
	decision->rule = value->rule;
	decision->cause = RI_RULE;
	if (value->verdict == RI_ALLOW)
		decision->cause = RI_ALLOWED;
	else if (value->verdict == RI_ASK)
		decision->cause = is_approved(to, decision->policy) ? RI_ALLOWED : RI_UNANSWERED;
	if (value->label)
		decision->labels = true;
}

static __always_inline void judge_socket(struct ri_socket_key *key, struct decision *decision)
{
	struct ri_socket_key any = *key;

	key->policy = decision->policy;
	any.policy = decision->policy;
	any.protocol = RI_ANY_PROTOCOL;
	decision->cause =
		sockets.lookup(key) || sockets.lookup(&any) ? RI_ALLOWED : RI_UNLISTED;
}

#endif
