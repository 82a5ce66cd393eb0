# SPDX-License-Identifier: Apache-2.0
"""What the gate knows of a session: the rules of all its links, and their ids in the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from monitor.policy import plan_json
from monitor.policy.plan import Plan, Policy


@dataclass(frozen=True, slots=True)
class Facts:
    """`plan` holds the links of the sessions above first, and so do `numbers` and `labels`.

    `cgroup` as /proc/PID/cgroup names it, `cgroup_id` as the kernel does. `numbers` are the
    kernel's ids of the policies, `labels` those of all labels of all policies.
    """

    session: str
    outermost: str
    cgroup: str
    cgroup_id: int
    numbers: tuple[int, ...]
    labels: tuple[int, ...]
    plan: Plan = field(compare=False)

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self.plan.policies

    def to_message(self) -> dict[str, Any]:
        """What stands beside the plan, which goes in a descriptor of its own."""
        names = ("session", "outermost", "cgroup", "cgroup_id", "numbers", "labels")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_message(cls, message: dict[str, Any], plan: int) -> Facts:
        """The reverse; `plan` is the descriptor. Trusts what it reads."""
        text = os.pread(plan, os.fstat(plan).st_size, 0).decode("ascii")
        return cls(
            message["session"],
            message["outermost"],
            message["cgroup"],
            message["cgroup_id"],
            tuple(message["numbers"]),
            tuple(message["labels"]),
            plan_json.from_json(text),
        )


def plan_file(plan: Plan) -> int:
    """A descriptor with the plan's text; the caller closes it."""
    descriptor = os.memfd_create("ri-plan", os.MFD_CLOEXEC)
    os.write(descriptor, plan_json.to_json(plan).encode("ascii"))
    return descriptor
