# SPDX-License-Identifier: Apache-2.0
"""A grant as JSON: for records, the API and `rictl grant show --json`."""

from __future__ import annotations

from typing import Any

from monitor.identity.grant import Grant
from monitor.identity.grant_block import Step


def to_json(grant: Grant) -> dict[str, Any]:
    """What a grant says; times in Unix seconds, outermost link first."""
    origin = grant.origin
    return {
        "id": origin.id,
        "principal": origin.principal.id,
        "bearer": origin.bearer.id,
        "hosts": list(origin.hosts),
        "host_groups": list(origin.host_groups),
        "key": f"ed25519/{grant.key}",
        "issued": origin.issued,
        "expires": grant.expires,
        "depth": grant.depth,
        "links": [
            _link(step, identity)
            for step, identity in zip(grant.steps, grant.revocation_ids, strict=True)
        ],
    }


def _link(step: Step, identity: str) -> dict[str, Any]:
    return {
        "agent": step.agent,
        "profile": step.profile,
        "digest": step.digest,
        "purpose": step.purpose,
        "expires": step.expires,
        "depth": step.depth,
        "uses": step.uses,
        "checks": list(step.checks),
        "revocation_id": identity,
    }
