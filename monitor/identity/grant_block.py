# SPDX-License-Identifier: Apache-2.0
"""One block of a grant: its facts as Datalog text, and back.

A Biscuit prints its blocks one statement a line, and strings without escapes. So only text of plain
characters stands in strings, a purpose stands as bytes, and a line is one of the known facts as a
whole or is refused. A line that begins as a check does is Biscuit's to evaluate; that no rule hides
behind it, and that it cannot keep the evaluation busy, is seen to here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from monitor.identity.chain import Principal, agent_id
from monitor.identity.grant_error import Malformed

LONGEST_PURPOSE = 1024
MOST_HOSTS = 8
# Of checks that others appended: a join of few predicates over few facts ends soon.
MOST_CHECKS = 8
LONGEST_CHECK = 256
MOST_PREDICATES = 4

ID = r"[0-9a-f]{32}"
USER = r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?"
HOST = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
AGENT = r"spiffe://[a-z0-9][a-z0-9.-]{0,254}/agent/[A-Za-z0-9._/-]{1,255}"
PROFILE = r"[a-z0-9][a-z0-9._-]{0,63}"
DIGEST = r"[0-9a-f]{32}"
_NUMBER = r"(0|[1-9][0-9]{0,5})"
_UID = r"(0|[1-9][0-9]{0,9})"
_DATE = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"

# Each fact's arguments, as they are printed. Of `host` and `host_group` there may be several.
FACTS = {
    "grant": rf'"({ID})"',
    "principal": rf'"({USER})", {_UID}',
    "bearer": rf'"({USER})", {_UID}',
    "issued": _DATE,
    "host": rf'"({HOST})"',
    "host_group": rf'"({HOST})"',
    "agent": rf'"({AGENT})"',
    "profile": rf'"({PROFILE})", "({DIGEST})"',
    "purpose": rf"hex:((?:[0-9a-f]{{2}}){{1,{4 * LONGEST_PURPOSE}}})",
    "expires": _DATE,
    "depth": _NUMBER,
    "uses": r"([1-9][0-9]{0,5})",
}
REPEATED = frozenset(("host", "host_group"))
ORIGIN_FACTS = frozenset(("grant", "principal", "bearer", "issued", "host", "host_group"))

_FACT = re.compile(r"([a-z_]+)\((.*)\);")
_CHECK = re.compile(r"(?:check if|check all|reject if) .+;")
_PATTERNS = {name: re.compile(arguments) for name, arguments in FACTS.items()}


@dataclass(frozen=True, slots=True)
class Origin:
    """What only the first block says.

    `bearer` may start sessions under the grant. `hosts`, `host_groups`: where; one of them is
    enough. `issued` is in Unix seconds.
    """

    id: str
    principal: Principal
    bearer: Principal
    issued: int
    hosts: tuple[str, ...] = ()
    host_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One link: the agent that authority passes to, and what is taken away on the way.

    None, "": nothing is said, so what the links before say holds. `profile` and `digest` go
    together. `expires` in Unix seconds; `depth`: how many links may follow; `uses`: sessions that
    may be started. `checks` are Datalog that Biscuit evaluates; other software may append them.
    """

    agent: str
    profile: str | None = None
    digest: str | None = None
    purpose: str = ""
    expires: int | None = None
    depth: int | None = None
    uses: int | None = None
    checks: tuple[str, ...] = ()


def write(step: Step, origin: Origin | None) -> str:
    """The block as Datalog; ValueError where something in it cannot be said."""
    facts: list[tuple[str, str]] = []
    if origin is not None:
        facts += [
            ("grant", f'"{origin.id}"'),
            ("principal", f'"{origin.principal.name}", {origin.principal.uid}'),
            ("bearer", f'"{origin.bearer.name}", {origin.bearer.uid}'),
            ("issued", _date(origin.issued)),
            *(("host", f'"{name}"') for name in origin.hosts),
            *(("host_group", f'"{name}"') for name in origin.host_groups),
        ]
    facts.append(("agent", f'"{step.agent}"'))
    if step.profile is not None:
        facts.append(("profile", f'"{step.profile}", "{step.digest}"'))
    if step.purpose:
        facts.append(("purpose", f"hex:{step.purpose.encode().hex()}"))
    checks = list(step.checks)
    if step.expires is not None:
        facts.append(("expires", _date(step.expires)))
        checks.append(_expiry_check(step.expires))
    facts += [
        (name, str(value))
        for name, value in (("depth", step.depth), ("uses", step.uses))
        if value is not None
    ]
    lines = [f"{name}({arguments});" for name, arguments in facts] + checks
    try:
        read("\n".join(lines), first=origin is not None)
    except Malformed as error:
        raise ValueError(str(error)) from error
    return "\n".join(lines)


def read(source: str, *, first: bool) -> tuple[Step, Origin | None]:
    """What a printed block says; `first`: it is the one that the host signed. Malformed."""
    found: dict[str, list[tuple[str, ...]]] = {}
    checks = []
    for line in source.split("\n"):
        if not line:
            continue
        if _CHECK.fullmatch(line):
            checks.append(_check(line))
        else:
            name, values = _fact(line)
            if name in ORIGIN_FACTS and not first:
                raise Malformed(f"a later block of the grant says {name}, which only the first may")
            if name in found and name not in REPEATED:
                raise Malformed(f"a block of the grant says {name} twice")
            found.setdefault(name, []).append(values)
    if len(checks) > MOST_CHECKS:
        raise Malformed(f"a block of the grant has more than {MOST_CHECKS} checks")
    step = _step(found, tuple(checks))
    if not first:
        return step, None
    for name in ("profile", "expires", "depth"):
        if name not in found:
            raise Malformed(f"the grant does not say {name}")
    return step, _origin(found)


def _fact(line: str) -> tuple[str, tuple[str, ...]]:
    match = _FACT.fullmatch(line)
    if match is None or match[1] not in _PATTERNS or "<-" in line:
        raise Malformed(f"the grant says what this release does not know: {line[:60]!r}")
    values = _PATTERNS[match[1]].fullmatch(match[2])
    if values is None:
        raise Malformed(f"the grant says {match[1]} in a form that is not known: {line[:60]!r}")
    return match[1], values.groups()


def _check(line: str) -> str:
    if len(line) > LONGEST_CHECK or line.count("(") > MOST_PREDICATES or "<-" in line:
        raise Malformed(
            f"a check of the grant is too long, of more than {MOST_PREDICATES} predicates,"
            f" or a rule: {line[:60]!r}"
        )
    return line


def _step(found: dict[str, list[tuple[str, ...]]], checks: tuple[str, ...]) -> Step:
    if "agent" not in found:
        raise Malformed("a block of the grant does not say agent")
    agent = found["agent"][0][0]
    domain, _, name = agent.removeprefix("spiffe://").partition("/agent/")
    try:
        agent_id(domain, name)
    except ValueError as error:
        raise Malformed(f"the grant names an agent that cannot be: {error}") from error
    expires = _seconds(found["expires"][0][0]) if "expires" in found else None
    own = None if expires is None else _expiry_check(expires)
    return Step(
        agent=agent,
        profile=found["profile"][0][0] if "profile" in found else None,
        digest=found["profile"][0][1] if "profile" in found else None,
        purpose=_purpose(found["purpose"][0][0]) if "purpose" in found else "",
        expires=expires,
        depth=int(found["depth"][0][0]) if "depth" in found else None,
        uses=int(found["uses"][0][0]) if "uses" in found else None,
        checks=tuple(check for check in checks if check != own),
    )


def _origin(found: dict[str, list[tuple[str, ...]]]) -> Origin:
    for name in ("grant", "principal", "bearer", "issued"):
        if name not in found:
            raise Malformed(f"the grant does not say {name}")
    hosts = tuple(values[0] for values in found.get("host", []))
    groups = tuple(values[0] for values in found.get("host_group", []))
    if not 1 <= len(hosts) + len(groups) <= MOST_HOSTS:
        raise Malformed(f"the grant says from 1 to {MOST_HOSTS} hosts and host groups")
    return Origin(
        id=found["grant"][0][0],
        principal=_person(found["principal"][0]),
        bearer=_person(found["bearer"][0]),
        issued=_seconds(found["issued"][0][0]),
        hosts=hosts,
        host_groups=groups,
    )


def _person(values: tuple[str, ...]) -> Principal:
    return Principal(values[0], int(values[1]))


def _purpose(digits: str) -> str:
    try:
        text = bytes.fromhex(digits).decode()
    except UnicodeDecodeError as error:
        raise Malformed("the purpose of the grant is not UTF-8") from error
    if len(text) > LONGEST_PURPOSE:
        raise Malformed(f"the purpose of the grant is longer than {LONGEST_PURPOSE} characters")
    return text


def _expiry_check(seconds: int) -> str:
    """The expiry once more, for whoever reads Biscuits and does not know our facts."""
    return f"check if time($time), $time < {_date(seconds)};"


def _date(seconds: int) -> str:
    if seconds < 0:
        raise ValueError("a grant cannot say a time before 1970")
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{seconds} s is no time that a grant can say") from error


def _seconds(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as error:
        raise Malformed(f"the grant says a time that there is not: {text}") from error
