# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a grant: a class for each fault, its message one line for the bearer."""

from __future__ import annotations


class GrantError(PermissionError):
    """The grant gives nothing here and now."""


class Malformed(GrantError):
    """It is no grant, is cut off, too large, or says what this release does not know."""


class UnknownKey(GrantError):
    """It is signed with a key that this host does not trust."""


class BadSignature(GrantError):
    """It is not what was signed: a block was changed, or taken from another grant."""


class Revoked(GrantError):
    """It, or one that it was narrowed from, was taken back."""


class NotYetValid(GrantError):
    """It was made later than this host's clock shows."""


class Expired(GrantError):
    """The time of one of its links is over."""


class TooDeep(GrantError):
    """It was passed on more often than one of its links allows."""


class WrongHost(GrantError):
    """It is for other hosts."""


class WrongBearer(GrantError):
    """Somebody else may start sessions under it."""


class CheckFailed(GrantError):
    """A check that somebody put into it does not hold here and now."""


class ProfileChanged(GrantError):
    """A profile is no longer, or is not here, what was delegated under its name."""


class UsedUp(GrantError):
    """It has been used as often as it may be."""
