# SPDX-License-Identifier: Apache-2.0
"""Sessions inside sessions: who may have them, what they are, and how they get to the launcher."""

from __future__ import annotations

import math
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import accounts
from monitor.daemon.admission import Admitted, ends_at, require_purpose
from monitor.daemon.context import LaunchRequest, Refused
from monitor.daemon.paths import Resolver
from monitor.identity import chain as chains
from monitor.identity.chain import Chain, Link
from monitor.identity.grant import Grant
from monitor.policy import sub_agents
from monitor.policy.origins import CompileError
from monitor.policy.sub_agents import VIEW, Launcher
from monitor.session.session import Session, State

if TYPE_CHECKING:  # it imports this module where it is needed
    from monitor.daemon.admission import Admission
    from monitor.kernel.peer import Peer
    from monitor.profile.model import Profile

MAPS = Path("/proc/self/maps")
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("/usr/bin/ri-exec", "/usr/local/bin/ri-exec", str(ROOT / "monitor/launch/ri_exec.py"))
# The dynamic loader, which is executed with every program that it loads.
INTERPRETERS = ("/lib64/ld-linux-x86-64.so.2",)
LOADER_INDEX = "/etc/ld.so.cache"
LIBRARIES = ("/lib", "/usr/lib")
HINT = "`depth` in the delegations allows them, or that of a grant (rictl delegate --depth)"


@cache
def launcher(api: Path, socket: Path) -> Launcher:
    """What a session needs of this host to start another: the launcher and its Python."""
    resolve = Resolver()
    standard = sysconfig.get_path("stdlib")
    mapped = {line.split(maxsplit=5)[-1] for line in MAPS.read_text().splitlines()}
    libraries = [
        name
        for name in mapped
        if name.startswith(LIBRARIES) and ".so" in name and not name.startswith(standard)
    ]
    python = getattr(sys, "_base_executable", sys.executable)
    return Launcher(
        api=str(api),
        socket=resolve(str(socket)),
        programs=_there(resolve, (python, *INTERPRETERS, *COMMANDS)),
        files=_there(resolve, (LOADER_INDEX, *libraries)),
        devices=(os.devnull,),
        trees=_there(resolve, (str(ROOT), standard)),
    )


def _there(resolve: Resolver, names: Iterable[str]) -> tuple[str, ...]:
    """Those that exist, free of links, each once."""
    return tuple(dict.fromkeys(resolve(name) for name in sorted(names) if Path(name).exists()))


def judge(
    admission: Admission,
    caller: Peer,
    request: LaunchRequest,
    session: str,
    parent: Session,
    latest: float | None,
    grant: Grant | None,
    blocks: Sequence[str],
) -> Admitted:
    """What a session inside `parent` will be. Refused.

    `parent` is whole, the links above it first (registry.whole), and lasts until `latest` at most;
    `blocks` are the revocation ids of the grant that it runs under. `grant` holds here and now for
    the caller.
    """
    account = accounts.of(caller.uid)
    _may_have_one(parent, request)
    if caller.uid != parent.uid or request.user not in (None, account.pw_name):
        raise Refused("a sub-agent runs as the user of the session that it is started in")
    if request.observe:
        raise Refused("--observe is not to be had inside a session")
    if request.profile_text is not None:
        raise Refused(
            "a sub-agent's profile cannot be a file of its own",
            "name one of this host's: rictl profile list",
        )
    until = math.inf if latest is None else latest
    if grant is None:
        name = request.profile or parent.profile
        profiles = admission.named(name)
        links = 1
    else:
        name, profiles, links = _of_grant(admission, grant, blocks, request)
        until = min(until, float(grant.expires))
    depth = _depth(parent, request, grant, links)
    digest, plan = admission.compiled(
        profiles,
        request,
        session,
        account,
        request.ttl,
        depth=depth,
        gated=sub_agents.is_gated(parent.plan),
    )
    if account.pw_uid == 0 and not plan.run_as_root:
        raise Refused(f"CMD would run as root, and profile {name} does not say `run_as: root`")
    try:
        plan = sub_agents.beneath(plan, parent.plan, _viewless(profiles))
    except CompileError as error:
        raise Refused(f"profile {name} cannot be held inside this session: {error}") from error
    expires = ends_at(plan, request.ttl, until)
    if grant is None:
        chain = _longer(admission, parent, request, name, digest, expires)
    else:
        chain = replace(grant.chain(), principal=parent.chain.principal)
    last = chain.links[-1]
    require_purpose(profiles, request.purpose or last.purpose)
    return Admitted(
        agent=last.delegate,
        chain=chain,
        user=account,
        profile=name,
        digest=digest,
        plan=plan,
        expires=expires,
        workspace=plan.workspace,
        purpose=request.purpose or last.purpose,
        grant=grant,
        depth=depth,
        parent=parent,
    )


def _may_have_one(parent: Session, request: LaunchRequest) -> None:
    if parent.state is not State.RUNNING:
        raise Refused(f"the session is {parent.state.value}: it starts no sub-agents")
    if parent.denied is not None:
        raise Refused(f"the session is denied everything ({parent.denied.value})")
    if parent.depth < 1:
        raise Refused("a process of this session cannot start another session", HINT)
    if request.depth is not None and request.depth >= parent.depth:
        raise Refused(
            f"--depth: a sub-agent of this session may have {parent.depth - 1} below it at most"
        )


def _depth(parent: Session, request: LaunchRequest, grant: Grant | None, links: int) -> int:
    """How many sub-agents may follow."""
    left = parent.depth - links
    if grant is not None:
        left = min(left, grant.depth)
    if left < 0:
        raise Refused(f"the grant goes {links} links on, and this session allows {parent.depth}")
    return left if request.depth is None else min(left, request.depth)


def _of_grant(
    admission: Admission, grant: Grant, blocks: Sequence[str], request: LaunchRequest
) -> tuple[str, tuple[Profile, ...], int]:
    """(profile, all that it adds, links): of a grant that was made of the session's own."""
    admission.within(grant, request)
    if not blocks or list(grant.revocation_ids[: len(blocks)]) != list(blocks):
        raise Refused(
            "inside a session only a grant that was made of the session's own gives another",
            "rictl delegate --from GRANT",
        )
    links = len(grant.steps) - len(blocks)
    if links < 1:
        raise Refused(
            "the grant is the one that this session runs under: a sub-agent needs one made of it",
            "rictl delegate --from GRANT",
        )
    added = replace(grant, steps=grant.steps[len(blocks) :])
    name, profiles = admission.granted(added if added.profiles else grant)
    return name, profiles, links


def _viewless(profiles: Iterable[Profile]) -> frozenset[str]:
    return frozenset(profile.name for profile in profiles if VIEW in profile.may_lack)


def _longer(
    admission: Admission,
    parent: Session,
    request: LaunchRequest,
    profile: str,
    digest: str,
    expires: float | None,
) -> Chain:
    try:
        agent = chains.agent_id(admission.config.trust_domain, request.agent)
    except ValueError as error:
        raise Refused(str(error)) from error
    purpose = request.purpose or parent.purpose
    link = Link(parent.agent, agent, profile, digest, purpose, expires)
    return Chain(parent.chain.principal, (*parent.chain.links, link))
