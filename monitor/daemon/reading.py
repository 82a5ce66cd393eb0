# SPDX-License-Identifier: Apache-2.0
"""Reads profiles anew for sessions that run: what each would go over to, and what is wrong.

Everything is read and compiled aside, in a thread; nothing here changes a session.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import paths
from monitor.daemon.config import Config
from monitor.daemon.plans import Plans
from monitor.policy import windows
from monitor.policy.changes import Difference
from monitor.policy.difference import difference
from monitor.policy.plan import HostFeatures
from monitor.policy.switch import CannotSwitch, InForce, in_force
from monitor.session.session import Session

if TYPE_CHECKING:  # pydantic is not needed until the first session
    from monitor.policy.sub_agents import Launcher
    from monitor.profile.catalog import Catalog
    from monitor.profile.model import Profile

# What changes when a folder's profiles do: name, inode, size and times of each.
Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One running session to look at. `profiles` are names, outermost first.

    `pinned`: it runs under a grant. `earned`: its labels, by the profile that they are of.
    """

    session: Session
    profiles: tuple[str, ...]
    pinned: bool
    earned: dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a changed profile makes of a session; `problem`: why it stays as it is."""

    asked: Asked
    digest: str
    difference: Difference = Difference()
    in_force: InForce | None = None
    problem: str = ""

    @property
    def session(self) -> Session:
        return self.asked.session


@dataclass(frozen=True, slots=True)
class Look:
    """`found`: sessions whose profile is another than the one that they run under.

    `problems` are of files, a line each that begins with FILE:LINE.
    """

    found: tuple[Found, ...] = ()
    problems: tuple[str, ...] = ()


class Reading:
    """For one host. Not for use from more than one thread at a time."""

    def __init__(self, config: Config, host: HostFeatures) -> None:
        self.config = config
        self.folders = config.profiles
        self._plans = Plans(host)

    def stamp(self) -> Stamp:
        """Equal as long as no profile was written, made or removed."""
        return tuple(entry for folder in self.folders for entry in sorted(_entries(folder)))

    def look(self, asked: Iterable[Asked], *, everything: bool) -> Look:
        """Read anew. `everything`: also files that none of these sessions stands on."""
        from monitor.profile.catalog import Catalog

        catalog = Catalog(self.folders)
        problems: dict[str, None] = {}
        if everything:
            for name in catalog.names():
                problems |= dict.fromkeys(_problems(catalog, name))
        found = []
        for each in asked:
            known = self._found(catalog, each)
            if known is None:
                continue
            found.append(known)
            if known.problem and known.in_force is None and not known.digest:
                problems |= dict.fromkeys(known.problem.splitlines())
        return Look(tuple(found), tuple(problems))

    def _found(self, catalog: Catalog, asked: Asked) -> Found | None:
        """None: it is what the session runs under."""
        from monitor.policy.compile import CompileError, Context
        from monitor.policy.sub_agents import is_gated
        from monitor.profile import resolve
        from monitor.profile.errors import ProfileError

        session, old = asked.session, asked.session.plan
        try:
            profiles = _conjunction(catalog, asked.profiles)
            digest = resolve.digest(profiles)
            if digest == session.digest:
                return None
            context = Context(
                workspace=old.workspace,
                home=old.home,
                session=session.id,
                uid=session.uid,
                ttl=old.limits.ttl,
                observe=old.observe,
                resolve=paths.Resolver(),
                launcher=self._launcher(session),
                gated=is_gated(old) or any(policy.exec for policy in old.policies),
            )
            new = self._plans.compile(profiles, digest, context)
            for window in itertools.chain.from_iterable(new.conditions.windows):
                windows.zone(window.zone)
        except (ProfileError, CompileError, ValueError, OSError) as error:
            return Found(asked, "", problem=str(error))
        changes = difference(old, new)
        try:
            view = old.view is not None and not old.observe
            goes_to = in_force(old, new, asked.earned, pinned=asked.pinned, view=view)
        except CannotSwitch as error:
            return Found(asked, digest, changes, problem=str(error))
        return Found(asked, digest, changes, goes_to)

    def _launcher(self, session: Session) -> Launcher | None:
        """How it gets to the launcher, where it may have sub-agents."""
        from monitor.daemon.nesting import launcher

        if not session.depth:
            return None
        return launcher(self.config.socket, self.config.launch_socket)


def _conjunction(catalog: Catalog, names: Sequence[str]) -> tuple[Profile, ...]:
    """All profiles that must allow, each once."""
    from monitor.profile import resolve

    found: dict[tuple[str, str], Profile] = {}
    for name in names:
        for profile in resolve.resolve(catalog.load(name), catalog.load):
            found.setdefault((profile.name, resolve.digest((profile,))), profile)
    return tuple(found.values())


def _problems(catalog: Catalog, name: str) -> Collection[str]:
    from monitor.profile import resolve
    from monitor.profile.errors import ProfileError

    try:
        resolve.resolve(catalog.load(name), catalog.load)
    except ProfileError as error:
        return str(error).splitlines()
    return ()


def _entries(folder: Path) -> Iterable[tuple[str, int, int, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".yaml"):
                    facts = entry.stat()
                    yield (
                        entry.path,
                        facts.st_ino,
                        facts.st_size,
                        facts.st_mtime_ns,
                        facts.st_ctime_ns,
                    )
    except OSError:
        # A folder that is not there holds none; a file that goes is seen the next time.
        return
