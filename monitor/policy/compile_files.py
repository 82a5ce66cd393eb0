# SPDX-License-Identifier: Apache-2.0
"""From `files` and `exec` to what Landlock grants and what the view takes away again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache

from monitor.policy import origins
from monitor.policy.patterns import escape, is_within, join, pattern
from monitor.policy.plan import TERMINALS, FileAccess, FileRule, MaskKind, MaskRule, Policy
from monitor.profile import paths
from monitor.profile.model import (
    AskPathRule,
    ExecRule,
    ExecSection,
    FilesSection,
    PathRule,
    Profile,
)
from monitor.profile.variables import Variables, expand

Resolve = Callable[[str], str]

# What a mask takes away; where nothing grants that, there is nothing to take. NO_EXEC is read-only
# too, or the program could be put back under its name.
TAKEN = {
    MaskKind.HIDE: FileAccess.READ | FileAccess.WRITE | FileAccess.EXECUTE,
    MaskKind.READ_ONLY: FileAccess.WRITE,
    MaskKind.NO_EXEC: FileAccess.WRITE | FileAccess.EXECUTE,
}


def file_rules(profile: Profile, variables: Variables, resolve: Resolve) -> tuple[FileRule, ...]:
    """What `files.read`, `write` and `execute` of one profile grant, sorted by path."""
    section = profile.files or FilesSection()
    granted = (
        ("files.read", section.read, FileAccess.READ),
        ("files.write", section.write, FileAccess.WRITE),
        ("files.execute", section.execute, FileAccess.EXECUTE),
    )
    rules = []
    for key, listed, access in granted:
        for rule in listed:
            base, tree = paths.split(rule.path)
            path = resolve(_absolute(profile, key, rule, base, variables))
            origin = origins.make(profile, key, rule.path, rule.position)
            rules.append(FileRule(path, tree, access, origin))
    return tuple(sorted(rules, key=_file_order))


def mask_rules(profile: Profile, variables: Variables, resolve: Resolve) -> tuple[MaskRule, ...]:
    """What `files.deny`, `files.read_only` and `exec.deny` of one profile take away."""
    section = profile.files or FilesSection()
    masked: tuple[tuple[str, Sequence[PathRule | ExecRule], MaskKind], ...] = (
        ("files.deny", section.deny, MaskKind.HIDE),
        ("files.read_only", section.read_only, MaskKind.READ_ONLY),
        (
            "exec.deny",
            [rule for rule in (profile.exec or ExecSection()).deny if rule.whatever_arguments],
            MaskKind.NO_EXEC,
        ),
    )
    rules = []
    for key, listed, kind in masked:
        for rule in listed:
            text = pattern_of(profile, key, rule, variables, resolve)
            origin = origins.make(profile, key, rule.path, rule.position)
            rules.append(MaskRule(text, kind, origin))
    return tuple(sorted(rules, key=_mask_order))


def pattern_of(
    profile: Profile,
    key: str,
    rule: PathRule | AskPathRule | ExecRule,
    variables: Variables,
    resolve: Resolve,
) -> str:
    """The pattern of a rule that takes globs, absolute, the plain part of it resolved."""
    # A `*` in the name of a home folder is a character, not a pattern.
    literal = Variables(
        workspace=escape(variables.workspace),
        home=escape(variables.home),
        session=escape(variables.session),
        uid=variables.uid,
    )
    base, _ = paths.split(rule.path)
    return _resolved(_absolute(profile, key, rule, base, literal), resolve)


def _file_order(rule: FileRule) -> tuple[str, bool, int, str]:
    return rule.path, rule.tree, rule.access.value, rule.origin.text


def _mask_order(rule: MaskRule) -> tuple[str, str, str]:
    return rule.pattern, rule.kind.value, rule.origin.text


def needs_view(mask: MaskRule, policies: Collection[Sequence[FileRule]]) -> bool:
    """Whether the mask takes away something that the rules of every policy grant."""
    return all(any(_overlap(mask, rule) for rule in rules) for rules in policies)


def wants_view(policies: Sequence[Policy]) -> bool:
    """Whether any of the policies would be given a view if it were the only one.

    A view holds more than what it is made for: a further link must not make it go away.
    """
    return any(masks_in_view([policy]) or terminal_rules([policy]) for policy in policies)


def masks_in_view(policies: Sequence[Policy]) -> frozenset[MaskRule]:
    """The masks that something granted lies under: only a view can hold those."""
    return _masks_in_view(tuple(policies))


# A launch asks several times, and the next one of the same profile again: 4 ms each.
@lru_cache(64)
def _masks_in_view(policies: tuple[Policy, ...]) -> frozenset[MaskRule]:
    granted = [policy.files for policy in policies]
    return frozenset(
        mask for policy in policies for mask in policy.masks if needs_view(mask, granted)
    )


def terminal_rules(policies: Sequence[Policy]) -> list[FileRule]:
    """For each policy its first rule that names terminals; none where a policy has no such rule.

    The user's other terminals are among them: only a view can give the session its own.
    """
    found = [[rule for rule in policy.files if _names_terminals(rule)] for policy in policies]
    return [rules[0] for rules in found] if all(found) else []


def _names_terminals(rule: FileRule) -> bool:
    """Whether the rule lets terminals be used by their names, which are every user's."""
    if not rule.access & (FileAccess.READ | FileAccess.WRITE):
        return False
    return is_within(rule.path, TERMINALS) or (rule.tree and is_within(TERMINALS, rule.path))


def _absolute(
    profile: Profile,
    key: str,
    rule: PathRule | AskPathRule | ExecRule,
    base: str,
    variables: Variables,
) -> str:
    text = expand(base, variables, rule.position)
    if not text.startswith("/") or ".." in text.split("/"):
        origin = origins.make(profile, key, rule.path, rule.position)
        raise origins.error(origin, f"{text} is not an absolute path without '..'")
    return text


def _resolved(text: str, resolve: Resolve) -> str:
    """The pattern with the part of it that is a plain path resolved."""
    found = pattern(text)
    prefix = resolve(found.start)
    return join([*filter(None, escape(prefix).split("/")), *found.names[len(found.literal) :]])


def _overlap(mask: MaskRule, rule: FileRule) -> bool:
    if not rule.access & TAKEN[mask.kind]:
        return False
    found = pattern(mask.pattern)
    if found.covers(rule.path):
        return True
    if not rule.tree:
        return False
    return is_within(found.start, rule.path) or (
        not found.is_literal and is_within(rule.path, found.start)
    )


def granting(rules: Sequence[FileRule], path: str) -> Iterator[FileRule]:
    """The rules that grant anything on `path`."""
    for rule in rules:
        if rule.path == path or (rule.tree and is_within(path, rule.path)):
            yield rule
