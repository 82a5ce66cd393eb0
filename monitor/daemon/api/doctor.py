# SPDX-License-Identifier: Apache-2.0
"""What this host enforces: each control, its mechanism, and what to do where it is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from monitor.daemon import facts
from monitor.daemon.api import controls
from monitor.daemon.api.controls import Links
from monitor.daemon.context import Context
from monitor.kernel.features import problems


def diagnose(context: Context) -> dict[str, Any]:
    """The document of /v1/doctor."""
    host = facts.host_facts()
    links = controls.attached(context.config.instance)
    return {
        "controls": [asdict(control) for control in controls.every(context, host, links)],
        "problems": _problems(context, links),
        "notes": _notes(context, host, links),
    }


def _problems(context: Context, links: Links) -> list[str]:
    found = list(problems(context.features))
    if not links:
        found.append("the probes are not in place: restart the daemon")
    recording = context.recording
    if recording.problem:
        found.append(
            f"the audit log cannot be written: {recording.problem}; {recording.waiting} records"
            " wait in memory, and sessions that require records are frozen: make room"
        )
    if recording.store.head_problem:
        found.append(f"the head of the audit log cannot be written: {recording.store.head_problem}")
    if context.registry.problem:
        found.append(f"the state of sessions cannot be saved: {context.registry.problem}")
    if context.asks.docket.problem:
        found.append(f"asks cannot be kept over a restart: {context.asks.docket.problem}")
    found += [f"{each} (when it was last asked)" for each in context.asks.approvers.problems()]
    if context.sessions.admission.problem:
        found.append(
            "nobody may start a session, the delegations cannot be used:"
            f" {'; '.join(context.sessions.admission.problem.splitlines())}"
        )
    reload = context.sessions.reload
    found += [f"a profile cannot be used, and changes nothing: {each}" for each in reload.problems]
    unusable = context.sessions.grants.keys.problem()
    if unusable:
        found.append(f"no grant can be made or used: {unusable}")
    if recording.undecoded:
        found.append(
            f"{recording.undecoded} records could not be read or composed:"
            " a fault of the daemon's, see its standard error"
        )
    return found


def _notes(context: Context, host: facts.HostFacts, links: Links) -> list[str]:
    notes = [f"{host.kernel} on {host.machine}, instance {context.config.instance}"]
    if host.lsms is not None:
        notes.append(f"security modules: {', '.join(host.lsms)}")
    silent = controls.silent(links)
    if silent:
        notes.append(
            "refusals of these calls leave no record, this kernel has no tracepoint for them:"
            f" {', '.join(silent)}"
        )
    notes.append(
        "refusals without a record: calls of other architectures (the process is killed, and its"
        " exit recorded), calls newer than this release (ENOSYS)"
    )
    if context.packets.records.problem and not context.packets.problem:
        notes.append(f"refused packets leave no record: {context.packets.records.problem}")
    if not context.features.unix_hooks:
        notes.append("refused connections to unix sockets leave no record before Linux 6.7")
    if context.recording.lost:
        notes.append(f"{context.recording.lost} records were lost under load")
    return notes
