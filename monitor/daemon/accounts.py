# SPDX-License-Identifier: Apache-2.0
"""Users and groups of this host, for whoever asks the daemon for something."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable

from monitor.daemon.context import Refused


def of(uid: int) -> pwd.struct_passwd:
    """The account of a user id; Refused where it has none."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise Refused(f"user id {uid} has no name on this host") from None


def called(uid: int) -> str:
    """How records name whoever has this user id, with or without an account."""
    try:
        return f"user:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def named(name: str) -> pwd.struct_passwd:
    """The account of a name; Refused where there is none."""
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise Refused(f"no user {name!r} on this host") from None


def gids(account: pwd.struct_passwd) -> list[int]:
    """The groups that a user is in by the host's database."""
    return os.getgrouplist(account.pw_name, account.pw_gid)


def groups(found: Iterable[int]) -> tuple[str, ...]:
    """Names of groups, as far as they have one."""
    names = []
    for gid in sorted(found):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return tuple(names)
