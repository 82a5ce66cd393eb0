# SPDX-License-Identifier: Apache-2.0
"""The launch protocol: messages between ri-exec and the daemon, on a SOCK_SEQPACKET connection.

A message is a kind and fields, each ended by NUL: `kind\\0name=value\\0name=value\\0`. Values are
bytes without NUL, so that every path, argument and environment name passes unchanged; a name may
be repeated, and order is kept. Unknown kinds and names are errors on both sides.

    ri-exec                                   daemon
    request                              →
                                         ←    session, with two descriptors: seccomp filter, layers
    child         (sent by the child)    →
    unshared      (only with a view)     →
                                         ←    viewed
    confined                             →
                                         ←    go
                                         ←    notice, any number, as long as CMD runs
    renew         (of a lease, again and again) →

The descriptor of the filter's listener comes with `confined`, where `listen` of `session` asks for
one. The daemon moves the child into the session's cgroup while it confines itself. `refused` may
stand in place of any answer; the daemon closes the connection after it. The kernel tells the
daemon who sent each message (SCM_CREDENTIALS).

No module of monitor.launch imports what the launcher can do without, `__future__` included: each
import is paid at every launch.
"""

MAXIMUM = 65536  # bytes of a message
DESCRIPTORS = 2  # that come with `session`

REQUEST = "request"
SESSION = "session"
REFUSED = "refused"
CHILD = "child"
UNSHARED = "unshared"
VIEWED = "viewed"
CONFINED = "confined"
GO = "go"
NOTICE = "notice"
RENEW = "renew"
# Not a message: the document in the second descriptor of `session`, of any length.
LAYERS = "layers"

# `view` of `session`: none, in a user namespace of its own, or made by root without one.
VIEW_NONE, VIEW_USER, VIEW_ROOT = b"none", b"user", b"root"

NAMES: dict[str, frozenset[str]] = {
    REQUEST: frozenset(
        (
            # A name, or a file that the launcher read: `profile_source` is its absolute path.
            "profile",
            "profile_text",
            "profile_source",
            "grant",  # the text of one, in place of a profile
            "agent",
            "ttl",
            "lease",
            "depth",
            "purpose",
            "workspace",
            "cwd",
            "observe",
            "user",
            "environ",  # repeated: a name of an environment variable, without its value
            "argv0",
        )
    ),
    SESSION: frozenset(
        (
            "id",
            "view",
            "seconds",  # how long the child waits for an answer
            "keep",  # repeated: a name of an environment variable
            "set",  # repeated: NAME=VALUE
            "listen",  # the filter is to have a listener
            "files",  # RLIMIT_NOFILE
            # Only for a launcher that root started.
            "uid",
            "gid",
            "group",  # repeated
        )
    ),
    REFUSED: frozenset(("reason", "hint")),
    CHILD: frozenset(),
    UNSHARED: frozenset(),
    VIEWED: frozenset(),
    CONFINED: frozenset(("layers", "rules", "absent")),
    GO: frozenset(),
    NOTICE: frozenset(("text",)),
    RENEW: frozenset(),
    # `layer=FILES SCOPES`: a ruleset that handles these rights (decimal masks of Landlock's);
    # then its rules: `tree=RIGHTS PATH`, `exact=RIGHTS PATH`; `terminal=RIGHTS` is for the
    # controlling terminal, where a standard descriptor is it.
    LAYERS: frozenset(("layer", "tree", "exact", "terminal")),
}


class ProtocolError(ValueError):
    """The bytes are no message of this protocol, or the message is not the one that is due."""


class Message:
    """A message that was received: its kind, and its fields in their order."""

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str, fields: list[tuple[str, bytes]]) -> None:
        self.kind = kind
        self.fields = fields

    def all(self, name: str) -> list[bytes]:
        return [value for each, value in self.fields if each == name]

    def get(self, name: str) -> bytes | None:
        """The one value of `name`, None where there is none; ProtocolError where it is repeated."""
        values = self.all(name)
        if len(values) > 1:
            raise ProtocolError(f"{self.kind}: {name} is repeated")
        return values[0] if values else None

    def one(self, name: str) -> bytes:
        """The one value of `name`; ProtocolError where it is missing or repeated."""
        value = self.get(name)
        if value is None:
            raise ProtocolError(f"{self.kind}: {name} is missing")
        return value

    def number(self, name: str) -> int:
        """The one value of `name` as a number."""
        return number(self.one(name), f"{self.kind}: {name}")

    def expect(self, kind: str) -> "Message":
        """This message, where it is of this kind; else ProtocolError."""
        if self.kind != kind:
            raise ProtocolError(f"`{self.kind}` came where `{kind}` is due")
        return self


def number(text: bytes, what: str) -> int:
    """A decimal number from 0 on, as the protocol writes it; ProtocolError names `what`."""
    if not text.isdigit() or len(text) > 20:
        raise ProtocolError(f"{what} is not a number")
    return int(text)


def encode(kind: str, *fields: tuple[str, bytes], maximum: int | None = MAXIMUM) -> bytes:
    """The bytes of a message; ProtocolError where it cannot be written or is too long."""
    parts = [kind.encode()]
    for name, value in fields:
        if name not in NAMES[kind]:
            raise ProtocolError(f"{kind} has no field {name}")
        if b"\0" in value:
            raise ProtocolError(f"{kind}: {name} holds a NUL byte")
        parts.append(name.encode() + b"=" + value)
    data = b"\0".join(parts) + b"\0"
    if maximum is not None and len(data) > maximum:
        raise ProtocolError(f"{kind} has {len(data)} bytes and may have {maximum}")
    return data


def decode(data: bytes, maximum: int | None = MAXIMUM) -> Message:
    """The message that `data` holds; ProtocolError says what is wrong with it."""
    if maximum is not None and len(data) > maximum:
        raise ProtocolError(f"a message of more than {maximum} bytes")
    if not data.endswith(b"\0"):
        raise ProtocolError("a message was cut short")
    first, *rest = data[:-1].split(b"\0")
    kind = first.decode("ascii", "replace")
    names = NAMES.get(kind)
    if names is None:
        raise ProtocolError(f"unknown message {kind[:40]!r}")
    fields = []
    for part in rest:
        label, separator, value = part.partition(b"=")
        name = label.decode("ascii", "replace")
        if not separator or name not in names:
            raise ProtocolError(f"{kind}: unknown field {name[:40]!r}")
        fields.append((name, value))
    return Message(kind, fields)
