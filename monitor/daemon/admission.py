# SPDX-License-Identifier: Apache-2.0
"""Who may start which session: rights, profile, plan. Decides and reads files; changes nothing."""

from __future__ import annotations

import math
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import accounts, paths
from monitor.daemon.config import Config
from monitor.daemon.context import LaunchRequest, Refused
from monitor.daemon.plans import Plans
from monitor.identity import chain as chains
from monitor.identity import delegations as rights
from monitor.identity.chain import Chain, Link, Principal
from monitor.identity.delegations import Delegations, DelegationsError, NotAuthorized, Permission
from monitor.identity.grant import Grant
from monitor.identity.grant_error import ProfileChanged
from monitor.kernel.peer import Peer
from monitor.policy.plan import HostFeatures, Plan
from monitor.session.session import Session

if TYPE_CHECKING:  # pydantic is not needed until the first session
    from monitor.profile.errors import ProfileError
    from monitor.profile.model import Profile

MAX_PURPOSE = 1024


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a session will be. `user` is whom CMD runs as; `chain` names on whose behalf.

    `grant`: what it is started under, where that is no right of the caller's own. `depth`: how many
    sub-agents may follow one upon the other; `parent`: the session that it is started in.
    """

    agent: str
    chain: Chain
    user: pwd.struct_passwd
    profile: str
    digest: str
    plan: Plan
    expires: float | None
    workspace: str
    purpose: str
    grant: Grant | None = None
    depth: int = 0
    parent: Session | None = None


class Admission:
    """Judges requests by the delegations and profiles in force when they come."""

    def __init__(self, config: Config, host: HostFeatures) -> None:
        self.config = config
        self.host = host
        self.problem = ""  # why the delegations cannot be used: nobody may start anything then
        self._delegations: Delegations | None = None
        self._stamp: tuple[int, ...] | None = None
        self._plans = Plans(host)

    def reload(self) -> None:
        """Read the delegations again where the file is another than the one that was read."""
        stamp = _stamp(self.config.delegations)
        if stamp == self._stamp and self._delegations is not None:
            return
        self._stamp = stamp
        try:
            self._delegations = rights.load(self.config.delegations)
            self.problem = ""
        except DelegationsError as error:
            self.problem = str(error)

    def rights(self) -> Delegations:
        """The delegations in force; Refused where they cannot be used."""
        self.reload()
        if self.problem or self._delegations is None:
            raise Refused(
                "nobody may start a session: the delegations cannot be used",
                f"an administrator sees why in `rictl doctor` ({self.config.delegations})",
            )
        return self._delegations

    def digest(self, name: str) -> str:
        """The digest of a profile and all that it stands on. Refused."""
        from monitor.profile import resolve
        from monitor.profile.catalog import Catalog
        from monitor.profile.errors import ProfileError

        catalog = Catalog(self.config.profiles)
        try:
            return resolve.digest(resolve.resolve(catalog.load(name), catalog.load))
        except ProfileError as error:
            raise Refused(*_profile_refused(error, None)) from error

    def judge(
        self, caller: Peer, request: LaunchRequest, session: str, grant: Grant | None = None
    ) -> Admitted:
        """What the session with the id `session` will be; Refused says what is missing.

        `grant` holds here and now for the caller; None: the caller's own rights count.
        """
        account = accounts.of(caller.uid)
        user = account if request.user is None else accounts.named(request.user)
        if len(request.purpose) > MAX_PURPOSE:
            raise Refused(f"the purpose is longer than {MAX_PURPOSE} characters")
        if grant is None:
            permission = self._authorize(caller, account, user, request)
            ttl, until = least(permission.ttl, request.ttl), math.inf
            name, profiles = self._profiles(permission, request)
            depth = permission.depth
        else:
            self.within(grant, request)
            ttl, until = request.ttl, float(grant.expires)
            name, profiles = self.granted(grant)
            depth = grant.depth if request.depth is None else min(grant.depth, request.depth)
        # What an observed session does is refused by no rule; its sub-agents would be.
        depth = 0 if request.observe else depth
        digest, plan = self.compiled(profiles, request, session, user, ttl, depth=depth)
        if plan.run_as_root and caller.uid != 0:
            raise Refused(f"profile {name} runs as root: only root can start it")
        if user.pw_uid == 0 and not plan.run_as_root:
            raise Refused(
                f"CMD would run as root, and profile {name} does not say `run_as: root`",
                "name the user it is to run as: --user NAME",
            )
        expires = ends_at(plan, ttl, until)
        if grant is None:
            chain = self._chain(account, request, name, digest, expires)
        else:
            chain = grant.chain()
        last = chain.links[-1]
        require_purpose(profiles, request.purpose or last.purpose)
        return Admitted(
            agent=last.delegate,
            chain=chain,
            user=user,
            profile=name,
            digest=digest,
            plan=plan,
            expires=expires,
            workspace=plan.workspace,
            purpose=request.purpose or last.purpose,
            grant=grant,
            depth=depth,
        )

    def _chain(
        self,
        account: pwd.struct_passwd,
        request: LaunchRequest,
        profile: str,
        digest: str,
        expires: float | None,
    ) -> Chain:
        """The chain of one link that a right of the caller's own makes."""
        try:
            agent = chains.agent_id(self.config.trust_domain, request.agent)
        except ValueError as error:
            raise Refused(str(error)) from error
        principal = Principal(account.pw_name, account.pw_uid)
        link = Link(principal.id, agent, profile, digest, request.purpose, expires)
        return Chain(principal, (link,))

    def _authorize(
        self,
        caller: Peer,
        account: pwd.struct_passwd,
        user: pwd.struct_passwd,
        request: LaunchRequest,
    ) -> Permission:
        delegations = self.rights()
        if caller.uid not in {user.pw_uid, 0}:
            raise Refused(f"only root can start a session as another user ({user.pw_name})")
        wanted = rights.Request(
            user=account.pw_name,
            uid=caller.uid,
            groups=accounts.groups(caller.gids),
            # For a file, its name: root needs some profile too.
            profile=request.profile if request.profile_text is None else request.profile_source,
            profile_file=request.profile_text is not None,
            agent=request.agent,
            observe=request.observe,
            ttl=request.ttl,
            run_as=user.pw_name,
            depth=request.depth,
        )
        try:
            return delegations.authorize(wanted)
        except NotAuthorized as error:
            raise Refused(str(error)) from error

    def _profiles(
        self, permission: Permission, request: LaunchRequest
    ) -> tuple[str, tuple[Profile, ...]]:
        """The name of the profile that is asked for, and all profiles that it stands on."""
        from monitor.profile import resolve
        from monitor.profile.catalog import Catalog
        from monitor.profile.errors import ProfileError
        from monitor.profile.load import parse

        catalog = Catalog(self.config.profiles)
        try:
            if request.profile_text is not None:
                profile = parse(request.profile_text, request.profile_source or "profile")
            else:
                profile = catalog.load(permission.profile)
            return profile.name, resolve.resolve(profile, catalog.load)
        except ProfileError as error:
            raise Refused(*_profile_refused(error, request)) from error

    def named(self, name: str) -> tuple[Profile, ...]:
        """A profile of this host by its name, and all that it stands on. Refused."""
        from monitor.profile import resolve
        from monitor.profile.catalog import Catalog
        from monitor.profile.errors import ProfileError

        catalog = Catalog(self.config.profiles)
        try:
            return resolve.resolve(catalog.load(name), catalog.load)
        except ProfileError as error:
            raise Refused(*_profile_refused(error, None)) from error

    def granted(self, grant: Grant) -> tuple[str, tuple[Profile, ...]]:
        """The name of the last profile along a grant, and all that must allow an action."""
        from monitor.profile import resolve
        from monitor.profile.catalog import Catalog
        from monitor.profile.errors import ProfileError

        catalog = Catalog(self.config.profiles)
        found: dict[tuple[str, str], Profile] = {}
        for name, digest in grant.profiles:
            try:
                profiles = resolve.resolve(catalog.load(name), catalog.load)
            except ProfileError as error:
                raise Refused(*_profile_refused(error, None)) from error
            if resolve.digest(profiles) != digest:
                changed = ProfileChanged(
                    f"profile {name} is not the one that was delegated under this name"
                )
                raise Refused(str(changed), "make the grant again, with the profile as it is now")
            # One that stands in the conjunction already would add nothing.
            for profile in profiles:
                found.setdefault((profile.name, resolve.digest((profile,))), profile)
        if len(found) > resolve.MOST_LINKS:
            raise Refused(
                f"{len(found)} profiles stand along the grant; the kernel holds"
                f" {resolve.MOST_LINKS}"
            )
        return grant.profiles[-1][0], tuple(found.values())

    def within(self, grant: Grant, request: LaunchRequest) -> None:
        """A grant says itself what runs under it. Refused."""
        if request.observe:
            raise Refused("a grant gives no session without enforcement (--observe)")
        domain, _, name = grant.agent.removeprefix("spiffe://").partition("/agent/")
        if request.agent not in {"", name}:
            raise Refused(f"the grant is for the agent {name} of {domain}, not for {request.agent}")

    def compiled(
        self,
        profiles: tuple[Profile, ...],
        request: LaunchRequest,
        session: str,
        user: pwd.struct_passwd,
        ttl: int | None,
        *,
        depth: int,
        gated: bool = False,
    ) -> tuple[str, Plan]:
        """(digest of all profiles, plan). Refused.

        `gated`: program starts wait for the gate; those of a session that may have sub-agents do.
        """
        from monitor.daemon.nesting import launcher
        from monitor.policy.compile import CompileError, Context
        from monitor.profile import resolve
        from monitor.profile.errors import ProfileError

        resolver = paths.Resolver()
        try:
            context = Context(
                workspace=resolver(request.workspace),
                home=resolver(user.pw_dir),
                session=session,
                uid=user.pw_uid,
                ttl=ttl,
                observe=request.observe,
                resolve=resolver,
                launcher=launcher(self.config.socket, self.config.launch_socket) if depth else None,
                gated=gated or depth > 0,
            )
            digest = resolve.digest(profiles)
            return digest, self._plans.compile(profiles, digest, context)
        except ProfileError as error:
            raise Refused(*_profile_refused(error, request)) from error
        except (CompileError, ValueError, OSError) as error:
            raise Refused(f"the profile cannot be held here: {_line(error)}") from error


def require_purpose(profiles: tuple[Profile, ...], purpose: str) -> None:
    """Refused where a profile wants to know what a session is for, and nobody says it."""
    for profile in profiles:
        if profile.conditions and profile.conditions.purpose and not purpose.strip():
            raise Refused(
                f"profile {profile.name} requires a purpose", "say what it is for: --purpose TEXT"
            )


def _profile_refused(error: ProfileError, request: LaunchRequest | None) -> tuple[str, str]:
    more = len(error.problems) - 1
    reason = f"the profile cannot be used: {error.problems[0]}" + (f" (+{more})" if more else "")
    own = request is not None and request.profile_text is not None
    checked = request.profile_source if request is not None and own else "FILE"
    return reason, f"all problems: rictl profile check {checked}"


def _line(error: BaseException) -> str:
    return "; ".join(str(error).splitlines())


def ends_at(plan: Plan, ttl: int | None, until: float) -> float | None:
    """When a session that starts now ends (Unix seconds; None: never).

    `ttl` is what is asked for or allowed, besides the plan's own; `until` is inf for no end.
    """
    seconds = least(plan.limits.ttl, ttl)
    ends = min(until, math.inf if seconds is None else time.time() + seconds)
    return None if ends == math.inf else ends


def least(*values: int | None) -> int | None:
    """The strictest of what is limited."""
    return min((value for value in values if value is not None), default=None)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is edited or replaced; None: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (proc_pid_stat(5), field 22); OSError."""
    text = os.fsdecode(Path(f"/proc/{pid}/stat").read_bytes())
    return int(text.rpartition(")")[2].split()[19])
