# SPDX-License-Identifier: Apache-2.0
"""Which listed unix sockets a session could lead elsewhere, because it may write where they are.

The kernel compares the name that a program passes, and follows whatever links the session has put
there. So it refuses such names to the session, and the gate connects (daemon/gate/unix_connects).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monitor.policy.floor import BUILT_IN
from monitor.policy.patterns import is_within
from monitor.policy.plan import FileAccess, Policy


def marked(policies: Sequence[Policy], others: Sequence[Policy] = ()) -> list[Policy]:
    """The policies, each unix name with whether it is held.

    `others` must allow as well. Every policy must allow a file to be written; what views take away
    there is left out of account, because they only know what exists at launch.
    """
    return [_marked(policy, (*policies, *others)) for policy in policies]


def cleared(policies: Sequence[Policy]) -> list[Policy]:
    """The policies without such marks."""
    return [
        replace(policy, unix=tuple(replace(rule, held=False) for rule in policy.unix))
        for policy in policies
    ]


def _marked(policy: Policy, every: Sequence[Policy]) -> Policy:
    # A rule has two names, as written and without links: by either the session gets there. The
    # daemon's own socket looks at the process that connects; its folder is the daemon's.
    held = {
        rule.rule
        for rule in policy.unix
        if policy.rules[rule.rule].source != BUILT_IN and may_redirect(every, rule.path)
    }
    unix = tuple(replace(rule, held=rule.rule in held) for rule in policy.unix)
    return policy if unix == policy.unix else replace(policy, unix=unix)


def may_redirect(policies: Sequence[Policy], path: str) -> bool:
    """Whether a session under `policies` may put something else in the place of `path`."""
    if not path.startswith("/"):
        return False  # an abstract name has no folder
    folder = path.rpartition("/")[0] or "/"
    return all(_writes(policy, folder) for policy in policies)


def _writes(policy: Policy, folder: str) -> bool:
    return any(
        rule.tree and FileAccess.WRITE in rule.access and is_within(folder, rule.path)
        for rule in policy.files
    )
