# SPDX-License-Identifier: Apache-2.0
"""A plan's rules on files as Landlock layers, in the form that the launcher's child reads.

Each policy is a layer of its own, outermost first, and every layer handles every right that the
host knows: what no rule of a policy grants is refused by it. The child opens the paths, because
they must mean what they mean inside the session's view.
"""

from __future__ import annotations

import os

from monitor.kernel import landlock
from monitor.kernel.landlock import Access, Scope
from monitor.launch import protocol
from monitor.policy.compile_files import granting
from monitor.policy.plan import FileAccess, Plan, Policy

TERMINAL = "/dev/tty"

# What each word of a profile stands for. Device nodes are made by nobody.
RIGHTS = {
    FileAccess.READ: Access.READ_FILE | Access.READ_DIR,
    FileAccess.EXECUTE: Access.EXECUTE,
    FileAccess.WRITE: Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.MAKE_SYM
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.REFER
    | Access.IOCTL_DEV,
}


def document(plan: Plan, abi: int) -> bytes:
    """The layers as the child reads them; ValueError where the kernel cannot hold so many."""
    fields: list[tuple[str, bytes]] = []
    # An observed session is refused no file: what would have been is told by its records.
    policies = () if plan.observe else plan.policies
    if len(policies) > landlock.MAX_LAYERS:
        raise ValueError(
            f"the profile extends {len(policies) - 1} others,"
            f" and Landlock holds {landlock.MAX_LAYERS} layers"
        )
    handled = landlock.accesses(abi)
    for policy in policies:
        fields.append(("layer", b"%d %d" % (handled, _scopes(policy, abi))))
        for path, tree, rights in _rules(policy, handled):
            name = "tree" if tree else "exact"
            fields.append((name, b"%d %s" % (rights, os.fsencode(path))))
        on_terminal = _on_terminal(policy) & handled
        if on_terminal:
            fields.append(("terminal", b"%d" % on_terminal))
    return protocol.encode(protocol.LAYERS, *fields, maximum=None)


def _scopes(policy: Policy, abi: int) -> Scope:
    """A policy that lists an abstract name leaves those to the cgroup's programs."""
    found = landlock.scopes(abi)
    if any(rule.path.startswith("@") for rule in policy.unix):
        found &= ~Scope.ABSTRACT_UNIX_SOCKET
    return found


def _on_terminal(policy: Policy) -> Access:
    """What the policy grants on the controlling terminal.

    /dev/tty is its name in rules. Its descriptors are also opened again, by way of /dev/stderr and
    the like, and then Landlock looks at the terminal itself.
    """
    rights = Access(0)
    for rule in granting(policy.files, TERMINAL):
        rights |= _rights(rule.access)
    return rights


def _rights(access: FileAccess) -> Access:
    rights = Access(0)
    for word, meaning in RIGHTS.items():
        if word in access:
            rights |= meaning
    return rights


def _rules(policy: Policy, handled: Access) -> list[tuple[str, bool, Access]]:
    """(path, tree, rights): the rules of one path together, because each costs the child a call."""
    merged: dict[tuple[str, bool], Access] = {}
    for rule in policy.files:
        place = (rule.path, rule.tree)
        merged[place] = merged.get(place, Access(0)) | _rights(rule.access) & handled
    return [(path, tree, rights) for (path, tree), rights in merged.items() if rights]
