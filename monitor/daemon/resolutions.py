# SPDX-License-Identifier: Apache-2.0
"""Records of look-ups: what the resolver says became of each question, as net.resolve."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from monitor.audit.record import Draft
from monitor.policy.action import Mechanism, Origin, Verb, Verdict
from monitor.policy.plan import Plan, RecordChoice
from monitor.resolver.decision import Cause
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.addresses import Addresses
    from monitor.daemon.context import Context

# Repeats of what was recorded are told of together after so long.
REPEATS_SECONDS = 5.0
MOST_REPEATS = 4096

_REASONS = {
    Cause.UNLISTED: "no rule of profile {profile} lists the name",
    Cause.SEARCH: "no rule of profile {profile} lists the name; it is a listed one with the host's"
    " search domain behind it",
    Cause.PORTS: "the rules for the name have no port in common",
    Cause.MALFORMED: "it is no host name",
    Cause.TYPE: "records of this type are not looked up",
    Cause.RATE: "too many questions within a second",
    Cause.VOLUME: "too much was said in the names that wildcards stand for",
    Cause.WAITING: "too many questions wait for an answer",
    Cause.PRIVATE: "it was answered with addresses that are not public, which no rule foresees",
    Cause.TABLES: "the addresses cannot be allowed: there is no room",
}
# The host's, or its servers', and not a rule's.
_FAILED = {Cause.UPSTREAM: "no name server gave an answer that can be used"}


class Resolutions:
    """Of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.totals: Counter[str] = Counter()  # by cause; "": answered
        self.lost = 0
        self._drafts: list[Draft] = []
        self._repeats: dict[tuple[Any, ...], Draft] = {}
        self._due = 0.0

    def take(self, message: dict[str, Any], addresses: Addresses | None) -> None:
        """One message of the resolver's."""
        self.lost += message["lost"]
        times = message["times"]
        self.totals[message["cause"] or ""] += times
        session = self._session(message["session"])
        if session is None or addresses is None:
            return  # nobody's question; it was not answered
        draft = self._draft(session, addresses, message)
        plan = session.plan
        if draft.verdict is Verdict.ALLOW and plan.records is RecordChoice.FIRST:
            key = (session.id, draft.object, draft.reason, tuple(message["addresses"]))
            known = self._repeats.get(key)
            if known is not None:
                self._repeats[key] = _counted(draft, known.count + draft.count)
                return
            if len(self._repeats) >= MOST_REPEATS:
                self.flush()
            self._repeats[key] = _counted(draft, 0)
        self._drafts.append(draft)
        if draft.verdict is Verdict.DENY:
            self.context.sessions.notices.denied(session.id, draft.verb, draft.object, draft.reason)

    def tick(self) -> None:
        if self._repeats and time.monotonic() >= self._due:
            self._due = time.monotonic() + REPEATS_SECONDS
            self.flush()
            self.store()

    def store(self, ending: str = "") -> None:
        """Record what was taken; of a session that ends, the counts as well."""
        if ending:
            self.flush(ending)
        drafts, self._drafts = self._drafts, []
        if drafts:
            self.context.recording.record(drafts)

    def flush(self, session: str = "") -> None:
        """Tell what was counted, of one session or of all. What comes again is a first again."""
        keys = [key for key in self._repeats if not session or key[0] == session]
        drafts = [self._repeats.pop(key) for key in keys]
        self._drafts += [each for each in drafts if each.count]

    def _session(self, identity: str | None) -> Session | None:
        try:
            return self.context.registry.get(identity) if identity else None
        except UnknownSession:
            return None

    def _draft(self, session: Session, addresses: Addresses, message: dict[str, Any]) -> Draft:
        plan = self.context.registry.whole(session).plan
        name, cause = message["name"], Cause(message["cause"]) if message["cause"] else None
        details: dict[str, Any] = {
            key: message[key]
            for key in ("type", "rcode", "ttl", "addresses", "aliases", "private", "cached")
            if message[key] or key in {"type", "rcode"}
        }
        details["milliseconds"] = round(message["seconds"] * 1000, 3)
        verdict, reason, rule = Verdict.ALLOW, "answered", ""
        if plan.observe and cause is None:
            cause = _observed(addresses, name, message)
            verdict = Verdict.WOULD_DENY if cause else verdict
        if cause in _FAILED:
            reason = _FAILED[cause]
        elif cause is not None:
            verdict = Verdict.WOULD_DENY if verdict is Verdict.WOULD_DENY else Verdict.DENY
            link = addresses.lacking(name) if cause in {Cause.UNLISTED, Cause.SEARCH} else None
            at = 0 if link is None else link
            reason = _REASONS[cause].format(profile=plan.policies[at].profile)
            if link is not None:
                details["link"] = link
                details["remedy"] = f'network.connect: add "{name}:443"'
            if cause is Cause.PRIVATE:
                details["remedy"] = "say `private: true` with the rule that names it"
        if cause is None or cause in {*_FAILED, Cause.PRIVATE, Cause.TABLES}:
            origin = _rule(addresses, plan, name)
            rule = "" if origin is None else str(origin)
            if cause is None and origin is not None:
                reason = f"{origin.section} lists {origin.text}"
        return Draft(
            time=time.time(),
            session=session.id,
            agent=session.agent,
            chain=session.chain.names(),
            pid=0,
            exe="",
            verb=Verb.NET_RESOLVE,
            object=name or ".",
            verdict=verdict,
            reason=reason,
            rule=rule,
            mechanism=Mechanism.RESOLVER,
            count=message["times"],
            details=details,
        )


def _observed(addresses: Addresses, name: str, message: dict[str, Any]) -> Cause | None:
    """Why a question of an observed session would not have been answered."""
    if addresses.lacking(name) is not None:
        return Cause.UNLISTED
    return Cause.PORTS if addresses.permission(name) is None else None


def _rule(addresses: Addresses, plan: Plan, name: str) -> Origin | None:
    """The rule of the last link, which is the narrowest, that lists `name`."""
    found = addresses.permission(name)
    if found is None:
        return None
    number = found.links[-1][0].rule
    rules = plan.policies[-1].rules
    return rules[number] if 0 <= number < len(rules) else None


def _counted(draft: Draft, count: int) -> Draft:
    return replace(draft, count=count)
