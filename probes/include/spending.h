/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Budgets of the network: what is counted, and when it is too much. Rates are over_rate's. */
#ifndef RI_SPENDING_H
#define RI_SPENDING_H

#include "judging.h"

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

#endif
