/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What a TLS client asks for, where a rule names the host that a connection to port 443 goes to: the
 * name in its first message (SNI) must be one that the session was told this address for. An address
 * that many hosts share is so no way to those that no rule names.
 *
 * watch_hello is for the connect programs. The message may come in any number of packets; it is read in
 * the order of its bytes, each once, whatever is sent again.
 *
 * Fail closed: nothing leaves the connection before it has begun a hello, nor after a hello that is
 * refused, broken, without a name or with another one.
 */
#include "judging.h"

/* Names that sessions were told addresses for, where rules let those be connected to at port 443.
 * Written by the worker before the answer is sent. Full: the answer is refused. A miss: cut. */
BPF_F_TABLE("hash", struct ri_host_key, u8, host_names, 131072, 1 /* BPF_F_NO_PREALLOC */);

#define RI_HTTPS 443
#define RI_TLS_NAME_MAX 253	/* RFC 1035 section 2.3.4 */

/* What comes next in a hello (RFC 8446 sections 5.1 and 4.1.2, RFC 6066 section 3). */
enum ri_hello_part {
	RI_PART_START = 0,	/* the record's head to the length of the session id */
	RI_PART_CIPHERS = 1,	/* their length, and so on */
	RI_PART_METHODS = 2,
	RI_PART_EXTENSIONS = 3,
	RI_PART_EXTENSION = 4,	/* type and length of one */
	RI_PART_LIST = 5,	/* of names, up to the length of the first */
	RI_PART_NAME = 6,
};

#define RI_START_SIZE 44	/* record 5, message 4, version 2, random 32, length of session id 1 */
#define RI_START_BODY 35	/* of those, what counts towards the message's length */

enum ri_hello_state {
	RI_HELLO_NEW = 0,	/* nothing was sent, not even SYN */
	RI_HELLO_READING = 1,
	RI_HELLO_DONE = 2,	/* all may leave */
	RI_HELLO_CUT = 3,	/* nothing may but a reset */
};

/* One connection's hello. `key.name` holds whatever part is being read. */
struct ri_hello {
	struct ri_host_key key;
	u8 room[256];		/* behind key.name: the verifier adds up the most of offset and size */
	u32 state;		/* enum ri_hello_state */
	u32 part;		/* enum ri_hello_part */
	u32 next;		/* sequence number of the next byte to read */
	u32 at;			/* where in the packet reading stands */
	u32 skip;		/* bytes to pass over before the part */
	u32 have;		/* bytes of the part that were read, of `need` */
	u32 need;
	u32 left;		/* bytes of the message behind what was read and is to be passed over */
	u32 extension;		/* length of the extension that holds the names */
	u32 named;		/* a name was read, and it is one that was told */
	u32 policy;		/* of the rule that names the host */
	s32 rule;
	u32 pid;		/* who connected */
	u32 tid;
	char comm[16];
};

/* Connections whose hello is looked at. Gone with the socket. Cannot be made: the connect is refused. */
BPF_SK_STORAGE(hellos, struct ri_hello);

#define RI_TLS_TAKEN 0xff	/* beside enum ri_tls: a part is whole */

static __always_inline void expect(struct ri_hello *hello, u32 part, u32 need)
{
	hello->part = part;
	hello->need = need;
	hello->have = 0;
}

/* Lets this connection begin with a hello that names a host, or not at all. */
static __always_inline bool watch_hello(struct bpf_sock_addr *ctx, struct destination *to, u32 policy,
					s32 rule)
{
	struct bpf_sock *socket = ctx->sk;
	u64 task = bpf_get_current_pid_tgid();
	struct ri_hello *hello;

	if (!socket)
		return false;
	hello = hellos.sk_storage_get(socket, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!hello)
		return false;
	hello->state = RI_HELLO_NEW;
	hello->skip = 0;
	hello->left = 0;
	hello->named = 0;
	hello->policy = policy;
	hello->rule = rule;
	hello->pid = task >> 32;
	hello->tid = (u32)task;
	bpf_get_current_comm(hello->comm, sizeof(hello->comm));
	hello->key.cgroup = to->cgroup;
	hello->key.length = 0;
	hello->key.reserved = 0;
	__builtin_memcpy(hello->key.address, to->address, sizeof(to->address));
	expect(hello, RI_PART_START, RI_START_SIZE);
	return true;
}

/* The socket may have been connected before, and goes elsewhere now. */
static __always_inline void forget_hello(struct bpf_sock_addr *ctx)
{
	if (ctx->sk)
		hellos.sk_storage_delete(ctx->sk);
}

static __always_inline u32 two(u8 *at)
{
	return at[0] << 8 | at[1];
}

/* What has come of the start is no hello's. */
static __always_inline bool is_plain(u8 *start, u32 have)
{
	return start[0] != 22 || (have > 1 && start[1] != 3) || (have > 5 && start[5] != 1);
}

/* Upper case to lower case, eight letters at a time. */
static __always_inline void lower(u8 *name)
{
	u64 *words = (u64 *)name;

	#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 32; i++) {		/* 256 bytes */
		u64 word = words[i], seven = word & 0x7f7f7f7f7f7f7f7fULL;
		u64 from_a = seven + 0x3f3f3f3f3f3f3f3fULL;	/* 0x80 - 'A' */
		u64 past_z = seven + 0x2525252525252525ULL;	/* 0x80 - 'Z' - 1 */

		words[i] = word | (from_a & ~past_z & ~word & 0x8080808080808080ULL) >> 2;
	}
}

/* Behind one extension: the next, or the end. */
static __always_inline u32 next_extension(struct ri_hello *hello)
{
	if (!hello->left)
		return hello->named ? RI_TLS_ALLOWED : RI_TLS_NAMELESS;
	expect(hello, RI_PART_EXTENSION, 4);
	return RI_TLS_INCOMPLETE;
}

/* Passes over `size` bytes; false: the message has not as many. */
static __always_inline bool pass_over(struct ri_hello *hello, u32 size)
{
	if (size > hello->left)
		return false;
	hello->left -= size;
	hello->skip = size;
	return true;
}

static __always_inline u32 take_start(struct ri_hello *hello, u8 *part)
{
	u32 record = two(part + 3), message = part[6] << 16 | two(part + 7);

	/* One message, whole in one record: what another parser would put together differently. */
	if (message + 4 != record || message < RI_START_BODY || part[43] > 32)
		return RI_TLS_BROKEN;
	hello->left = message - RI_START_BODY;
	if (!pass_over(hello, part[43]))
		return RI_TLS_BROKEN;
	expect(hello, RI_PART_CIPHERS, 2);
	return RI_TLS_INCOMPLETE;
}

static __always_inline u32 take_list(struct ri_hello *hello, u32 size, u32 length, u32 next, u32 need)
{
	if (!pass_over(hello, size) || !pass_over(hello, length))
		return RI_TLS_BROKEN;
	expect(hello, next, need);
	return RI_TLS_INCOMPLETE;
}

static __always_inline u32 take_extension(struct ri_hello *hello, u8 *part)
{
	u32 kind = two(part), length = two(part + 2);

	if (!pass_over(hello, 4) || !pass_over(hello, length))
		return RI_TLS_BROKEN;
	if (kind)
		return next_extension(hello);
	/* Only one may name a host (RFC 6066): a server might take the other. */
	if (hello->named || length < 6)
		return RI_TLS_BROKEN;
	hello->skip = 0;
	hello->extension = length;
	expect(hello, RI_PART_LIST, 5);
	return RI_TLS_INCOMPLETE;
}

static __always_inline u32 take_names(struct ri_hello *hello, u8 *part)
{
	u32 list = two(part), length = two(part + 3);
	u64 *words = (u64 *)hello->key.name;

	if (list + 2 != hello->extension || part[2] || length + 3 != list || !length ||
	    length > RI_TLS_NAME_MAX)
		return RI_TLS_BROKEN;
	#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 32; i++)		/* 256 bytes */
		words[i] = 0;
	hello->key.length = length;
	expect(hello, RI_PART_NAME, length);
	return RI_TLS_INCOMPLETE;
}

static __always_inline u32 take_name(struct ri_hello *hello)
{
	lower(hello->key.name);
	if (!host_names.lookup(&hello->key))
		return RI_TLS_OTHER;
	hello->named = 1;
	return next_extension(hello);
}

static __always_inline u32 take_part(struct ri_hello *hello)
{
	u8 *part = hello->key.name;

	switch (hello->part) {
	case RI_PART_START:
		return take_start(hello, part);
	case RI_PART_CIPHERS:
		return take_list(hello, 2, two(part), RI_PART_METHODS, 1);
	case RI_PART_METHODS:
		if (hello->left == 1 + (u32)part[0])	/* nothing behind them */
			return RI_TLS_NAMELESS;
		return take_list(hello, 1, part[0], RI_PART_EXTENSIONS, 2);
	case RI_PART_EXTENSIONS:
		if (!pass_over(hello, 2) || two(part) != hello->left)
			return RI_TLS_BROKEN;
		hello->skip = 0;
		return next_extension(hello);
	case RI_PART_EXTENSION:
		return take_extension(hello, part);
	case RI_PART_LIST:
		return take_names(hello, part);
	case RI_PART_NAME:
		return take_name(hello);
	}
	return RI_TLS_BROKEN;
}

#define RI_HELLO_PARTS 96	/* in one packet: browsers send some 20 extensions */

/* Passes over what is to be passed over, and takes what the packet has of the part behind that. */
static __always_inline u32 read_part(struct __sk_buff *skb, struct ri_hello *hello)
{
	u32 at = hello->at, end = skb->len, have, size;

	if (at >= end)
		return RI_TLS_INCOMPLETE;
	size = hello->skip;
	if (size > end - at)
		size = end - at;
	hello->skip -= size;
	hello->next += size;
	at += size;
	hello->at = at;
	if (at >= end)
		return RI_TLS_INCOMPLETE;
	have = hello->have;
	size = hello->need - have;
	if (size > end - at)
		size = end - at;
	if (!size)
		return RI_TLS_BROKEN;
	asm volatile("" : "+r"(have), "+r"(size));	/* clang 14 folds the masks away */
	have &= 255;
	size = ((size - 1) & 255) + 1;	/* not 0: Linux 6.1 does not see that from the test above */
	if (bpf_skb_load_bytes(skb, at, hello->key.name + have, size))
		return RI_TLS_BROKEN;
	have += size;
	hello->have = have;
	hello->next += size;
	hello->at = at + size;
	if (hello->part == RI_PART_START && is_plain(hello->key.name, have))
		return RI_TLS_PLAIN;
	return have < hello->need ? RI_TLS_INCOMPLETE : RI_TLS_TAKEN;
}

/* Reads on from `at` to the packet's end. */
static __always_inline u32 read_hello(struct __sk_buff *skb, struct ri_hello *hello, u32 at)
{
	u32 answer;

	hello->at = at;
	#pragma clang loop unroll(disable)
	for (u32 i = 0; i < RI_HELLO_PARTS; i++) {
		/* All that a round leaves to the next is in `hello`: so the verifier sees each once. */
		asm volatile("" ::: "memory");
		answer = read_part(skb, hello);
		if (answer != RI_TLS_TAKEN)
			return answer;
		answer = take_part(hello);
		if (answer)
			return answer;
	}
	return RI_TLS_BROKEN;
}

/*
 * Whether the packet's bytes lie in pages that others can write to (MSG_ZEROCOPY, splice): what is sent
 * would not be what was read.
 */
static __always_inline bool is_shared(void *skb)
{
	u64 head = 0;
	u32 end = 0;
	u8 flags = 0;

	if (READ(head, skb, OFF_sk_buff_head) || READ(end, skb, OFF_sk_buff_end) ||
	    READ(flags, head + end, OFF_skb_shared_info_flags))
		return true;
	return flags & 3;		/* SKBFL_ZEROCOPY_ENABLE, SKBFL_SHARED_FRAG: linux/skbuff.h */
}

static __always_inline void send_hello(struct ri_hello *hello, u32 cause, u32 own_port, u16 flags)
{
	struct ri_short *record;
	struct ri_asked *asked;

	record = reserve_short_of_none(hello->key.cgroup, RI_HELLO, flags);
	if (!record)
		return;
	/* A packet may leave in the context of any process: who connected is told of. */
	record->detail.header.pid = hello->pid;
	record->detail.header.tid = hello->tid;
	__builtin_memcpy(record->detail.header.comm, hello->comm, sizeof(hello->comm));
	record->detail.rule = hello->rule;
	record->detail.policy = hello->policy;
	record->detail.cause = cause;
	record->detail.length = sizeof(*asked);
	asked = (struct ri_asked *)record->data;
	__builtin_memset(asked, 0, sizeof(*asked));
	__builtin_memcpy(asked->address, hello->key.address, sizeof(asked->address));
	asked->port = RI_HTTPS;
	asked->own_port = own_port;
	if (cause == RI_TLS_OTHER) {
		asked->length = hello->key.length;
		__builtin_memcpy(asked->name, hello->key.name, sizeof(asked->name));
	}
	details.ringbuf_submit(record, RB_NO_WAKEUP);
}

#define TCP_SEQUENCE 4		/* in struct tcphdr, uapi/linux/tcp.h */
#define TCP_OFFSET 12		/* the byte that holds the header's length */
#define TCP_FLAGS_BYTE 13
#define RI_TCP_FLAG_SYN 2
#define RI_TCP_FLAG_RST 4
#define RI_TCP_FLAG_URG 32

/* What this TCP packet, whose header is at `tcp`, has of a hello. */
static __always_inline u32 hello_of(struct __sk_buff *skb, struct ri_hello *hello, u32 tcp, u8 flags)
{
	u32 sequence = 0, begin;
	u8 offset = 0;
	s32 known;

	/* What lies urgent is not in the stream that a server reads. */
	if (flags & RI_TCP_FLAG_URG)
		return RI_TLS_URGENT;
	if (hello->state == RI_HELLO_DONE)
		return RI_TLS_ALLOWED;
	if (bpf_skb_load_bytes(skb, tcp + TCP_SEQUENCE, &sequence, 4) ||
	    bpf_skb_load_bytes(skb, tcp + TCP_OFFSET, &offset, 1))
		return RI_TLS_BROKEN;
	sequence = bpf_ntohl(sequence);
	begin = tcp + (offset >> 4) * 4;
	if (flags & RI_TCP_FLAG_SYN) {
		sequence++;
		if (hello->state == RI_HELLO_NEW) {
			hello->next = sequence;
			hello->state = RI_HELLO_READING;
		}
	}
	if (skb->len <= begin)
		return RI_TLS_INCOMPLETE;
	known = hello->next - sequence;
	/* What stands before it did not leave: TCP sends that again, and this after it. */
	if (hello->state == RI_HELLO_NEW || known < 0)
		return RI_TLS_HOLE;
	if (known >= skb->len - begin)		/* sent again; the kernel keeps the bytes as they were */
		return RI_TLS_INCOMPLETE;
	if (is_shared(skb))
		return RI_TLS_SHARED;
	return read_hello(skb, hello, begin + known);
}

/* Where the TCP header of a packet stands; 0: it has none, or a route of its own (ri_egress). */
static __always_inline u32 tcp_header(struct __sk_buff *skb)
{
	u8 first = 0, protocol = 0;

	if (skb->protocol == bpf_htons(0x0800)) {
		if (bpf_skb_load_bytes(skb, 0, &first, 1) || first != 0x45 ||
		    bpf_skb_load_bytes(skb, 9, &protocol, 1))
			return 0;
		return protocol == 6 ? 20 : 0;
	}
	return bpf_skb_load_bytes(skb, 6, &protocol, 1) || protocol != 6 ? 0 : 40;
}

static __always_inline int judge_hello(struct __sk_buff *skb, struct ri_session *session,
				       struct bpf_sock *socket, struct ri_hello *hello)
{
	u32 tcp = tcp_header(skb), answer;
	u8 flags = 0;
	bool pass;

	if (!tcp)
		return 1;
	/* A reset carries no data, and the peer of a socket that was cut must see it. */
	if (bpf_skb_load_bytes(skb, tcp + TCP_FLAGS_BYTE, &flags, 1) || flags & RI_TCP_FLAG_RST)
		return !!(flags & RI_TCP_FLAG_RST);
	if (hello->state == RI_HELLO_CUT)
		return 0;
	answer = hello_of(skb, hello, tcp, flags);
	if (answer == RI_TLS_ALLOWED)
		hello->state = RI_HELLO_DONE;
	if (answer == RI_TLS_ALLOWED || answer == RI_TLS_INCOMPLETE)
		return 1;
	if (answer == RI_TLS_HOLE)
		return 0;
	pass = session->flags & RI_OBSERVE;
	hello->state = RI_HELLO_CUT;
	send_hello(hello, answer, socket->src_port, pass ? RI_OBSERVED : 0);
	if (pass)
		hellos.sk_storage_delete(socket);
	return pass;
}

/*
 * BPF_CGROUP_INET_EGRESS, beside ri_egress: a program of its own, because both together are more than
 * a verifier reads. A packet leaves where both let it.
 */
int ri_hello(struct __sk_buff *skb)
{
	u64 cgroup = bpf_skb_cgroup_id(skb);
	struct ri_session *session = sessions.lookup(&cgroup);
	struct bpf_sock *socket = skb->sk;
	struct ri_hello *hello;

	if (!session || !(session->flags & RI_NAMES) || !socket)
		return 1;
	socket = bpf_sk_fullsock(socket);
	if (!socket)
		return 1;
	hello = hellos.sk_storage_get(socket, NULL, 0);
	return hello ? judge_hello(skb, session, socket, hello) : 1;
}
