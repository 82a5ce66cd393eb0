/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Questions to name servers go to the resolver instead, whichever server was named: connects and
 * datagrams to port 53 are sent to its port in loopback, and what the program sees afterwards
 * (recvfrom, getpeername) is the server that it named. The resolver learns who asks from `flows`.
 *
 * redirect4, redirect6 and note_flow are for the programs that decide on connects, sends and
 * packets; RI_NAMES_ALONE makes programs of them for every process of a cgroup, without sessions.
 *
 * Fail closed: what is not redirected is judged as any other destination, and a question whose flow
 * is not in the map is not answered.
 */

/* Where the resolver listens, network order. */
struct ri_resolver {
	__u16 port4;		/* at 127.0.0.1; 0: nothing is redirected */
	__u16 port6;		/* at ::1; 0: what names an IPv6 server is not */
};

/* The server that a socket named last, in each family. */
struct ri_server {
	__u32 address6[4];
	__u32 address4;
	__u16 port6;		/* 0: none yet */
	__u16 port4;
};

/* The sender of packets to the resolver. */
struct ri_flow_key {
	__u8 address[16];	/* IPv4 as ::ffff:a.b.c.d */
	__u16 port;		/* network order */
	__u16 protocol;
};

struct ri_flow {
	__u64 cgroup;
	__u64 time;		/* boottime ns */
};

/* Key: u64, cgroup. Questions within a second. */
struct ri_asking {
	__u64 begin;		/* boottime ns */
	__u64 count;
};

/* Written by the worker. */
BPF_ARRAY(resolver, struct ri_resolver, 1);
/* Gone with its socket. Cannot be made: the packet is refused. */
BPF_SK_STORAGE(servers, struct ri_server);
/* Written for each packet to the resolver, read by it when the packet has arrived. Full: the oldest
 * goes, whose question is then not answered and asked again. Two sessions that bind the same port
 * of loopback on purpose, which takes a bind rule in each, can ask in each other's name. */
BPF_TABLE("lru_hash", struct ri_flow_key, struct ri_flow, flows, 65536);

/* Full: the oldest goes, and is counted from 0 again. */
BPF_TABLE("lru_hash", u64, struct ri_asking, asking, 8192);

#define RI_ASKING_MOST 1000	/* a second; the resolver refuses long before, and says so */
#define RI_ASKING_SECOND 1000000000ULL
#define RI_QUESTION_SIZE 1500	/* of a datagram, headers included; questions need 600 at most */
#define RI_DNS_PORT 53
#define RI_LOOPBACK4 0x7f000001
#define RI_MAPPED 0xffff	/* the third word of ::ffff:a.b.c.d */

static __always_inline struct ri_resolver *resolver_port(void)
{
	int first = 0;

	return resolver.lookup(&first);
}

static __always_inline struct ri_server *server_of(struct bpf_sock_addr *ctx, bool make)
{
	struct ri_server none = {};

	if (!ctx->sk)
		return NULL;
	return servers.sk_storage_get(ctx->sk, make ? &none : NULL,
				      make ? BPF_SK_STORAGE_GET_F_CREATE : 0);
}

#define RI_TCP 6		/* uapi/linux/in.h */
#define RI_UDP 17

/* Where a question of `ctx` goes; NULL: it is none. */
static __always_inline struct ri_resolver *resolver_for(struct bpf_sock_addr *ctx)
{
	struct ri_resolver *to;

	if ((u16)ctx->user_port != bpf_htons(RI_DNS_PORT) ||
	    (ctx->protocol != RI_UDP && ctx->protocol != RI_TCP))
		return NULL;
	to = resolver_port();
	return to && to->port4 ? to : NULL;
}

enum ri_redirect {
	RI_NOT_DNS = 0,		/* judge it as it stands */
	RI_REDIRECTED = 1,
	RI_NO_ROOM = 2,		/* refuse it */
};

/* For connect4 and sendmsg4. */
static __always_inline int redirect4(struct bpf_sock_addr *ctx)
{
	struct ri_resolver *to = resolver_for(ctx);
	struct ri_server *server;

	if (!to)
		return RI_NOT_DNS;
	server = server_of(ctx, true);
	if (!server)
		return RI_NO_ROOM;
	server->address4 = ctx->user_ip4;
	server->port4 = (u16)ctx->user_port;
	ctx->user_ip4 = bpf_htonl(RI_LOOPBACK4);
	ctx->user_port = to->port4;
	return RI_REDIRECTED;
}

/*
 * Writes a whole address at one place: two branches that write, and clang computes a pointer into
 * the context, which the verifier refuses.
 */
static __always_inline void write6(struct bpf_sock_addr *ctx, u32 *address, u16 port)
{
	ctx->user_ip6[0] = address[0];
	ctx->user_ip6[1] = address[1];
	ctx->user_ip6[2] = address[2];
	ctx->user_ip6[3] = address[3];
	ctx->user_port = port;
}

static __always_inline bool is_mapped(u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(RI_MAPPED);
}

/* For connect6 and sendmsg6. An IPv6 socket that names an IPv4 server is sent to 127.0.0.1. */
static __always_inline int redirect6(struct bpf_sock_addr *ctx)
{
	u32 named[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	u32 address[4] = { 0, 0, 0, bpf_htonl(1) };
	struct ri_resolver *to = resolver_for(ctx);
	struct ri_server *server;
	u16 port;

	if (!to || (!to->port6 && !is_mapped(named)))
		return RI_NOT_DNS;
	server = server_of(ctx, true);
	if (!server)
		return RI_NO_ROOM;
	if (is_mapped(named)) {
		server->address4 = named[3];
		server->port4 = bpf_htons(RI_DNS_PORT);
		address[2] = bpf_htonl(RI_MAPPED);
		address[3] = bpf_htonl(RI_LOOPBACK4);
		port = to->port4;
	} else {
		__builtin_memcpy(server->address6, named, 16);
		server->port6 = bpf_htons(RI_DNS_PORT);
		port = to->port6;
	}
	write6(ctx, address, port);
	return RI_REDIRECTED;
}

/* For recvmsg4 and getpeername4. */
static __always_inline void restore4(struct bpf_sock_addr *ctx)
{
	struct ri_resolver *to = resolver_port();
	struct ri_server *server;

	if (!to || (u16)ctx->user_port != to->port4 || ctx->user_ip4 != bpf_htonl(RI_LOOPBACK4))
		return;
	server = server_of(ctx, false);
	if (!server || !server->port4)
		return;
	ctx->user_ip4 = server->address4;
	ctx->user_port = server->port4;
}

/* For recvmsg6 and getpeername6. */
static __always_inline void restore6(struct bpf_sock_addr *ctx)
{
	u32 address[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	struct ri_resolver *to = resolver_port();
	u16 port = (u16)ctx->user_port;
	struct ri_server *server;

	if (!to || (port != to->port4 && port != to->port6))
		return;
	server = server_of(ctx, false);
	if (!server)
		return;
	if (is_mapped(address)) {
		if (!server->port4 || port != to->port4 || address[3] != bpf_htonl(RI_LOOPBACK4))
			return;
		address[3] = server->address4;
	} else {
		if (!server->port6 || port != to->port6 || address[0] || address[1] ||
		    address[2] || address[3] != bpf_htonl(1))
			return;
		__builtin_memcpy(address, server->address6, 16);
	}
	write6(ctx, address, bpf_htons(RI_DNS_PORT));
}

#define RI_IP4_SOURCE 12	/* uapi/linux/ip.h; the destination stands behind it */
#define RI_IP4_SIZE 20
#define RI_IP4_PROTOCOL 9
#define RI_IP6_SOURCE 8		/* uapi/linux/ipv6.h */
#define RI_IP6_SIZE 40
#define RI_IP6_NEXT 6
#define RI_TCP_FLAGS 13		/* the byte of struct tcphdr that holds SYN, uapi/linux/tcp.h */
#define RI_TCP_SYN 2
#define RI_TCP_ACK 16

/*
 * One more question; false: too many. What one session sends must leave room in the resolver's
 * socket for the others.
 */
static __always_inline bool may_ask(u64 cgroup, u64 now)
{
	struct ri_asking *known = asking.lookup(&cgroup);
	struct ri_asking first = { .begin = now, .count = 1 };

	if (!known) {
		asking.update(&cgroup, &first);
		return true;
	}
	if (now - known->begin >= RI_ASKING_SECOND) {
		known->begin = now;
		known->count = 0;
	}
	if (known->count >= RI_ASKING_MOST)
		return false;
	__sync_fetch_and_add(&known->count, 1);
	return true;
}

enum ri_flow_kind {
	RI_FLOW_ELSEWHERE = 0,	/* it does not go to the resolver */
	RI_FLOW_NOTED = 1,
	RI_FLOW_REFUSED = 2,	/* it is not to leave */
};

/*
 * For the egress program, with packets that have no route of their own: notes who sends where the
 * packet goes to the resolver. It is the socket's cgroup that counts, not that of who sends.
 */
static __always_inline int note_flow(struct __sk_buff *skb, u64 cgroup)
{
	struct ri_resolver *to = resolver_port();
	struct ri_flow_key key = {};
	struct ri_flow flow = { .cgroup = cgroup };
	u32 address[8] = {};	/* source, destination */
	u32 transport = RI_IP6_SIZE;
	u8 protocol = 0, flags = 0;
	bool begins = true;
	u16 ports[2] = {};

	if (!to || !to->port4)
		return RI_FLOW_ELSEWHERE;
	if (skb->protocol == bpf_htons(0x0800)) {
		if (bpf_skb_load_bytes(skb, RI_IP4_SOURCE, address, 8) ||
		    address[1] != bpf_htonl(RI_LOOPBACK4) ||
		    bpf_skb_load_bytes(skb, RI_IP4_PROTOCOL, &protocol, 1) ||
		    bpf_skb_load_bytes(skb, RI_IP4_SIZE, ports, 4) || ports[1] != to->port4)
			return RI_FLOW_ELSEWHERE;
		transport = RI_IP4_SIZE;
		key.address[10] = 0xff;
		key.address[11] = 0xff;
		__builtin_memcpy(key.address + 12, address, 4);
	} else {
		if (bpf_skb_load_bytes(skb, RI_IP6_SOURCE, address, 32) || address[4] ||
		    address[5] || address[6] || address[7] != bpf_htonl(1) ||
		    bpf_skb_load_bytes(skb, RI_IP6_NEXT, &protocol, 1) ||
		    bpf_skb_load_bytes(skb, RI_IP6_SIZE, ports, 4) || ports[1] != to->port6)
			return RI_FLOW_ELSEWHERE;
		__builtin_memcpy(key.address, address, 16);
	}
	if (protocol != RI_UDP && protocol != RI_TCP)
		return RI_FLOW_ELSEWHERE;
	flow.time = bpf_ktime_get_boot_ns();
	/* Of a connection its beginning counts: the resolver reads one question after the other. */
	if (protocol == RI_TCP) {
		if (bpf_skb_load_bytes(skb, transport + RI_TCP_FLAGS, &flags, 1))
			return RI_FLOW_REFUSED;
		begins = (flags & (RI_TCP_SYN | RI_TCP_ACK)) == RI_TCP_SYN;
	} else if (skb->len > RI_QUESTION_SIZE) {
		return RI_FLOW_REFUSED;
	}
	if (begins && !may_ask(cgroup, flow.time))
		return RI_FLOW_REFUSED;
	key.port = ports[0];
	key.protocol = protocol;
	flows.update(&key, &flow);
	return RI_FLOW_NOTED;
}

int ri_recvmsg4(struct bpf_sock_addr *ctx) { restore4(ctx); return 1; }
int ri_recvmsg6(struct bpf_sock_addr *ctx) { restore6(ctx); return 1; }
int ri_getpeername4(struct bpf_sock_addr *ctx) { restore4(ctx); return 1; }
int ri_getpeername6(struct bpf_sock_addr *ctx) { restore6(ctx); return 1; }

#ifdef RI_NAMES_ALONE
int ri_alone_connect4(struct bpf_sock_addr *ctx) { return redirect4(ctx) != RI_NO_ROOM; }
int ri_alone_connect6(struct bpf_sock_addr *ctx) { return redirect6(ctx) != RI_NO_ROOM; }
int ri_alone_sendmsg4(struct bpf_sock_addr *ctx) { return redirect4(ctx) != RI_NO_ROOM; }
int ri_alone_sendmsg6(struct bpf_sock_addr *ctx) { return redirect6(ctx) != RI_NO_ROOM; }
int ri_alone_egress(struct __sk_buff *skb)
{
	return note_flow(skb, bpf_skb_cgroup_id(skb)) != RI_FLOW_REFUSED;
}
#endif
