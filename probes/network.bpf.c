/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Network decisions, attached to the instance's root cgroup: connect, send, bind, socket, and unix
 * destinations where the kernel has the hook. Each returns 1 to allow, 0 to refuse (EPERM).
 *
 * Fail closed: a cgroup under the root that has no session row is refused everything, and so is a
 * session whose tables have no row for the destination.
 */
#include "spending.h"

/* Records the decision, and turns it into the program's return value. */
static __always_inline int conclude(struct ri_session *session, u64 cgroup, struct destination *to,
				    struct decision *decision, u16 family, u16 type, u16 operation)
{
	bool pass = let_pass(session, decision);
	struct ri_event *event;
	u64 tag = 0;

	if (session && !decision->cause) {
		tag = mix(mix(cgroup, operation), (u64)to->port << 32 | (u64)to->protocol << 16 | family);
		tag = mix(mix(tag, *(u64 *)to->address), *(u64 *)(to->address + 8));
		if (only_counted(session, cgroup, tag))
			return 1;
	}
	event = reserve_event(cgroup, RI_NET, pass ? RI_OBSERVED : 0);
	if (event) {
		__builtin_memset(&event->net, 0, sizeof(event->net));
		event->net.tag = tag;
		__builtin_memcpy(event->net.address, to->address, sizeof(to->address));
		event->net.rule = decision->rule;
		event->net.policy = decision->policy;
		event->net.port = bpf_ntohs(to->port);
		event->net.family = family;
		event->net.type = type;
		event->net.protocol = to->protocol;
		event->net.operation = operation;
		event->net.cause = decision->cause;
		events.ringbuf_submit(event, RB_NO_WAKEUP);
	}
	return !decision->cause || pass;
}

/* Where a label that narrows the network stands among the session's; RI_MAX_LABELS: it does not. */
static __always_inline u32 narrowing(struct ri_session *session, u32 label)
{
	for (u32 i = 0; i < RI_MAX_LABELS; i++) {
		if (i >= session->label_count)
			break;
		if (session->labels[i] == label)
			return i;
	}
	return RI_MAX_LABELS;
}

static __always_inline void send_label(struct destination *to, u32 label, s32 rule, u16 family,
				       u16 type, u16 operation)
{
	struct ri_event *event = reserve_event(to->cgroup, RI_LABEL, 0);

	if (!event)
		return;
	__builtin_memset(&event->net, 0, sizeof(event->net));
	__builtin_memcpy(event->net.address, to->address, sizeof(to->address));
	event->net.rule = rule;
	event->net.policy = label;
	event->net.port = bpf_ntohs(to->port);
	event->net.family = family;
	event->net.type = type;
	event->net.protocol = to->protocol;
	event->net.operation = operation;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
}

/*
 * Lets every label count that a rule gives for this, before the call returns to any thread. What a
 * label takes away it takes away from the connection that earned it as well: its packets would not
 * leave, so it is refused by name.
 */
static __always_inline void earn_labels(struct ri_session *session, struct destination *to,
					struct decision *decision, u16 family, u16 type,
					u16 operation)
{
	struct decision links = *decision;
	struct ri_port_value *value;
	struct ri_earned *row;
	u32 label, place;

	for (u32 i = 0; i < RI_MAX_POLICIES; i++) {
		if (i >= session->policy_count)
			break;
		value = find_rule(to, session->policies[i]);
		if (!value || !value->label)
			continue;
		label = value->label;
		row = earned.lookup(&label);
		if (!row || row->time ||
		    __sync_val_compare_and_swap(&row->time, 0, bpf_ktime_get_boot_ns()))
			continue;
		send_label(to, label, value->rule, family, type, operation);
		place = narrowing(session, label);
		if (place >= RI_MAX_LABELS)
			continue;
		decision->policy = label;
		decision->link = RI_MAX_POLICIES + place;
		judge_destination(to, decision);
		if (decision->cause)
			return;
	}
	*decision = links;
}

#define SOCK_STREAM 1			/* linux/net.h */

/* So that judge_packet can tell it from one that came in. */
static __always_inline bool mark_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *socket = ctx->sk;

	return socket && connected.sk_storage_get(socket, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline bool has_names(struct ri_session *session)
{
	return session && session->flags & RI_NAMES;
}

/* Where a rule names the host, TLS must ask for it; false: there is no room to look at that. */
static __always_inline bool begin_hello(struct bpf_sock_addr *ctx, struct destination *to,
					struct decision *decision)
{
	if (ctx->type != SOCK_STREAM || decision->cause)
		return true;
	if (decision->host && to->port == bpf_htons(RI_HTTPS))
		return watch_hello(ctx, to, decision->policy, decision->rule);
	forget_hello(ctx);	/* it may have been connected before */
	return true;
}

static __always_inline int judge(struct bpf_sock_addr *ctx, struct ri_session *session,
				 struct destination *to, u16 operation)
{
	struct decision decision = { .rule = -1 };
	u64 cgroup = to->cgroup;

	to->port = (u16)ctx->user_port;
	to->protocol = ctx->protocol;
	to->table = operation == RI_BIND ? RI_TABLE_BIND : RI_TABLE_CONNECT;
	if (operation != RI_BIND && has_names(session))
		find_named(to, bpf_ktime_get_boot_ns());
	JUDGE(session, decision, judge_destination(to, &decision));
	if (operation != RI_BIND && session && !decision.cause) {
		if (session->budgets)
			spend(session, to, &decision);
		if (operation == RI_CONNECT && session->label_count && ctx->type == SOCK_STREAM &&
		    !mark_connected(ctx))
			decision.cause = RI_DENY_ALL;
		if (operation == RI_CONNECT && has_names(session) &&
		    !begin_hello(ctx, to, &decision))
			decision.cause = RI_DENY_ALL;
		if (decision.labels && !decision.cause)
			earn_labels(session, to, &decision, ctx->family, ctx->type, operation);
	}
	return conclude(session, cgroup, to, &decision, ctx->family, ctx->type, operation);
}

/* Whether questions of the session go to the resolver now; else they are judged as all else is. */
static __always_inline bool asks_by_name(struct ri_session *session)
{
	return has_names(session) && !standing(session) && !is_narrowed(session);
}

static __always_inline int judge4(struct bpf_sock_addr *ctx, u16 operation)
{
	struct destination to = {};
	struct ri_session *session = session_of(&to.cgroup);
	u32 address;
	int redirected;

	if (operation != RI_BIND && asks_by_name(session)) {
		redirected = redirect4(ctx);
		if (redirected)
			return redirected == RI_REDIRECTED;
	}
	address = ctx->user_ip4;
	to.address[10] = 0xff;
	to.address[11] = 0xff;
	__builtin_memcpy(to.address + 12, &address, 4);
	return judge(ctx, session, &to, operation);
}

static __always_inline int judge6(struct bpf_sock_addr *ctx, u16 operation)
{
	struct destination to = {};
	struct ri_session *session = session_of(&to.cgroup);
	u32 address[4];
	int redirected;

	if (operation != RI_BIND && asks_by_name(session)) {
		redirected = redirect6(ctx);
		if (redirected)
			return redirected == RI_REDIRECTED;
	}
	for (int i = 0; i < 4; i++)	/* the words of an address */
		address[i] = ctx->user_ip6[i];
	__builtin_memcpy(to.address, address, 16);
	return judge(ctx, session, &to, operation);
}

int ri_connect4(struct bpf_sock_addr *ctx) { return judge4(ctx, RI_CONNECT); }
int ri_connect6(struct bpf_sock_addr *ctx) { return judge6(ctx, RI_CONNECT); }
int ri_sendmsg4(struct bpf_sock_addr *ctx) { return judge4(ctx, RI_SEND); }
int ri_sendmsg6(struct bpf_sock_addr *ctx) { return judge6(ctx, RI_SEND); }
int ri_bind4(struct bpf_sock_addr *ctx) { return judge4(ctx, RI_BIND); }
int ri_bind6(struct bpf_sock_addr *ctx) { return judge6(ctx, RI_BIND); }

/* BPF_CGROUP_INET_SOCK_CREATE: runs for AF_INET and AF_INET6; the filter holds the other families. */
int ri_socket(struct bpf_sock *ctx)
{
	struct ri_socket_key key = { .family = ctx->family, .type = ctx->type,
				     .protocol = ctx->protocol };
	struct destination none = { .protocol = ctx->protocol };
	struct decision decision = { .rule = -1 };
	struct ri_session *session;
	u64 cgroup;

	session = session_of(&cgroup);
	JUDGE(session, decision, judge_socket(&key, &decision));
	if (!decision.cause)
		return 1;
	return conclude(session, cgroup, &none, &decision, ctx->family, ctx->type, RI_SOCKET);
}

/* Connections that the gate is about to make, to the cgroup of the session that they are for. Written
 * and removed by the gate, taken by ri_connect_unix. Full, or a miss: the connection is refused. */
BPF_HASH(unix_tickets, struct ri_unix_ticket, u64, 4096);

#ifdef OFF_bpf_sock_addr_kern_uaddrlen
/*
 * The kernel's own copy of the address, which no thread can change any more: ctx is at run time a
 * struct bpf_sock_addr_kern.
 */
static __always_inline void read_unix_name(void *ctx, struct ri_unix_key *key)
{
	u64 address = 0;
	u32 length = 0;
	long size;
	char first = 0;

	READ(address, ctx, OFF_bpf_sock_addr_kern_uaddr);
	READ(length, ctx, OFF_bpf_sock_addr_kern_uaddrlen);
	length = length > SUN_PATH ? length - SUN_PATH : 0;
	asm volatile("" : "+r"(length));	/* clang 14 folds the mask away */
	length &= 127;
	if (length > SUN_PATH_SIZE)
		length = SUN_PATH_SIZE;
	READ(first, address, SUN_PATH);
	if (first) {
		/*
		 * A path ends at its NUL, or where the caller said: what stands behind that is left
		 * from earlier calls, and the kernel cuts it off after this program. One more than
		 * the length, for the NUL that is written here.
		 */
		size = bpf_probe_read_kernel_str(key->path, length + 1,
						 (void *)(address + SUN_PATH));
		key->length = size > 0 ? size - 1 : 0;
		return;
	}
	bpf_probe_read_kernel(key->path, length, (void *)(address + SUN_PATH));
	key->length = length;
}

/* `held` is set where a rule lists the name and leaves it to the gate: every other link is asked too. */
static __always_inline void judge_unix_name(struct ri_unix_key *key, struct decision *decision,
					    bool *held)
{
	struct ri_unix_value *value;

	key->policy = decision->policy;
	value = unix_paths.lookup(key);
	decision->rule = value ? value->rule : -1;
	decision->cause = value ? RI_ALLOWED : RI_UNLISTED;
	*held |= value && value->held;
}

/* Whether the caller is the gate, which has decided on this very connection; its session's cgroup. */
static __always_inline bool take_unix_ticket(void *ctx, u64 *cgroup)
{
	struct ri_unix_ticket key = { .cookie = bpf_get_socket_cookie(ctx),
				      .pid = bpf_get_current_pid_tgid() >> 32 };
	u64 *found = unix_tickets.lookup(&key);

	if (!found)
		return false;
	*cgroup = *found;
	unix_tickets.delete(&key);
	return true;
}

static __always_inline u64 hash_unix_name(struct ri_unix_key *key, u64 cgroup, u16 operation)
{
	u64 tag = mix(cgroup, (u64)operation << 32 | key->length);

	for (u32 i = 0; i < sizeof(key->path); i += 8)	/* 14 rounds */
		tag = mix(tag, *(u64 *)(key->path + i));
	return tag;
}

static __always_inline int judge_unix(void *ctx, u16 operation)
{
	struct decision decision = { .rule = -1 };
	struct ri_unix_key key = {};
	struct ri_session *session;
	struct ri_short *record;
	u64 cgroup, tag = 0;
	bool pass, held = false;

	session = session_of(&cgroup);
	if (!session && operation == RI_CONNECT && take_unix_ticket(ctx, &cgroup))
		return standing(sessions.lookup(&cgroup)) == RI_ALLOWED;
	read_unix_name(ctx, &key);
	JUDGE(session, decision, judge_unix_name(&key, &decision, &held));
	if (held && !decision.cause)
		decision.cause = RI_UNHELD;
	pass = let_pass(session, &decision);
	if (session && !decision.cause) {
		tag = hash_unix_name(&key, cgroup, operation);
		if (only_counted(session, cgroup, tag))
			return 1;
	}
	record = reserve_short(cgroup, RI_UNIX, pass ? RI_OBSERVED : 0);
	if (record) {
		record->detail.tag = tag;
		record->detail.number = operation;
		record->detail.rule = decision.rule;
		record->detail.policy = decision.policy;
		record->detail.cause = decision.cause;
		record->detail.length = key.length;
		__builtin_memcpy(record->data, key.path, sizeof(key.path));
		details.ringbuf_submit(record, RB_NO_WAKEUP);
	}
	return !decision.cause || pass;
}

int ri_connect_unix(struct bpf_sock_addr *ctx) { return judge_unix(ctx, RI_CONNECT); }
int ri_sendmsg_unix(struct bpf_sock_addr *ctx) { return judge_unix(ctx, RI_SEND); }
#endif
