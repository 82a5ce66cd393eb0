/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Each packet of a session as it leaves: what no call is judged for any more. Returns 1 to let it go,
 * 0 to drop it.
 */
#include "spending.h"

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
	struct ri_event *event = reserve_event_of_none(cgroup, RI_NET, flags);

	if (!event)
		return;
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
	if (!value)
		judge_named(to, decision);
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
	if (session->flags & RI_NAMES)
		find_named(&to, 0);
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
 * What goes to the resolver is noted: it knows by that whose question it is. Labels that narrow the
 * network end that, on sockets that were led there before as well.
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
	int asks = RI_FLOW_ELSEWHERE;

	/* A reset carries no data, and the peer of a socket that was cut must see it. */
	if (standing(session))
		return !!(flags & TCP_RST);
	if (routed) {
		refuse_route(skb, cgroup);
		return 0;
	}
	if (session && session->flags & RI_NAMES)
		asks = note_flow(skb, cgroup);
	if (asks == RI_FLOW_REFUSED || (asks && is_narrowed(session)))
		return 0;
	if ((flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		if (!judge_welcome(skb, session, cgroup))
			return 0;
	} else if (session && session->label_count && !asks && !(flags & TCP_RST)) {
		if (!judge_packet(skb, session, cgroup))
			return 0;
	}
	if (session && HAS_BUDGET(session, RI_BUDGET_EGRESS) && !(flags & TCP_RST))
		return spend_bytes(skb, session, cgroup);
	return 1;
}
