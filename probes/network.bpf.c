/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Network decisions, attached to the instance's root cgroup: connect, send, bind, socket, and unix
 * destinations where the kernel has the hook. Each returns 1 to allow, 0 to refuse (EPERM).
 *
 * Fail closed: a cgroup under the root that has no session row is refused everything, and so is a
 * session whose tables have no row for the destination.
 */
#include "common.h"

/* policy + table + address -> port set. Written by the worker. Full: the launch is refused. */
BPF_LPM_TRIE(prefixes, struct ri_prefix_key, u32, 65536);
/* policy + port set + protocol + port -> verdict. Written by the worker. Full: as above. */
BPF_LPM_TRIE(ports, struct ri_port_key, struct ri_port_value, 65536);
/* What socket(2) may make. Written by the worker. Full: as above. */
BPF_HASH(sockets, struct ri_socket_key, u32, 65536);
/* Unix destinations. Written by the worker. Full: as above. */
BPF_HASH(unix_paths, struct ri_unix_key, struct ri_unix_value, 16384);

/* TCP sockets that a session with labels has connected. Written by ri_connect*. Full: refused. */
BPF_SK_STORAGE(connected, u8);

struct decision {
	u32 policy;
	s32 rule;
	u16 cause;		/* enum ri_cause; RI_ALLOWED allows */
	bool labels;		/* a rule that allows gives a label */
};

struct destination {
	u64 cgroup;
	u8 address[16];
	u16 port;		/* network order */
	u16 protocol;
	u32 table;
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

static __always_inline void judge_destination(struct destination *to, struct decision *decision)
{
	struct ri_port_value *value = find_rule(to, decision->policy);

	decision->rule = -1;
	decision->cause = RI_UNLISTED;
	if (!value)
		return;
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

#define HAS_BUDGET(session, kind) ((session)->budgets & 1 << (kind))
#define EEXIST 17			/* uapi/asm-generic/errno-base.h */

/* Counts an address that is new to the policy; true: that is too many, or there is no room. */
static __always_inline bool over_destinations(struct destination *to, u32 policy, u32 limit)
{
	struct ri_usage_key key = { .policy = policy, .budget = RI_BUDGET_DESTINATIONS };
	struct ri_destination_key address = { .policy = policy };
	u8 known = 1;
	u64 *count;
	long error;

	if (limit == RI_UNLIMITED)
		return false;
	__builtin_memcpy(address.address, to->address, sizeof(address.address));
	if (destinations.lookup(&address))
		return false;
	count = usage.lookup(&key);
	if (!count)
		return true;
	if (__sync_fetch_and_add(count, 1) < limit) {
		error = destinations.insert(&address, &known);
		if (!error)
			return false;
		__sync_fetch_and_add(count, -1);
		return error != -EEXIST;	/* else another processor was first, and counted it */
	}
	__sync_fetch_and_add(count, -1);
	return true;
}

/* Counts `bytes` that are to leave; true: that is too many. What was refused counts as well, so
 * that nothing smaller follows. */
static __always_inline bool over_egress(u32 policy, u64 limit, u32 bytes)
{
	struct ri_usage_key key = { .policy = policy, .budget = RI_BUDGET_EGRESS };
	u64 *count;

	if (limit == (u64)-1)
		return false;
	count = usage.lookup(&key);
	return !count || __sync_fetch_and_add(count, bytes) + bytes > limit;
}

/* What every link's budgets say of a connection or message that all rules allow. */
static __always_inline void spend(struct ri_session *session, struct destination *to,
				  struct decision *decision)
{
	struct ri_budget *budget;
	u32 policy;

	for (u32 i = 0; i < RI_MAX_POLICIES; i++) {
		if (i >= session->policy_count)
			return;
		policy = session->policies[i];
		budget = budgets.lookup(&policy);
		if (!budget)
			continue;
		if (over_egress(policy, budget->egress, 0))
			decision->rule = RI_BUDGET_EGRESS;
		else if (over_destinations(to, policy, budget->destinations))
			decision->rule = RI_BUDGET_DESTINATIONS;
		else if (over_rate(policy, RI_BUDGET_CONNECTS, budget->connects))
			decision->rule = RI_BUDGET_CONNECTS;
		else
			continue;
		decision->policy = policy;
		decision->cause = RI_OVER_BUDGET;
		return;
	}
}

/* Lets every label count that a rule gives for this, before the call returns to any thread. */
static __always_inline void earn_labels(struct ri_session *session, struct destination *to,
					u16 family, u16 type, u16 operation)
{
	struct ri_port_value *value;
	struct ri_earned *row;
	struct ri_event *event;
	u32 label;

	for (u32 i = 0; i < RI_MAX_POLICIES; i++) {
		if (i >= session->policy_count)
			return;
		value = find_rule(to, session->policies[i]);
		if (!value || !value->label)
			continue;
		label = value->label;
		row = earned.lookup(&label);
		if (!row || row->time ||
		    __sync_val_compare_and_swap(&row->time, 0, bpf_ktime_get_boot_ns()))
			continue;
		event = reserve_event(to->cgroup, RI_LABEL, 0);
		if (!event)
			continue;
		__builtin_memset(&event->net, 0, sizeof(event->net));
		__builtin_memcpy(event->net.address, to->address, sizeof(to->address));
		event->net.rule = value->rule;
		event->net.policy = label;
		event->net.port = bpf_ntohs(to->port);
		event->net.family = family;
		event->net.type = type;
		event->net.protocol = to->protocol;
		event->net.operation = operation;
		events.ringbuf_submit(event, RB_NO_WAKEUP);
	}
}

#define SOCK_STREAM 1			/* linux/net.h */

/* So that judge_packet can tell it from one that came in. */
static __always_inline bool mark_connected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *socket = ctx->sk;

	return socket && connected.sk_storage_get(socket, NULL, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline int judge(struct bpf_sock_addr *ctx, struct destination *to, u16 operation)
{
	struct decision decision = { .rule = -1 };
	struct ri_session *session;
	u64 cgroup;

	session = session_of(&cgroup);
	to->cgroup = cgroup;
	to->port = (u16)ctx->user_port;
	to->protocol = ctx->protocol;
	to->table = operation == RI_BIND ? RI_TABLE_BIND : RI_TABLE_CONNECT;
	JUDGE(session, decision, judge_destination(to, &decision));
	if (operation != RI_BIND && session && !decision.cause) {
		if (session->budgets)
			spend(session, to, &decision);
		if (operation == RI_CONNECT && session->label_count && ctx->type == SOCK_STREAM &&
		    !mark_connected(ctx))
			decision.cause = RI_DENY_ALL;
		if (decision.labels && !decision.cause)
			earn_labels(session, to, ctx->family, ctx->type, operation);
	}
	return conclude(session, cgroup, to, &decision, ctx->family, ctx->type, operation);
}

static __always_inline int judge4(struct bpf_sock_addr *ctx, u16 operation)
{
	struct destination to = {};
	u32 address = ctx->user_ip4;

	to.address[10] = 0xff;
	to.address[11] = 0xff;
	__builtin_memcpy(to.address + 12, &address, 4);
	return judge(ctx, &to, operation);
}

static __always_inline int judge6(struct bpf_sock_addr *ctx, u16 operation)
{
	struct destination to = {};
	u32 address[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	__builtin_memcpy(to.address, address, 16);
	return judge(ctx, &to, operation);
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

#define ETH_P_IP 0x0800		/* uapi/linux/if_ether.h */
#define ETH_P_IPV6 0x86dd
#define IPV4_WITHOUT_OPTIONS 0x45	/* version 4, header of five words */
#define IPV6_NEXT_HEADER 6	/* offsetof(struct ipv6hdr, nexthdr) */
#define IPV4_PROTOCOL 9		/* offsetof(struct iphdr, protocol), uapi/linux/ip.h */
#define IPV4_DESTINATION 16
#define IPV4_SIZE 20
#define IPV6_DESTINATION 24
#define IPV6_SIZE 40
#define IPPROTO_TCP 6		/* uapi/linux/in.h */
#define IPPROTO_UDP 17
#define PORT_DESTINATION 2	/* in struct tcphdr and struct udphdr */
#define TCP_FLAGS 13		/* the byte of struct tcphdr that holds RST, uapi/linux/tcp.h */
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define NEXTHDR_HOP 0		/* net/ipv6.h */
#define NEXTHDR_ROUTING 43
#define NEXTHDR_DEST 60

/* Whether a packet has a route of its own, or a header that one could hide behind. */
static __always_inline bool has_own_route(struct __sk_buff *skb)
{
	u8 byte = 0;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bpf_skb_load_bytes(skb, 0, &byte, 1) || byte != IPV4_WITHOUT_OPTIONS;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return bpf_skb_load_bytes(skb, IPV6_NEXT_HEADER, &byte, 1) ||
		       byte == NEXTHDR_ROUTING || byte == NEXTHDR_HOP || byte == NEXTHDR_DEST;
	return true;
}

/* The flags of a packet without options; 0: it is not TCP. */
static __always_inline u8 tcp_flags(struct __sk_buff *skb)
{
	u32 four = skb->protocol == bpf_htons(ETH_P_IP);
	u8 protocol = 0, flags = 0;

	if (bpf_skb_load_bytes(skb, four ? IPV4_PROTOCOL : IPV6_NEXT_HEADER, &protocol, 1) ||
	    protocol != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, (four ? IPV4_SIZE : IPV6_SIZE) + TCP_FLAGS, &flags, 1))
		return 0;
	return flags;
}

/*
 * Records what a packet was refused for. It may leave in the context of any process: the record
 * names none.
 */
static __always_inline void send_refused_packet(u64 cgroup, struct destination *to,
						struct decision *decision, u16 family,
						u16 operation, u16 flags, u64 tag)
{
	struct ri_event *event = reserve_event(cgroup, RI_NET, flags);

	if (!event)
		return;
	event->header.pid = 0;
	event->header.tid = 0;
	__builtin_memset(event->header.comm, 0, sizeof(event->header.comm));
	__builtin_memset(&event->net, 0, sizeof(event->net));
	event->net.tag = tag;
	__builtin_memcpy(event->net.address, to->address, sizeof(to->address));
	event->net.rule = decision->rule;
	event->net.policy = decision->policy;
	event->net.port = bpf_ntohs(to->port);
	event->net.family = family;
	event->net.protocol = to->protocol;
	event->net.operation = operation;
	event->net.cause = decision->cause;
	events.ringbuf_submit(event, RB_NO_WAKEUP);
}

static __always_inline void refuse_route(struct __sk_buff *skb, u64 cgroup)
{
	struct decision decision = { .rule = -1, .cause = RI_ROUTED };
	struct destination to = {};
	u16 family = AF_INET6;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		bpf_skb_load_bytes(skb, IPV6_DESTINATION, to.address, 16);
	} else {
		family = AF_INET;
		to.address[10] = 0xff;
		to.address[11] = 0xff;
		bpf_skb_load_bytes(skb, IPV4_DESTINATION, to.address + 12, 4);
	}
	send_refused_packet(cgroup, &to, &decision, family, RI_SEND, 0, 0);
}

/* Port 0 in a rule is any port that the kernel chose. */
static __always_inline void judge_listener(struct destination *to, struct decision *decision)
{
	u16 port = to->port;
	u16 cause;
	s32 rule;

	judge_destination(to, decision);
	if (!decision->cause)
		return;
	cause = decision->cause;
	rule = decision->rule;
	to->port = 0;
	judge_destination(to, decision);
	to->port = port;
	if (!decision->cause)
		return;
	decision->cause = cause;
	decision->rule = rule;
}

/* The address and port that a packet's own socket has; false: it has none. */
static __always_inline u32 own_end(struct __sk_buff *skb, struct destination *own)
{
	struct bpf_sock *socket = skb->sk;
	u32 address[5], family;
	u16 port;

	if (socket)
		socket = bpf_sk_fullsock(socket);
	if (!socket)
		return 0;
	/* Read whole before it is looked at: clang would compute a pointer into the socket. */
	family = socket->family;
	port = socket->src_port;
	address[0] = socket->src_ip4;
	address[1] = socket->src_ip6[0];
	address[2] = socket->src_ip6[1];
	address[3] = socket->src_ip6[2];
	address[4] = socket->src_ip6[3];
	asm volatile("" ::: "memory");
	if (family == AF_INET) {
		own->address[10] = 0xff;
		own->address[11] = 0xff;
		__builtin_memcpy(own->address + 12, address, 4);
	} else {
		__builtin_memcpy(own->address, address + 1, 16);
	}
	own->port = bpf_htons(port);
	return family;
}

/*
 * An answer to a peer that connects in: the listener must stand where bind rules let it, which
 * nobody was asked about where it listens without bind(2).
 */
static __always_inline int judge_welcome(struct __sk_buff *skb, struct ri_session *session,
					 u64 cgroup)
{
	struct destination to = { .cgroup = cgroup, .protocol = IPPROTO_TCP,
				  .table = RI_TABLE_BIND };
	struct decision decision = { .rule = -1 };
	u32 family = own_end(skb, &to);
	bool pass;

	if (!family)
		return 0;
	JUDGE(session, decision, judge_listener(&to, &decision));
	if (!decision.cause)
		return 1;
	pass = let_pass(session, &decision);
	send_refused_packet(cgroup, &to, &decision, family, RI_BIND, pass ? RI_OBSERVED : 0, 0);
	return pass;
}

/* Where a packet without options goes. */
static __always_inline void read_destination(struct __sk_buff *skb, struct destination *to)
{
	u32 size = IPV6_SIZE;
	u8 protocol = 0;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		bpf_skb_load_bytes(skb, IPV6_DESTINATION, to->address, 16);
		bpf_skb_load_bytes(skb, IPV6_NEXT_HEADER, &protocol, 1);
	} else {
		size = IPV4_SIZE;
		to->address[10] = 0xff;
		to->address[11] = 0xff;
		bpf_skb_load_bytes(skb, IPV4_DESTINATION, to->address + 12, 4);
		bpf_skb_load_bytes(skb, IPV4_PROTOCOL, &protocol, 1);
	}
	to->protocol = protocol;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
		bpf_skb_load_bytes(skb, size + PORT_DESTINATION, &to->port, 2);
}

/* As judge_destination; an answer that was given for the connection holds while it lasts. */
static __always_inline void judge_open(struct destination *to, struct decision *decision)
{
	struct ri_port_value *value = find_rule(to, decision->policy);

	decision->rule = value ? value->rule : -1;
	decision->cause = value ? RI_RULE : RI_UNLISTED;
	if (value && value->verdict == RI_ALLOW)
		decision->cause = RI_ALLOWED;
	else if (value && value->verdict == RI_ASK)
		decision->cause = approval_of(to, decision->policy) ? RI_ALLOWED : RI_UNANSWERED;
}

/* A packet that was refused, told of once for each destination: the kernel goes on trying. */
static __always_inline int refuse_packet(struct __sk_buff *skb, struct ri_session *session,
					 struct destination *to, struct decision *decision)
{
	bool pass = let_pass(session, decision);
	u16 family = skb->protocol == bpf_htons(ETH_P_IPV6) ? AF_INET6 : AF_INET;
	u64 tag = mix(mix(to->cgroup, (u64)decision->policy << 32 | decision->cause),
		      (u64)to->port << 32 | (u64)to->protocol << 16 | family);

	tag = mix(mix(tag, *(u64 *)to->address), *(u64 *)(to->address + 8));
	if (only_counted(session, to->cgroup, tag))
		return pass;
	send_refused_packet(to->cgroup, to, decision, family, RI_SEND, pass ? RI_OBSERVED : 0,
			    tag);
	return pass;
}

/*
 * What labels took away ends what is open as well: whatever was let through before a label was
 * earned, no packet leaves for a destination that is lost. A connection that came in goes on where
 * its listener may still stand.
 */
static __always_inline int judge_packet(struct __sk_buff *skb, struct ri_session *session,
					u64 cgroup)
{
	struct destination to = { .cgroup = cgroup, .table = RI_TABLE_CONNECT };
	struct destination own = { .cgroup = cgroup, .protocol = IPPROTO_TCP,
				   .table = RI_TABLE_BIND };
	struct decision decision = { .rule = -1 }, came_in = {};
	struct bpf_sock *socket = skb->sk;

	read_destination(skb, &to);
	JUDGE_LABELS(session, decision, judge_open(&to, &decision));
	if (!decision.cause)
		return 1;
	if (to.protocol == IPPROTO_TCP) {
		if (socket)
			socket = bpf_sk_fullsock(socket);
		if (socket && !connected.sk_storage_get(socket, NULL, 0) && own_end(skb, &own)) {
			JUDGE_LABELS(session, came_in, judge_listener(&own, &came_in));
			if (!came_in.cause)
				return 1;
		}
	}
	return refuse_packet(skb, session, &to, &decision);
}

/* Counts a packet towards every link's budget of bytes. */
static __always_inline int spend_bytes(struct __sk_buff *skb, struct ri_session *session, u64 cgroup)
{
	struct destination to = { .cgroup = cgroup };
	struct decision decision = { .rule = RI_BUDGET_EGRESS, .cause = RI_OVER_BUDGET };
	struct ri_budget *budget;
	u32 policy;

	for (u32 i = 0; i < RI_MAX_POLICIES; i++) {
		if (i >= session->policy_count)
			return 1;
		policy = session->policies[i];
		budget = budgets.lookup(&policy);
		if (!budget || !over_egress(policy, budget->egress, skb->len))
			continue;
		decision.policy = policy;
		read_destination(skb, &to);
		return refuse_packet(skb, session, &to, &decision);
	}
	return 1;
}

/*
 * BPF_CGROUP_INET_EGRESS: every packet of a socket that was made under the root.
 *
 * What ends a session's authority ends what is established too: no packet leaves once the session
 * has expired, is revoked or has no row any more. Not recorded, since the kernel goes on trying.
 *
 * Nobody is let in where the session may not bind: the answer to a peer that connects is judged.
 *
 * In a session with labels, those that were earned are asked of every packet; in one with a budget
 * of bytes, every packet is counted.
 *
 * And no packet goes another way than was decided. The programs above saw the address that the
 * caller named; a source route (IP_OPTIONS, IPV6_RTHDR, by setsockopt or in a message of its own)
 * takes the packet to another one first. Recorded with where it would have gone.
 */
int ri_egress(struct __sk_buff *skb)
{
	u64 cgroup = bpf_skb_cgroup_id(skb);
	struct ri_session *session = sessions.lookup(&cgroup);
	bool routed = has_own_route(skb);
	u8 flags = routed ? 0 : tcp_flags(skb);

	/* A reset carries no data, and the peer of a socket that was cut must see it. */
	if (standing(session))
		return !!(flags & TCP_RST);
	if (routed) {
		refuse_route(skb, cgroup);
		return 0;
	}
	if ((flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		if (!judge_welcome(skb, session, cgroup))
			return 0;
	} else if (session && session->label_count && !(flags & TCP_RST)) {
		if (!judge_packet(skb, session, cgroup))
			return 0;
	}
	if (session && HAS_BUDGET(session, RI_BUDGET_EGRESS) && !(flags & TCP_RST))
		return spend_bytes(skb, session, cgroup);
	return 1;
}

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

static __always_inline void judge_unix_name(struct ri_unix_key *key, struct decision *decision)
{
	struct ri_unix_value *value;

	key->policy = decision->policy;
	value = unix_paths.lookup(key);
	decision->rule = value ? value->rule : -1;
	decision->cause = value ? RI_ALLOWED : RI_UNLISTED;
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
	bool pass;

	session = session_of(&cgroup);
	read_unix_name(ctx, &key);
	JUDGE(session, decision, judge_unix_name(&key, &decision));
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
