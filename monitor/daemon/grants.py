# SPDX-License-Identifier: Apache-2.0
"""Grants on this host: made for whom the delegations let make them, judged, counted, taken back."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from monitor.daemon import accounts
from monitor.daemon.admission import Admission
from monitor.daemon.config import Config
from monitor.daemon.context import LaunchRequest, Refused
from monitor.daemon.keys import Keys, KeysError
from monitor.identity import chain as chains
from monitor.identity import grant as tokens
from monitor.identity.chain import Principal
from monitor.identity.delegations import NotAuthorized
from monitor.identity.grant import Facts, Grant
from monitor.identity.grant_block import Origin, Step
from monitor.identity.grant_error import GrantError, Revoked, UsedUp, WrongBearer
from monitor.identity.grant_rights import GrantRequest
from monitor.kernel.peer import Peer
from monitor.session.ledger import Ledger, Spent

HINT = "rictl grant show FILE says what the grant gives, to whom and until when"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A grant that somebody asks for; nothing in it is trusted.

    `bearer` is a user's name, None: the principal; `host_group` None: for this host alone.
    """

    agent: str
    profile: str
    ttl: int | None = None
    purpose: str = ""
    depth: int = 0
    uses: int | None = None
    bearer: str | None = None
    host_group: str | None = None


class Grants:
    """Makes and judges grants by the delegations, profiles and keys in force at that moment."""

    def __init__(self, config: Config, ledger: Ledger, admission: Admission) -> None:
        self.config = config
        self.keys = Keys(config.keys)
        self.ledger = ledger
        self.admission = admission

    def make(self, caller: Peer, wanted: Wanted) -> str:
        """The text of a new grant on behalf of the caller. Refused."""
        account = accounts.of(caller.uid)
        bearer = account if wanted.bearer is None else accounts.named(wanted.bearer)
        try:
            ttl = self.admission.rights().authorize_grant(
                GrantRequest(
                    user=account.pw_name,
                    uid=caller.uid,
                    groups=accounts.groups(caller.gids),
                    profile=wanted.profile,
                    agent=wanted.agent,
                    ttl=wanted.ttl,
                    depth=wanted.depth,
                    bearer=bearer.pw_name,
                )
            )
        except NotAuthorized as error:
            raise Refused(str(error)) from error
        now = int(time.time())
        try:
            return tokens.sign(
                Origin(
                    id=secrets.token_hex(16),
                    principal=Principal(account.pw_name, account.pw_uid),
                    bearer=Principal(bearer.pw_name, bearer.pw_uid),
                    issued=now,
                    **self._places(wanted.host_group),
                ),
                Step(
                    agent=chains.agent_id(self.config.trust_domain, wanted.agent),
                    profile=wanted.profile,
                    digest=self.admission.digest(wanted.profile),
                    purpose=wanted.purpose,
                    expires=now + ttl,
                    depth=wanted.depth,
                    uses=wanted.uses,
                ),
                self.keys.private(),
            )
        except (ValueError, KeysError) as error:
            raise Refused(f"the grant cannot be made: {error}") from error

    def _places(self, host_group: str | None) -> dict[str, Any]:
        if host_group is None:
            return {"hosts": (self.config.host,)}
        if host_group not in self.config.host_groups:
            raise Refused(
                f"this host does not belong to the group {host_group}",
                "host_groups in its configuration names its groups",
            )
        return {"host_groups": (host_group,)}

    def admit(self, caller: Peer, request: LaunchRequest) -> Grant:
        """The grant that comes with a request for a session, where it holds. Refused."""
        account = accounts.of(caller.uid)
        bearer = account if request.user is None else accounts.named(request.user)
        if caller.uid not in {bearer.pw_uid, 0}:
            raise Refused(f"only root can start a session as another user ({bearer.pw_name})")
        try:
            return self.judge(request.grant or "", Principal(bearer.pw_name, bearer.pw_uid))
        except GrantError as error:
            raise Refused(str(error), HINT) from error

    def judge(self, text: str, bearer: Principal) -> Grant:
        """The grant, where `bearer` may start a session under it now. GrantError; Refused."""
        try:
            trusted = self.keys.trusted()
        except KeysError as error:
            raise Refused(f"no grant can be used here: {error}") from error
        facts = Facts(time.time(), self.config.host, self.config.host_groups, bearer)
        grant = tokens.verify(text, trusted, facts, self.ledger.revoked)
        self._principal(grant, own=not trusted[grant.key])
        for identity, most in grant.uses:
            if self.ledger.used(identity) >= most:
                raise _used_up(most)
        return grant

    def _principal(self, grant: Grant, *, own: bool) -> None:
        """Who delegated is the same here; and still may, where it was here."""
        principal = grant.origin.principal
        try:
            account = accounts.named(principal.name)
        except Refused:
            account = None
        if account is None or account.pw_uid != principal.uid:
            raise WrongBearer(
                f"the grant is from user {principal.name} (uid {principal.uid}),"
                " whom this host does not know"
            )
        if not own:
            return  # that host's rights are its own
        first = grant.steps[0]
        request = GrantRequest(
            user=principal.name,
            uid=principal.uid,
            groups=accounts.groups(accounts.gids(account)),
            profile=first.profile or "",
            agent=first.agent.partition("/agent/")[2],
            ttl=None,
            depth=0,
            bearer=grant.origin.bearer.name,
        )
        try:
            self.admission.rights().authorize_grant(request)
        except NotAuthorized as error:
            raise Revoked(f"the right behind the grant is gone: {error}") from error

    def use(self, grant: Grant, session: str) -> None:
        """Count the session on the grant. Refused; sqlite3.Error, and nothing is counted."""
        try:
            self.ledger.use(session, grant.revocation_ids, grant.uses, float(grant.expires))
        except Spent as error:
            raise Refused(str(_used_up(error.used)), HINT) from error


def said(text: str) -> dict[str, Any]:
    """What a grant that gave nothing says of itself, for the record of the refusal."""
    try:
        found = tokens.read(text)
    except GrantError:
        return {"grant": "unreadable"}
    return {
        "agent": found.agent,
        "profile": " > ".join(name for name, _digest in found.profiles),
        "grant": list(found.revocation_ids),
    }


def _used_up(most: int) -> UsedUp:
    times = "once" if most == 1 else f"{most} times"
    return UsedUp(f"the grant is used up: sessions may be started under it {times}")
