# SPDX-License-Identifier: Apache-2.0
"""What a session inside another needs of the view that it shares with the one above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitor.policy import origins
from monitor.policy.action import Verdict
from monitor.policy.compile_files import TAKEN, granting, terminal_rules
from monitor.policy.origins import CompileError
from monitor.policy.patterns import is_within, pattern
from monitor.policy.plan import (
    TERMINALS,
    FileAccess,
    FileRule,
    MaskKind,
    MaskRule,
    Plan,
    Policy,
)

# The kernel's own files there are root's: no mode of them can be changed.
_KERNELS = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a name in a rule


@dataclass(frozen=True, slots=True)
class Unheld:
    """A rule of `profile` that the view does not hold; `mask` None: it grants terminals."""

    profile: str
    mask: MaskRule | None
    error: CompileError


def unheld(policies: Sequence[Policy], above: Plan, *, gated: bool) -> Iterator[Unheld]:
    """What the policies take away, or grant within bounds, that the view above does not hold."""
    everything = (*above.policies, *policies)
    granted = [each.files for each in everything]
    held = [mask for each in above.policies for mask in each.masks] if above.view else []
    for policy in policies:
        for mask in policy.masks:
            if not _takes(mask, granted) or any(_covers(each, mask) for each in held):
                continue
            if not _waits(mask, policy, granted, gated=gated):
                message = (
                    "takes away inside what is granted, and a session inside another shares its"
                    " view: the profile above has to take it away too, or this one to grant less"
                )
                yield Unheld(policy.profile, mask, origins.error(mask.origin, message))
    terminals = terminal_rules(everything)
    if terminals and not (above.view and above.view.own_terminals):
        policy, rule = policies[-1], terminals[-1]
        message = f"names the user's other terminals under {TERMINALS} too"
        yield Unheld(policy.profile, None, origins.error(rule.origin, message))


def _waits(
    mask: MaskRule, policy: Policy, granted: Sequence[Sequence[FileRule]], *, gated: bool
) -> bool:
    """Whether the gate holds it: opens of what may only be read, and starts of programs."""
    if mask.kind is MaskKind.HIDE:
        return not _takes(mask, granted, FileAccess.WRITE)
    return gated and any(
        rule.pattern == mask.pattern and rule.verdict is Verdict.DENY and rule.arguments is None
        for rule in policy.exec
        if mask.kind is MaskKind.NO_EXEC and rule.outside is None
    )


def _takes(
    mask: MaskRule, granted: Sequence[Sequence[FileRule]], access: FileAccess | None = None
) -> bool:
    """Whether the mask takes away what all grant: `access`, or anything.

    `needs_view` takes it for granted where a glob begins above a granted folder.
    """
    found = pattern(mask.pattern)
    taken = TAKEN[mask.kind] if access is None else access
    return all(
        any(
            rule.access & taken
            and (
                found.covers(rule.path)
                or (
                    rule.tree
                    and (is_within(found.start, rule.path) or found.reaches_into(rule.path))
                )
            )
            for rule in rules
        )
        for rules in granted
    )


def _covers(held: MaskRule, wanted: MaskRule) -> bool:
    """Whether the view takes away with `held` all that `wanted` means."""
    if TAKEN[wanted.kind] & ~TAKEN[held.kind]:
        return False
    if held.pattern == wanted.pattern:
        return True
    found = pattern(wanted.pattern)
    return bool(found.literal) and pattern(held.pattern).covers(found.start)


def writes_all(own: Sequence[Policy], above: Sequence[Policy]) -> bool:
    """Whether the policies let all be written that those above do."""
    return all(
        all(_writable(each, rule) for each in own)
        for policy in above
        for rule in policy.files
        if FileAccess.WRITE in rule.access
        and not _kernels(rule)
        and all(_writable(each, rule) for each in above)
    )


def _kernels(rule: FileRule) -> bool:
    return not is_within(rule.path, _SHARED_MEMORY) and any(
        is_within(rule.path, folder) for folder in _KERNELS
    )


def _writable(policy: Policy, wanted: FileRule) -> bool:
    """Whether the policy lets all be written that `wanted` means."""
    return any(
        FileAccess.WRITE in rule.access and (rule.tree or not wanted.tree)
        for rule in granting(policy.files, wanted.path)
    )
