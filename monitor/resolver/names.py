# SPDX-License-Identifier: Apache-2.0
"""Host names: their one spelling, the rules that name them, and which rules match a name. Pure.

A name is kept in one spelling only: ASCII, lower case, labels of letters, digits and hyphens, no
dot at its end. A rule is `NAME:PORTS[/PROTOCOL]`, where NAME is exact, `*.NAME` (one label in
front) or `**.NAME` (one or more); `any` is every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from monitor.resolver.ports import Range, parse_ports, parse_protocol

LONGEST_NAME = 253  # RFC 1035 section 2.3.4: 255 bytes on the wire
LONGEST_LABEL = 63

_FORM = "NAME:PORTS[/PROTOCOL]"
_RULE = re.compile(r"([^:/\[\]]*):([^:/]*)(?:/([^:/]*))?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# RFC 2782: `_imaps._tcp` in front of a host name.
_SERVICE = re.compile(r"_[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?", re.ASCII)
_DIGITS = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


class Depth(Enum):
    """Which names a rule means, of those that end with its own."""

    EXACT = "exact"
    ONE = "*"  # one label in front of it
    BELOW = "**"  # any number of labels in front of it, at least one
    ANY = "any"  # every name there is


@dataclass(frozen=True, slots=True)
class NameRule:
    """Names that one rule of one link lets be looked up, and the ports it allows there.

    `name` is canonical, without the wildcard; empty for `any`. `ports` are sorted and disjoint.
    `rule` indexes the link's Policy.rules. `private`: may have addresses that are not public.
    """

    name: str
    depth: Depth
    ports: tuple[Range, ...]
    protocol: int
    rule: int = -1
    private: bool = False

    def __str__(self) -> str:
        if self.depth in {Depth.EXACT, Depth.ANY}:
            return self.name or "any"
        return f"{self.depth.value}.{self.name}"

    def matches(self, name: str) -> bool:
        """Whether it means the canonical `name`."""
        if self.depth is Depth.EXACT:
            return name == self.name
        if self.depth is Depth.ANY:
            return not _is_service(name)
        end = f".{self.name}"
        if not name.endswith(end) or _is_service(name):
            return False
        return self.depth is Depth.BELOW or "." not in name[: -len(end)]

    def free(self, name: str) -> int:
        """How many bytes of a `name` that it means were the asking program's to choose."""
        if self.depth is Depth.EXACT:
            return 0
        return len(name) - len(self.name) - 1 if self.name else len(name)


def parse(text: str, rule: int = -1, private: bool = False) -> NameRule:
    """The rule that `text` is; ValueError says in one line what is wrong with it."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(f"a rule that names a host has the form {_FORM}")
    pattern, ports, protocol = match.groups()
    name, depth = _pattern(pattern)
    return NameRule(name, depth, parse_ports(ports), parse_protocol(protocol), rule, private)


def _pattern(text: str) -> tuple[str, Depth]:
    if text == "any":
        return "", Depth.ANY
    if text in {"*", "**", "*.", "**.", "."}:
        raise ValueError("every name is written `any`")
    for depth in (Depth.BELOW, Depth.ONE):
        front = f"{depth.value}."
        if text.startswith(front):
            name = canonical(text[len(front) :])
            if _is_service(name):
                raise ValueError(f"a service name such as {name} takes no wildcard")
            return name, depth
    return canonical(text), Depth.EXACT


def canonical(text: str) -> str:
    """The one spelling of the host name `text`; ValueError says what is wrong with it."""
    if not text:
        raise ValueError("the name is missing")
    if "*" in text:
        raise ValueError(f"{text!a}: `*.` or `**.` stands at the beginning of a name only")
    name = text[:-1] if text.endswith(".") else text
    name = name.lower() if name.isascii() else _idna(name)
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name is longer than {LONGEST_NAME} bytes: {text[:60]!a}...")
    found = _checked(name.split("."))
    if found is None:
        raise ValueError(
            f"{text!a} is not a host name: labels of letters, digits and hyphens with dots between"
        )
    for label in found.split("."):
        _check_ascii_form(label, text)
    return found


def from_labels(labels: Sequence[bytes]) -> str | None:
    """The one spelling of a name from the wire; None where it is no host name."""
    try:
        spelled = [label.decode("ascii").lower() for label in labels]
    except UnicodeDecodeError:
        return None
    name = _checked(spelled)
    return name if name is not None and len(name) <= LONGEST_NAME else None


def to_labels(name: str) -> tuple[bytes, ...]:
    return tuple(label.encode("ascii") for label in name.split("."))


def shown(labels: Iterable[bytes]) -> str:
    """A name as asked, whatever its bytes are, in printable ASCII (RFC 4343 section 2.1)."""
    return ".".join(
        "".join(
            chr(byte) if 0x20 < byte < 0x7F and byte not in b".\\" else f"\\{byte:03d}"
            for byte in label
        )
        for label in labels
    )


def _checked(labels: Sequence[str]) -> str | None:
    """The name of these labels where each may stand where it does, else None."""
    front = True  # service labels stand before all others
    for label in labels:
        if front and _SERVICE.fullmatch(label):
            continue
        front = False
        if not _LABEL.fullmatch(label):
            return None
    # All service labels, or what inet_aton(3) would take for an address.
    if front or _DIGITS.fullmatch(labels[-1]):
        return None
    return ".".join(labels)


def _is_service(name: str) -> bool:
    """Service names are listed one by one: a wildcard does not mean them."""
    return name.startswith("_")


def _idna(text: str) -> str:
    import idna  # here: processes of the bare interpreter hold plans too

    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"{text!a} is not a host name: {error}") from None


def _check_ascii_form(label: str, text: str) -> None:
    """`xn--` stands before what IDNA wrote, or two spellings would be one name to a reader."""
    if not label.startswith("xn--"):
        return
    import idna

    try:
        idna.ulabel(label)
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"{text!a} is not a host name: {label}: {error}") from None
