# SPDX-License-Identifier: Apache-2.0
"""What the helper is told to make: the part of a plan that the view needs, as JSON between two of
our own processes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from monitor.policy.plan import FileAccess, MaskKind, Plan, Policy, ViewPlan

DEFAULT_MASK_LIMIT = 4096


class ViewError(Exception):
    """The view cannot be made; the message names the step and the object."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the session runs as; `user_namespace` where an ordinary user started it."""

    uid: int
    gid: int
    user_namespace: bool


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """`rules`: each link's file rules as (path, may be written); `masks`: (pattern, kind)."""

    identity: Identity
    rules: tuple[tuple[tuple[str, bool], ...], ...]
    masks: tuple[tuple[str, MaskKind], ...]
    own_proc: bool
    hide_run: bool
    own_terminals: bool
    read_only_rest: bool
    sockets: tuple[str, ...]
    mask_limit: int
    hide_sockets: bool = False

    @classmethod
    def of(cls, plan: Plan, identity: Identity) -> ViewRequest:
        """ValueError where the plan asks for no view."""
        if plan.view is None:
            raise ValueError("the plan asks for no view")
        return cls(
            identity=identity,
            rules=tuple(_rules(policy) for policy in plan.policies),
            masks=tuple(
                dict.fromkeys(
                    (mask.pattern, mask.kind) for policy in plan.policies for mask in policy.masks
                )
            ),
            own_proc=plan.view.own_proc,
            hide_run=plan.view.hide_run,
            own_terminals=plan.view.own_terminals,
            read_only_rest=plan.view.read_only_rest,
            sockets=_sockets(plan, plan.view),
            mask_limit=plan.view.mask_limit,
            hide_sockets=plan.view.hide_sockets,
        )

    def to_json(self) -> bytes:
        fields = asdict(self) | {"masks": [(pattern, kind.value) for pattern, kind in self.masks]}
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ViewRequest:
        """The reverse of `to_json`; trusts what it reads."""
        fields = json.loads(text)
        return cls(
            identity=Identity(**fields["identity"]),
            rules=tuple(tuple((path, writes) for path, writes in link) for link in fields["rules"]),
            masks=tuple((pattern, MaskKind(kind)) for pattern, kind in fields["masks"]),
            own_proc=fields["own_proc"],
            hide_run=fields["hide_run"],
            own_terminals=fields["own_terminals"],
            read_only_rest=fields["read_only_rest"],
            sockets=tuple(fields["sockets"]),
            mask_limit=fields["mask_limit"],
            hide_sockets=fields["hide_sockets"],
        )


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a watcher is told; `rules` and `masks` as ViewRequest's.

    `opens` are the patterns on opens in the order that the memory's rows count them, each with
    whether it denies. `masking`: the session has a view in which names that appear are masked.
    """

    rules: tuple[tuple[tuple[str, bool], ...], ...]
    masks: tuple[tuple[str, MaskKind], ...]
    opens: tuple[tuple[str, bool], ...]
    masking: bool
    mask_limit: int

    @classmethod
    def of(
        cls,
        plan: Plan,
        masks: tuple[tuple[str, MaskKind], ...],
        opens: tuple[tuple[str, bool], ...],
        own_view: bool,
    ) -> WatchRequest:
        """What is to be watched for a session under `plan`; `own_view`: a view is its own."""
        return cls(
            rules=tuple(_rules(policy) for policy in plan.policies),
            masks=masks,
            opens=opens,
            masking=own_view and plan.view is not None,
            mask_limit=DEFAULT_MASK_LIMIT if plan.view is None else plan.view.mask_limit,
        )

    def to_json(self) -> bytes:
        fields = asdict(self) | {"masks": [(pattern, kind.value) for pattern, kind in self.masks]}
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, text: bytes) -> WatchRequest:
        """The reverse of `to_json`; trusts what it reads."""
        fields = json.loads(text)
        return cls(
            rules=tuple(tuple((path, writes) for path, writes in link) for link in fields["rules"]),
            masks=tuple((pattern, MaskKind(kind)) for pattern, kind in fields["masks"]),
            opens=tuple((pattern, denies) for pattern, denies in fields["opens"]),
            masking=fields["masking"],
            mask_limit=fields["mask_limit"],
        )


def _sockets(plan: Plan, view: ViewPlan) -> tuple[str, ...]:
    """The sockets that stay visible: those under /run, and what every link lists elsewhere."""
    listed = [{rule.path for rule in policy.unix} for policy in plan.policies]
    return tuple(sorted({*view.sockets, *set.intersection(*listed)}))


def _rules(policy: Policy) -> tuple[tuple[str, bool], ...]:
    """Each path of the policy once; several rules for it add up."""
    found: dict[str, bool] = {}
    for rule in policy.files:
        found[rule.path] = found.get(rule.path, False) or FileAccess.WRITE in rule.access
    return tuple(found.items())
