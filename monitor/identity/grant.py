# SPDX-License-Identifier: Apache-2.0
"""Grants: signed delegations that whoever holds one can narrow and nobody can widen.

A grant is a Biscuit. The daemon of a host signs the first block (who delegates what to which agent,
where and until when); each later block hands it on to another agent and takes something away. It is
read as a conjunction, so a later block that says more than an earlier one gains nothing by it.

Its text is one line, `ri1.KEY.TOKEN`: the public key it was signed with, in hexadecimal, and the
Biscuit in URL-safe base64. With the key there, a grant can be narrowed anywhere; what a host trusts
is its own list of keys, never this one. biscuit_auth is imported where a grant is touched.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from monitor.identity import grant_block
from monitor.identity.chain import Chain, Link, Principal
from monitor.identity.grant_block import Origin, Step
from monitor.identity.grant_error import (
    BadSignature,
    CheckFailed,
    Expired,
    GrantError,
    Malformed,
    NotYetValid,
    Revoked,
    TooDeep,
    UnknownKey,
    WrongBearer,
    WrongHost,
)

if TYPE_CHECKING:
    from biscuit_auth import Biscuit

LARGEST = 16384  # characters of a grant; it shares a launch message with other fields
MOST_LINKS = 16
# Two hosts' clocks are never the same: so much may a grant come from the future.
LEEWAY_SECONDS = 60
CHECK_SECONDS = 0.2

_TEXT = re.compile(r"ri1\.([0-9a-f]{64})\.([A-Za-z0-9_=-]+)")


@dataclass(frozen=True, slots=True)
class Facts:
    """Where and when a grant is presented, and by whom, as this host knows it."""

    now: float
    host: str
    host_groups: tuple[str, ...]
    bearer: Principal


@dataclass(frozen=True, slots=True)
class Grant:
    """What a grant says: `steps` outermost first, with the revocation id of each block.

    `key` is the public key that its text names.
    """

    key: str
    origin: Origin
    steps: tuple[Step, ...]
    revocation_ids: tuple[str, ...]

    @property
    def expires(self) -> int:
        """The first moment, in Unix seconds, at which it does not hold any more."""
        return min(step.expires for step in self.steps if step.expires is not None)

    @property
    def depth(self) -> int:
        """How many links may follow; below 0: there are too many already."""
        last = len(self.steps) - 1
        return min(
            step.depth - (last - index)
            for index, step in enumerate(self.steps)
            if step.depth is not None
        )

    @property
    def agent(self) -> str:
        """The agent that may act under it."""
        return self.steps[-1].agent

    @property
    def profiles(self) -> tuple[tuple[str, str], ...]:
        """(name, digest) of every profile that must allow an action, outermost first."""
        return tuple(
            (step.profile, step.digest)
            for step in self.steps
            if step.profile is not None and step.digest is not None
        )

    @property
    def uses(self) -> tuple[tuple[str, int], ...]:
        """(revocation id, sessions that may be started) of every block that says it."""
        return tuple(
            (identity, step.uses)
            for identity, step in zip(self.revocation_ids, self.steps, strict=True)
            if step.uses is not None
        )

    def chain(self) -> Chain:
        """A link for each block; a link says what holds there, its own or from those before."""
        delegator, profile, digest, purpose = self.origin.principal.id, "", "", ""
        expires = float("inf")
        links = []
        for step in self.steps:
            profile, digest = step.profile or profile, step.digest or digest
            purpose = step.purpose or purpose
            expires = expires if step.expires is None else min(expires, step.expires)
            links.append(Link(delegator, step.agent, profile, digest, purpose, expires))
            delegator = step.agent
        return Chain(self.origin.principal, tuple(links))


def sign(origin: Origin, step: Step, private_key: str) -> str:
    """A grant of one link. `private_key` in hexadecimal. ValueError where it cannot be said."""
    from biscuit_auth import Algorithm, BiscuitBuilder, KeyPair, PrivateKey

    source = grant_block.write(step, origin)
    pair = KeyPair.from_private_key(
        PrivateKey.from_bytes(bytes.fromhex(private_key), Algorithm.Ed25519)  # type: ignore[attr-defined, call-arg]
    )
    token = BiscuitBuilder(source).build(pair.private_key)
    return _text(bytes(pair.public_key.to_bytes()).hex(), token)


def narrow(text: str, step: Step) -> str:
    """The grant with one link more. Malformed, BadSignature, TooDeep; ValueError.

    Needs nothing but the grant itself, which is not judged: only what holds can be passed on, but
    where and when it is presented is for the host there to say.
    """
    from biscuit_auth import BlockBuilder

    grant, token = _open(text)
    if len(grant.steps) >= MOST_LINKS:
        raise TooDeep(f"the grant has {MOST_LINKS} links, which is as many as there may be")
    if grant.depth <= 0:
        raise TooDeep("the grant may not be passed on: one of its links allows no more after it")
    source = grant_block.write(step, None)
    with _malformed("the grant cannot be narrowed: it is sealed"):
        longer = token.append(BlockBuilder(source))
    made = _text(grant.key, longer)
    if len(made) > LARGEST:
        raise ValueError(f"the grant would be longer than {LARGEST} characters")
    return made


def read(text: str) -> Grant:
    """What an unbroken grant says, whoever signed it: for showing. Malformed, BadSignature."""
    grant, _token = _open(text)
    return grant


def verify(text: str, keys: Collection[str], facts: Facts, revoked: Callable[[str], bool]) -> Grant:
    """The grant, where it holds here and now; a GrantError says why it does not.

    `keys` are the public keys that this host trusts, in hexadecimal; `revoked` says of a revocation
    id whether it was taken back. How often it was used is for the caller to count.
    """
    key, _data = _parts(text)
    if key not in keys:
        raise UnknownKey(f"the grant is signed with a key that this host does not trust: {key}")
    grant, token = _open(text)
    for index, identity in enumerate(grant.revocation_ids):
        if revoked(identity):
            agent = grant.steps[index].agent
            raise Revoked(f"the grant was revoked: its link to {agent} was taken back")
    _check_time(grant, facts)
    if grant.depth < 0:
        raise TooDeep(
            f"the grant was passed on more often ({len(grant.steps) - 1})"
            f" than one of its links allows ({len(grant.steps) - 1 + grant.depth})"
        )
    origin = grant.origin
    if facts.host not in origin.hosts and not set(facts.host_groups) & set(origin.host_groups):
        places = ", ".join((*origin.hosts, *(f"group {each}" for each in origin.host_groups)))
        raise WrongHost(f"the grant is for {places}, and this host is {facts.host}")
    if facts.bearer != origin.bearer:
        raise WrongBearer(
            f"the grant is for user {origin.bearer.name} (uid {origin.bearer.uid}),"
            f" not for {facts.bearer.name} (uid {facts.bearer.uid})"
        )
    _authorize(token, facts)
    return grant


def _check_time(grant: Grant, facts: Facts) -> None:
    if facts.now < grant.origin.issued - LEEWAY_SECONDS:
        raise NotYetValid(f"the grant holds from {_moment(grant.origin.issued)} on")
    for step in grant.steps:
        if step.expires is not None and facts.now >= step.expires:
            raise Expired(
                f"the grant expired at {_moment(step.expires)} (its link to {step.agent})"
            )


def _authorize(token: Biscuit, facts: Facts) -> None:
    """Have Biscuit evaluate the checks of all blocks; CheckFailed names those that do not hold."""
    from biscuit_auth import AuthorizationError, AuthorizerBuilder

    authorizer: Any = AuthorizerBuilder(
        "time({time}); host({host}); bearer({name}, {uid}); allow if true;",
        {
            "time": datetime.fromtimestamp(int(facts.now), UTC),
            "host": facts.host,
            "name": facts.bearer.name,
            "uid": facts.bearer.uid,
        },
    )
    for group in facts.host_groups:
        authorizer.add_code("host_group({group})", {"group": group})
    limits = authorizer.limits()
    limits.max_time = timedelta(seconds=CHECK_SECONDS)
    authorizer.set_limits(limits)
    with _malformed("the grant's checks cannot be evaluated"):
        try:
            authorizer.build(token).authorize()
        except AuthorizationError as error:
            _, _, checks = str(error).partition("checks failed: ")
            raise CheckFailed(
                "a check of the grant does not hold:"
                f" {' '.join(checks.split()) or 'they cannot be evaluated'}"
            ) from error


def _parts(text: str) -> tuple[str, bytes]:
    """(public key, token) of a grant's text."""
    if len(text) > LARGEST:
        raise Malformed(f"the grant is longer than {LARGEST} characters")
    match = _TEXT.fullmatch(text.removesuffix("\n"))
    if match is None:
        raise Malformed("this is no grant: a grant is one line that begins with `ri1.`")
    try:
        data = base64.urlsafe_b64decode(match[2])
    except (binascii.Error, ValueError):
        data = b""
    # There are several ways to write the same bytes; only one is ours.
    if base64.urlsafe_b64encode(data).decode() != match[2]:
        raise Malformed("the grant is cut off, or not base64")
    return match[1], data


def _open(text: str) -> tuple[Grant, Biscuit]:
    """The grant, and the token that is intact under the key that the text names."""
    from biscuit_auth import Algorithm, Biscuit, BiscuitValidationError, PublicKey

    key, data = _parts(text)
    with _malformed("the grant names a key that is none"):
        root = PublicKey.from_bytes(bytes.fromhex(key), Algorithm.Ed25519)  # type: ignore[attr-defined, call-arg]
    with _malformed("the grant is no Biscuit"):
        try:
            token = Biscuit.from_bytes(data, root)
        except BiscuitValidationError as error:
            raise BadSignature(
                "the grant is not what was signed: it is cut off, or was changed"
            ) from error
    with _malformed("the grant cannot be read"):
        # What is not signed could be changed without anybody noticing.
        if bytes(token.to_bytes()) != data:
            raise BadSignature("the grant is not what was signed: something was added to it")
        count = token.block_count()
        if count > MOST_LINKS:
            raise Malformed(f"the grant has {count} links; there may be {MOST_LINKS}")
        if any(token.block_external_key(index) is not None for index in range(count)):
            raise Malformed("a block of the grant is signed by a third party, which is not known")
        sources = [token.block_source(index) for index in range(count)]
        identities = tuple(token.revocation_ids)
    first, origin = grant_block.read(sources[0], first=True)
    if origin is None:
        raise Malformed("the grant has no origin")
    later = (grant_block.read(source, first=False)[0] for source in sources[1:])
    return Grant(key, origin, (first, *later), identities), token


@contextmanager
def _malformed(message: str) -> Iterator[None]:
    """What the library makes of bytes that somebody chose is one error of ours."""
    try:
        yield
    except GrantError:
        raise
    except BaseException as error:
        # A panic of the library is no Exception, and has no name that could be imported.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise Malformed(message) from error
        raise


def _text(key: str, token: Biscuit) -> str:
    return f"ri1.{key}.{base64.urlsafe_b64encode(bytes(token.to_bytes())).decode()}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
