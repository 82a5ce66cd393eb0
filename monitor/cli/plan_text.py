# SPDX-License-Identifier: Apache-2.0
"""A plan in words: what `rictl profile show --effective` prints."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from monitor.policy.action import Origin, Verdict
from monitor.policy.gates import Gates, gates
from monitor.policy.plan import (
    ExecRule,
    FileAccess,
    FileRule,
    NetPrefix,
    Plan,
    Policy,
    Reaction,
    SocketRule,
    TimeWindow,
)

PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
MAPPED = "::ffff:"
MAPPED_BITS = 96
LAST_PORT = 65535
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WAITING = {
    Gates.EXEC: "program starts",
    Gates.CONNECT: "connections",
    Gates.DELETE: "removed names",
    Gates.OPEN: "opens that rules name",
}


def describe(plan: Plan) -> Iterator[str]:
    """Lines of text; every one of the plan's profiles must allow an action."""
    for link, policy in enumerate(plan.policies):
        also = " (and it must be allowed by the ones above)" if link else ""
        yield f"profile {policy.profile}{also}"
        yield from _policy(policy)
    yield "environment"
    for each in plan.environment.filters:
        yield from _words("keep", each.keep)
        yield from _words("scrub", each.scrub)
    for name, value in plan.environment.set:
        yield f"  set    {name}={value}"
    yield "limits"
    limits = plan.limits
    for name, limit, unit in (
        ("ttl", limits.ttl, " s"),
        ("processes", limits.processes, ""),
        ("open files", limits.files, ""),
        ("memory", limits.memory, " bytes"),
    ):
        yield f"  {name:<11}{'not limited' if limit is None else f'{limit}{unit}'}"
    yield f"  on expiry  {limits.on_expiry.value}"
    yield from _conditions(plan)
    yield "session"
    for name, text in _session(plan):
        yield f"  {name:<11}{text}"


def _conditions(plan: Plan) -> Iterator[str]:
    conditions = plan.conditions
    parts = [" or ".join(map(_window, windows)) for windows in conditions.windows]
    if conditions.load is not None:
        parts.append(f"load below {conditions.load:g}")
    if conditions.memory is not None:
        parts.append(f"{conditions.memory} bytes of memory available")
    if parts:
        yield "conditions"
        yield from (f"  {part}" for part in parts)
        yield f"  otherwise  {conditions.otherwise.value}"


def _window(window: TimeWindow) -> str:
    days = " ".join(DAYS[day] for day in window.days)
    start, until = (f"{each // 60:02}:{each % 60:02}" for each in (window.start, window.until))
    return f"{days} {start}-{until} {window.zone}"


def _session(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "workspace", plan.workspace
    yield "home", plan.home
    yield "runs as", "root" if plan.run_as_root else "the user who starts it"
    yield "records", plan.records.value + (", required" if plan.audit_required else "")
    yield "syscalls", f"{len(plan.syscalls.rules)} refused, and all from number {_unknown(plan)}"
    needed = gates(plan)
    waiting = [what for gate, what in WAITING.items() if gate in needed]
    yield "held first", ", ".join(waiting) or "nothing"
    yield from _answers(plan)
    yield "signals", _signals(plan)
    if plan.view is None:
        yield "view", "none needed"
    else:
        parts = ["own /proc"] if plan.view.own_proc else []
        parts += ["own /run"] if plan.view.hide_run else []
        parts += ["own terminals"] if plan.view.own_terminals else []
        parts += ["the rest read-only"] if plan.view.read_only_rest else []
        yield "view", ", ".join(parts) or "own mounts"
    if plan.missing:
        yield "goes without", ", ".join(plan.missing)


def _answers(plan: Plan) -> Iterator[tuple[str, str]]:
    """What becomes of asks, and of what no budget has room for."""
    asks, counted = plan.approval, any(_budgets(policy) for policy in plan.policies)
    if any(map(_may_ask, plan.policies)) or (counted and plan.on_budget is Reaction.ASK):
        yield (
            "asks",
            f"{asks.timeout} s for an answer, {asks.per_minute} a minute;"
            f" {asks.fallback.value} where nobody can be asked",
        )
    if counted:
        yield "budgets", f"past them: {plan.on_budget.value}"


def _may_ask(policy: Policy) -> bool:
    rules = [*policy.exec, *(rule for label in policy.labels for rule in label.rules)]
    return (
        bool(policy.asks)
        or any(label.ask for label in policy.labels)
        or any(rule.verdict is Verdict.ASK for rule in rules)
        or any(ports.verdict is Verdict.ASK for each in policy.connect for ports in each.ports)
    )


def _signals(plan: Plan) -> str:
    told = plan.reactions
    parts = [f"revoked: {told.revoked.value}", f"assurance: {told.assurance.value}"]
    parts += [f"risk from {step.least}: {step.then.value}" for step in told.risk]
    return ", ".join(parts)


def _budgets(policy: Policy) -> dict[str, int]:
    return {name: value for name, value in asdict(policy.budgets).items() if value is not None}


def _unknown(plan: Plan) -> int:
    return plan.syscalls.first_unknown


def _policy(policy: Policy) -> Iterator[str]:
    yield "  files"
    for file in policy.files:
        yield _row(_access(file), _tree(file), file.origin)
    for mask in policy.masks:
        yield _row(mask.kind.value, mask.pattern, mask.origin)
    if not policy.files:
        yield "    none"
    for title, table in (("connect", policy.connect), ("bind", policy.bind)):
        yield f"  network {title}"
        names = [label.name for label in policy.labels]
        yield from _network(table, policy.rules, names)
    if policy.expose:
        yield "  network expose"
        yield from _network(policy.expose, policy.rules)
    if policy.unix:
        yield "  unix sockets"
        for unix in policy.unix:
            yield _row("connect", unix.path, policy.rules[unix.rule])
    yield from _gated(policy)
    yield "  sockets"
    yield from (f"    {_socket(rule)}" for rule in policy.sockets)
    if not policy.sockets:
        yield "    none"


def _gated(policy: Policy) -> Iterator[str]:
    """What waits for an answer, what labels do, and what is counted."""
    if policy.exec:
        yield "  program starts"
        yield from (_row(each.verdict.value, _start(each), each.origin) for each in policy.exec)
    if policy.asks:
        yield "  opens"
        yield from (_row("ask", each.pattern, each.origin) for each in policy.asks)
    for label in policy.labels:
        yield f"  label {label.name}    # {label.origin}"
        yield from (_row("by open", pattern, None) for pattern in label.files)
        yield from (_row("by start", _start(each), None) for each in label.exec)
        if label.policy is not None:
            yield "    leaves of the network"
            yield from (f"  {line}" for line in _network(label.policy.connect, label.policy.rules))
        yield from (_row(each.verdict.value, _start(each), each.origin) for each in label.rules)
        if label.ask:
            yield "    asks about every connection and program start"
    counted = _budgets(policy)
    if counted:
        yield "  budgets"
        yield from (_row(name, str(value), None) for name, value in counted.items())


def _start(rule: ExecRule) -> str:
    words = [rule.pattern, *(rule.arguments if rule.arguments is not None else ("...",))]
    if rule.outside is not None:
        words.append(f"outside {rule.outside}")
    return " ".join(words) + (" (by content)" if rule.content else "")


def _network(
    table: Sequence[NetPrefix], rules: Sequence[Origin], labels: Sequence[str] = ()
) -> Iterator[str]:
    if not table:
        yield "    none"
    for prefix in table:
        for ports in prefix.ports:
            last = f"-{ports.last}" if ports.last != ports.first else ""
            span = "*" if (ports.first, ports.last) == (0, LAST_PORT) else f"{ports.first}{last}"
            protocol = PROTOCOLS.get(ports.protocol, str(ports.protocol))
            origin = rules[ports.rule] if 0 <= ports.rule < len(rules) else None
            verdict = ports.verdict.value
            earned = f" (label {labels[ports.label]})" if 0 <= ports.label < len(labels) else ""
            target = f"{_address(prefix.network)} {span}/{protocol}{earned}"
            yield _row(verdict, target, origin)


def _address(network: str) -> str:
    """CIDR text as people write it: IPv4 where it is IPv4-mapped."""
    address, _, bits = network.partition("/")
    if address.startswith(MAPPED) and int(bits) >= MAPPED_BITS:
        return f"{address.removeprefix(MAPPED)}/{int(bits) - MAPPED_BITS}"
    return network


def _access(rule: FileRule) -> str:
    letters = ((FileAccess.READ, "r"), (FileAccess.WRITE, "w"), (FileAccess.EXECUTE, "x"))
    return "".join(letter if flag in rule.access else "-" for flag, letter in letters)


def _tree(rule: FileRule) -> str:
    return f"{rule.path.rstrip('/')}/**" if rule.tree else rule.path


def _socket(rule: SocketRule) -> str:
    try:
        family = socket.AddressFamily(rule.family).name
        kind = socket.SocketKind(rule.type).name
    except ValueError:
        family, kind = f"family {rule.family}", f"type {rule.type}"
    return f"{family} {kind}" + ("" if rule.protocol < 0 else f" protocol {rule.protocol}")


def _row(what: str, target: str, origin: Origin | None) -> str:
    return f"    {what:<10}{target}" + (f"    # {origin}" if origin else "")


def _words(name: str, words: Sequence[str]) -> Iterator[str]:
    yield f"  {name:<7}{' '.join(words) or 'none'}"
