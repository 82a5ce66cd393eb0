# SPDX-License-Identifier: Apache-2.0
"""The Plan: everything a session is held to, frozen, in the terms of the mechanisms.

`compile.py` makes it from profiles, the chain and what the host can do. The kernel tables, the
launcher's steps and the reference `decide()` are all driven by this one object, so that they
cannot disagree. It is JSON-able (`to_json`/`from_json`), because a restarted worker reads it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag, auto

from monitor.policy.action import Origin, Verdict
from monitor.resolver.names import NameRule

# Where devpts is mounted: the terminals of everyone on the host, unless a view has its own.
TERMINALS = "/dev/pts"


class FileAccess(Flag):
    """What a file rule grants. WRITE includes create, remove, rename, truncate and ioctl."""

    READ = auto()
    WRITE = auto()
    EXECUTE = auto()


@dataclass(frozen=True, slots=True)
class FileRule:
    """Grants `access` on `path` (absolute, resolved); `tree` includes everything beneath."""

    path: str
    tree: bool
    access: FileAccess
    origin: Origin


class MaskKind(Enum):
    """How the view takes an object away inside a tree that is otherwise allowed."""

    HIDE = "hide"  # an empty, mode 000 file or directory over it
    READ_ONLY = "read-only"  # the object bound on itself, read-only
    NO_EXEC = "no-exec"  # the object bound on itself, read-only and noexec


@dataclass(frozen=True, slots=True)
class MaskRule:
    """A deny inside an allowed tree, held by the view for what exists at launch.

    `pattern` is absolute; `*`, `?`, `[..]` match within one name, `**` any depth; a pattern that
    names a directory covers what is beneath it.
    """

    pattern: str
    kind: MaskKind
    origin: Origin


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `first`..`last`, both included, of one IP protocol; `rule` indexes Policy.rules.

    `verdict` is ALLOW, DENY or ASK. `label` indexes Policy.labels: what connects or sends there
    takes that label on; -1: none.
    """

    protocol: int
    first: int
    last: int
    verdict: Verdict
    rule: int
    label: int = -1


@dataclass(frozen=True, slots=True)
class NetPrefix:
    """One address prefix and the whole verdict for addresses whose longest match it is.

    `network` is IPv6 CIDR text; IPv4 is written IPv4-mapped (`::ffff:10.0.0.0/104`). `ports` are
    disjoint and sorted: rules of covering prefixes are already folded in, deny beats allow.
    A port in no range is denied.
    """

    network: str
    ports: tuple[PortRange, ...]


@dataclass(frozen=True, slots=True)
class SocketRule:
    """socket(2) may be called with this family, type and protocol (-1: any protocol)."""

    family: int
    type: int
    protocol: int


@dataclass(frozen=True, slots=True)
class UnixRule:
    """Exact path or abstract name (`@name`) of a unix socket that may be connected to.

    `held`: the session may write where the name is, and so lead it elsewhere: the gate connects.
    """

    path: str
    rule: int
    held: bool = False


@dataclass(frozen=True, slots=True)
class FileAsk:
    """Opening what `pattern` names (as MaskRule's) is held until a person answers."""

    pattern: str
    why: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class ExecRule:
    """Program starts that are refused (DENY), asked about (ASK) or give a label (ALLOW).

    `pattern` (as MaskRule's) names the file that execve(2) is given, links followed; for a script
    that is the script. `arguments` are globs on the arguments behind the program's name, one each;
    `...` stands for any number of them; None: whatever they are. `outside`: only where an argument
    that is no option names a path that lies, links followed, outside of this folder. `content`: any
    file with the same content as one that `pattern` names at launch is meant as well.
    """

    pattern: str
    arguments: tuple[str, ...] | None
    outside: str | None
    content: bool
    verdict: Verdict
    why: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Label:
    """A mark that a session takes on by what it touches, and what it loses from then on.

    `files` are patterns (as MaskRule's): opening one of them earns it. `exec`: starting one of
    these does. Connections that do are marked in `Policy.connect` (PortRange.label). `policy`:
    one more policy, which must allow as well from then on, where the label narrows the network; it
    has no labels of its own. `rules`: further rules on program starts. `ask`: every connection and
    every program start that is allowed is asked about.
    """

    name: str
    files: tuple[str, ...]
    exec: tuple[ExecRule, ...]
    policy: Policy | None
    rules: tuple[ExecRule, ...]
    ask: bool
    origin: Origin


@dataclass(frozen=True, slots=True)
class Budgets:
    """How much of something a session may do; None: not limited. `egress` in bytes, in all.

    `destinations` are different addresses, in all; the others count within a minute.
    """

    connects: int | None = None
    destinations: int | None = None
    egress: int | None = None
    execs: int | None = None
    deletes: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One link's rules in the form the mechanisms take. Every policy of a plan must allow.

    `connect` and `bind` are the tables of the cgroup programs; `rules` gives each its origin.
    `names` may be looked up, and connected to at the addresses that they are answered with.
    `expose`: at which own addresses other hosts may reach what `bind` allows.
    """

    profile: str
    digest: str
    files: tuple[FileRule, ...]
    masks: tuple[MaskRule, ...]
    connect: tuple[NetPrefix, ...]
    bind: tuple[NetPrefix, ...]
    unix: tuple[UnixRule, ...]
    sockets: tuple[SocketRule, ...]
    rules: tuple[Origin, ...]
    asks: tuple[FileAsk, ...] = ()
    exec: tuple[ExecRule, ...] = ()
    labels: tuple[Label, ...] = ()
    budgets: Budgets = Budgets()
    names: tuple[NameRule, ...] = ()
    expose: tuple[NetPrefix, ...] = ()


class SyscallVerdict(Enum):
    """What the seccomp filter answers; ENOSYS tells a program to fall back."""

    EPERM = "EPERM"
    ENOSYS = "ENOSYS"
    EAFNOSUPPORT = "EAFNOSUPPORT"
    KILL = "kill"


class Compare(Enum):
    """Comparison of one register argument with a value (libseccomp's SCMP_CMP_*)."""

    EQUAL = "eq"
    NOT_EQUAL = "ne"
    MASKED_EQUAL = "masked"  # argument & mask == value
    GREATER_EQUAL = "ge"


@dataclass(frozen=True, slots=True)
class ArgumentTest:
    """Argument `index` (0-5) compared as 64 bits with `value` (after `mask` where masked)."""

    index: int
    compare: Compare
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class SyscallRule:
    """The call with x86_64 `number` is refused when every one of `tests` holds (none: always).

    `origin` is None for the floor's own rules; a profile's `syscalls.deny` has one.
    """

    name: str
    number: int
    verdict: SyscallVerdict
    why: str
    tests: tuple[ArgumentTest, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class SyscallPlan:
    """The floor's filter: default allow below `first_unknown`, ENOSYS from there on.

    `notified` are numbers of calls that wait for the gate's answer; a rule that refuses them
    comes first.
    """

    rules: tuple[SyscallRule, ...]
    first_unknown: int
    notified: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The private mount namespace. `sockets` are the names under /run that stay visible.

    `own_proc`: /proc shows the session's own processes only. `own_terminals`: /dev/pts holds the
    terminals that the session makes, and nobody else's. `read_only_rest`: what no rule lets be
    written is mounted read-only. `mask_limit` bounds how many existing objects the masks may match
    at launch; more is an error. `hide_sockets`: what the kernel cannot decide by name is masked,
    every bound socket that no rule lists.
    """

    own_proc: bool
    hide_run: bool
    own_terminals: bool
    read_only_rest: bool
    sockets: tuple[str, ...]
    mask_limit: int = 4096
    hide_sockets: bool = False


@dataclass(frozen=True, slots=True)
class NameFilter:
    """Which variables one profile lets through, by shell globs on the name.

    The more specific one decides, and `scrub` where both are alike: a name that `scrub` spells out
    goes, one that `keep` spells out stays, then patterns of `scrub` count, then those of `keep`.
    """

    keep: tuple[str, ...]
    scrub: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """Environment of CMD: the names that every filter lets through, then `set`."""

    filters: tuple[NameFilter, ...]
    set: tuple[tuple[str, str], ...]


class OnExpiry(Enum):
    """What follows when a session's time is over, mildest first; the network is denied anyway."""

    DENY = "deny"  # its processes run on
    FREEZE = "freeze"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited. `ttl` in seconds, `memory` in bytes, `files` is RLIMIT_NOFILE."""

    ttl: int | None = None
    processes: int | None = None
    files: int | None = None
    memory: int | None = None
    on_expiry: OnExpiry = OnExpiry.KILL


class Reaction(Enum):
    """What follows when something about a session changes, mildest first."""

    NOTHING = "nothing"
    ASK = "ask"  # what goes past it is asked about
    DENY = "deny"
    FREEZE = "freeze"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Approval:
    """How asks of this session are treated. `timeout` in seconds; then the answer is no.

    `fallback` (ALLOW or DENY) is the answer where nobody can be asked. `per_minute`: more asks than
    that are refused without asking.
    """

    timeout: int = 300
    fallback: Verdict = Verdict.DENY
    per_minute: int = 30


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Days (0 is Monday) and minutes of the day in `zone` (IANA name); `until` is not in it.

    `until` before `start` reaches into the next day.
    """

    days: tuple[int, ...]
    start: int
    until: int
    zone: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold all the time. `windows`: for each link that has any, one of its windows.

    `load`: the most that the host's load average over a minute may be, `memory`: the least bytes
    that must be available on it. `otherwise` is what follows while one does not hold: DENY, FREEZE
    or KILL.
    """

    windows: tuple[tuple[TimeWindow, ...], ...] = ()
    load: float | None = None
    memory: int | None = None
    otherwise: Reaction = Reaction.DENY


@dataclass(frozen=True, slots=True)
class RiskStep:
    """From a risk score of `least` (0 to 100) on, `then` follows."""

    least: int
    then: Reaction


@dataclass(frozen=True, slots=True)
class Reactions:
    """What signals from outside do to this session. `risk` is sorted by `least`."""

    revoked: Reaction = Reaction.KILL
    assurance: Reaction = Reaction.FREEZE
    risk: tuple[RiskStep, ...] = ()


class RecordChoice(Enum):
    """Which allowed actions become records; a denial always is one."""

    FIRST = "first"  # the first occurrence, then counts
    EVERY = "every"


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. `policies` is outermost first and never empty; every one must allow.

    `observe` keeps only the syscall floor. `view` is None where no rule needs one. `missing`
    names the controls this host lacks and the profile agreed to go without.
    """

    policies: tuple[Policy, ...]
    syscalls: SyscallPlan
    view: ViewPlan | None
    environment: EnvironmentPlan
    limits: Limits
    workspace: str
    home: str
    run_as_root: bool = False
    observe: bool = False
    records: RecordChoice = RecordChoice.FIRST
    audit_required: bool = False
    approval: Approval = Approval()
    on_budget: Reaction = Reaction.DENY
    conditions: Conditions = Conditions()
    reactions: Reactions = Reactions()
    missing: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class HostFeatures:
    """What this host can enforce, as far as compiling needs to know.

    `landlock_abi` 0: none. `unix_hooks`: cgroup connect_unix/sendmsg_unix (kernel 6.7+).
    `view`: a session of an ordinary user can get a private mount namespace.
    """

    landlock_abi: int
    unix_hooks: bool
    view: bool
    bpf_lsm: bool = False
