# SPDX-License-Identifier: Apache-2.0
"""What this host can hold, in the terms of compiling and of the doctor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from monitor.kernel.features import Features
from monitor.policy.plan import HostFeatures

SECURITYFS_LSM = Path("/sys/kernel/security/lsm")


def host_features(features: Features) -> HostFeatures:
    """What compiling needs to know. BPF LSM stays out: this release has no programs for it."""
    return HostFeatures(
        landlock_abi=features.landlock_abi,
        unix_hooks=features.unix_hooks,
        view=features.user_namespaces,
        bpf_lsm=False,
    )


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What only the doctor tells. `lsms` is None where securityfs is not mounted."""

    kernel: str
    machine: str
    lsms: tuple[str, ...] | None


def host_facts() -> HostFacts:
    names = os.uname()
    try:
        lsms = tuple(SECURITYFS_LSM.read_text().strip().split(","))
    except OSError:
        lsms = None
    return HostFacts(f"{names.sysname} {names.release}", names.machine, lsms)
