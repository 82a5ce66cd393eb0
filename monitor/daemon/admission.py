# SPDX-License-Identifier: Apache-2.0
"""Who may start which session: rights, profile, plan. Decides and reads files; changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import paths
from monitor.daemon.config import Config
from monitor.daemon.context import LaunchRequest, Refused
from monitor.identity import chain as chains
from monitor.identity import delegations as rights
from monitor.identity.chain import Chain, Link, Principal
from monitor.identity.delegations import Delegations, DelegationsError, NotAuthorized, Permission
from monitor.kernel import cgroup
from monitor.kernel.peer import Peer
from monitor.policy.plan import HostFeatures, Plan

if TYPE_CHECKING:  # pydantic is not needed until the first session
    from monitor.profile.errors import ProfileError
    from monitor.profile.model import Profile

MAX_PURPOSE = 1024


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a session will be. `user` is whom CMD runs as; `chain` names on whose behalf."""

    agent: str
    chain: Chain
    user: pwd.struct_passwd
    profile: str
    digest: str
    plan: Plan
    expires: float | None
    workspace: str


class Admission:
    """Judges requests by the delegations and profiles in force when they come."""

    def __init__(self, config: Config, host: HostFeatures) -> None:
        self.config = config
        self.host = host
        self.problem = ""  # why the delegations cannot be used: nobody may start anything then
        self._delegations: Delegations | None = None
        self._stamp: tuple[int, ...] | None = None

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

    def judge(self, caller: Peer, request: LaunchRequest, session: str) -> Admitted:
        """What the session with the id `session` will be; Refused says what is missing."""
        self._outside(caller)
        account = _account(caller.uid)
        user = account if request.user is None else _named(request.user)
        permission = self._authorize(caller, account, user, request)
        try:
            agent = chains.agent_id(self.config.trust_domain, request.agent)
        except ValueError as error:
            raise Refused(str(error)) from error
        if len(request.purpose) > MAX_PURPOSE:
            raise Refused(f"the purpose is longer than {MAX_PURPOSE} characters")
        ttl = _least(permission.ttl, request.ttl)
        profile, digest, plan = self._plan(permission, request, session, user, ttl)
        if plan.run_as_root and caller.uid != 0:
            raise Refused(f"profile {profile} runs as root: only root can start it")
        if user.pw_uid == 0 and not plan.run_as_root:
            raise Refused(
                f"CMD would run as root, and profile {profile} does not say `run_as: root`",
                "name the user it is to run as: --user NAME",
            )
        ttl = _least(plan.limits.ttl, ttl)
        expires = None if ttl is None else time.time() + ttl
        principal = Principal(account.pw_name, caller.uid)
        link = Link(f"user:{account.pw_name}", agent, profile, digest, request.purpose, expires)
        return Admitted(
            agent, Chain(principal, (link,)), user, profile, digest, plan, expires, plan.workspace
        )

    def _outside(self, caller: Peer) -> None:
        """A session must not get another one beside it, with rules that are not its own."""
        try:
            inside = cgroup.holds(self.config.instance, caller.pid)
        except OSError as error:
            raise Refused(f"process {caller.pid}, which asked, is gone") from error
        if inside:
            raise Refused("a process of a session cannot start another session")

    def _authorize(
        self,
        caller: Peer,
        account: pwd.struct_passwd,
        user: pwd.struct_passwd,
        request: LaunchRequest,
    ) -> Permission:
        self.reload()
        if self.problem or self._delegations is None:
            raise Refused(
                "nobody may start a session: the delegations cannot be used",
                f"an administrator sees why in `rictl doctor` ({self.config.delegations})",
            )
        if caller.uid not in {user.pw_uid, 0}:
            raise Refused(f"only root can start a session as another user ({user.pw_name})")
        wanted = rights.Request(
            user=account.pw_name,
            uid=caller.uid,
            groups=_groups(caller),
            # For a file, its name: root needs some profile too.
            profile=request.profile if request.profile_text is None else request.profile_source,
            profile_file=request.profile_text is not None,
            agent=request.agent,
            observe=request.observe,
            ttl=request.ttl,
            run_as=user.pw_name,
        )
        try:
            return self._delegations.authorize(wanted)
        except NotAuthorized as error:
            raise Refused(str(error)) from error

    def _plan(
        self,
        permission: Permission,
        request: LaunchRequest,
        session: str,
        user: pwd.struct_passwd,
        ttl: int | None,
    ) -> tuple[str, str, Plan]:
        """(profile's name, digest of all profiles it stands on, plan)."""
        from monitor.policy.compile import CompileError, Context, compile_plan
        from monitor.profile import resolve
        from monitor.profile.catalog import Catalog
        from monitor.profile.errors import ProfileError
        from monitor.profile.load import parse

        catalog = Catalog(self.config.profiles)
        try:
            profile: Profile
            if request.profile_text is not None:
                profile = parse(request.profile_text, request.profile_source or "profile")
            else:
                profile = catalog.load(permission.profile)
            profiles = resolve.resolve(profile, catalog.load)
            context = Context(
                workspace=paths.resolve(request.workspace),
                home=paths.resolve(user.pw_dir),
                session=session,
                uid=user.pw_uid,
                ttl=ttl,
                observe=request.observe,
                resolve=paths.resolve,
            )
            plan = compile_plan(profiles, context, self.host)
            return profile.name, resolve.digest(profiles), plan
        except ProfileError as error:
            raise Refused(*_profile_refused(error, request)) from error
        except (CompileError, ValueError, OSError) as error:
            raise Refused(f"the profile cannot be held here: {_line(error)}") from error


def _profile_refused(error: ProfileError, request: LaunchRequest) -> tuple[str, str]:
    more = len(error.problems) - 1
    reason = f"the profile cannot be used: {error.problems[0]}" + (f" (+{more})" if more else "")
    checked = request.profile_source if request.profile_text is not None else "FILE"
    return reason, f"all problems: rictl profile check {checked}"


def _line(error: BaseException) -> str:
    return "; ".join(str(error).splitlines())


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is edited or replaced; None: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _account(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise Refused(f"user id {uid} has no name on this host") from None


def _named(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise Refused(f"no user {name!r} on this host") from None


def _groups(caller: Peer) -> tuple[str, ...]:
    """Names of the groups that the kernel says the caller is in, as far as they have one."""
    names = []
    for gid in sorted(caller.gids):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return tuple(names)


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (proc_pid_stat(5), field 22); OSError."""
    text = os.fsdecode(Path(f"/proc/{pid}/stat").read_bytes())
    return int(text.rpartition(")")[2].split()[19])
