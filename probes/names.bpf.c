/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Names: what a program sees of a server whose place the resolver took. RI_NAMES_ALONE adds the
 * redirection itself for every process of the cgroup, without sessions.
 */
#include "names.h"

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
	return note_flow(skb, bpf_skb_cgroup_id(skb));
}
#endif
