# SPDX-License-Identifier: Apache-2.0
"""Who may see and control what over the API: administrators all, others their own sessions."""

from __future__ import annotations

import grp

from monitor.kernel.peer import Peer
from monitor.session.session import Session


class Forbidden(PermissionError):
    """The caller may not do this; the message names the right that is missing."""


class Access:
    """Judges callers by the credentials that the kernel reports, anew for each request."""

    def __init__(self, admin_group: str) -> None:
        self.admin_group = admin_group

    def administers(self, caller: Peer) -> bool:
        """Root, and members of the administrators' group, where the host has it."""
        if caller.uid == 0:
            return True
        try:
            return grp.getgrnam(self.admin_group).gr_gid in caller.gids
        except KeyError:
            return False

    def sees(self, caller: Peer, session: Session) -> bool:
        """Whether `session` runs on the caller's behalf, or the caller administers."""
        return session.chain.principal.uid == caller.uid or self.administers(caller)

    def require_admin(self, caller: Peer) -> None:
        if not self.administers(caller):
            raise Forbidden(f"only root and members of group {self.admin_group} may do this")
