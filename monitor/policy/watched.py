# SPDX-License-Identifier: Apache-2.0
"""Which opens of a plan wait for an answer, and which names that appear matter to it."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.policy.compile_files import masks_in_view
from monitor.policy.opens import OpenKind, OpenRule
from monitor.policy.plan import MaskKind, Plan


def open_rules(plan: Plan, first_link: int, labels: Sequence[int]) -> tuple[OpenRule, ...]:
    """The rules of a session's own policies; the first of them is link `first_link` of its chain.

    `labels` are the kernel's ids of all labels of all those policies, in their order.
    """
    if plan.observe:
        return ()
    rules: list[OpenRule] = []
    ids = iter(labels)
    held = masks_in_view(plan.policies)
    for link, policy in enumerate(plan.policies, first_link):
        rules += [
            OpenRule(OpenKind.ASK, ask.pattern, link, str(ask.origin), ask.why)
            for ask in policy.asks
        ]
        for label in policy.labels:
            number = next(ids)
            rules += [
                OpenRule(
                    OpenKind.LABEL, each, link, str(label.origin), label=number, name=label.name
                )
                for each in label.files
            ]
        rules += [
            OpenRule(OpenKind.DENY, mask.pattern, link, str(mask.origin))
            for mask in policy.masks
            if mask in held and mask.kind is MaskKind.HIDE
        ]
    return tuple(rules)


def watched_masks(plan: Plan) -> tuple[tuple[str, MaskKind], ...]:
    """The masks that may match names which appear after launch, as (pattern, kind)."""
    if plan.observe:
        return ()
    held = masks_in_view(plan.policies)
    return tuple(
        dict.fromkeys(
            (mask.pattern, mask.kind)
            for policy in plan.policies
            for mask in policy.masks
            if mask in held
        )
    )


def watches(plan: Plan) -> bool:
    """Whether a session under this plan needs its opens watched."""
    return bool(watched_masks(plan)) or any(
        policy.asks or any(label.files for label in policy.labels)
        for policy in (() if plan.observe else plan.policies)
    )
