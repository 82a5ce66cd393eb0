# SPDX-License-Identifier: Apache-2.0
"""The keys of grants: the host's own, made when it is first needed, and those that it trusts.

    KEYS/host.key        private, for root alone: `ed25519-private/HEX`
    KEYS/trusted/*.pub   public keys of other hosts: `ed25519/HEX`, or PEM

Files that others than root could have written are refused, and with them all grants.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

PRIVATE = "host.key"
TRUSTED = "trusted"
LARGEST = 4096
MOST_TRUSTED = 256

_PRIVATE = re.compile(r"ed25519-private/([0-9a-f]{64})")
_PUBLIC = re.compile(r"ed25519/([0-9a-f]{64})")


class KeysError(Exception):
    """The keys cannot be used; one line names the file and what is wrong with it."""


class Keys:
    """The keys under one folder, read anew each time: they are rarely asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def private(self) -> str:
        """The host's own private key, in hexadecimal; made where there is none. KeysError."""
        try:
            return self._private()
        except FileNotFoundError:
            self._make()
        return self._private()

    def public(self) -> str:
        """The host's own public key; made where there is none. KeysError."""
        return _public_of(self.private())

    def trusted(self) -> dict[str, str]:
        """Public keys whose grants count here, by the name of who has them. KeysError.

        The host's own stands under "".
        """
        found = {}
        with contextlib.suppress(FileNotFoundError):  # it has signed nothing yet
            found[_public_of(self._private())] = ""
        folder = self.folder / TRUSTED
        try:
            files = sorted(folder.glob("*.pub"))
        except OSError as error:
            raise KeysError(f"cannot read {folder}: {error.strerror}") from error
        if len(files) > MOST_TRUSTED:
            raise KeysError(f"{folder} holds more than {MOST_TRUSTED} keys")
        for file in files:
            found.setdefault(_public(_read(file, secret=False), file), file.stem)
        return found

    def problem(self) -> str:
        """Why the keys cannot be used; "" where they can."""
        try:
            self.trusted()
        except KeysError as error:
            return str(error)
        return ""

    def _private(self) -> str:
        file = self.folder / PRIVATE
        match = _PRIVATE.fullmatch(_read(file, secret=True).strip())
        if match is None:
            raise KeysError(f"{file} holds no private key: `ed25519-private/` and 64 digits")
        return match[1]

    def _make(self) -> None:
        """Make the private key; whoever comes second finds that of the first."""
        from biscuit_auth import KeyPair

        file = self.folder / PRIVATE
        new = file.with_suffix(".new")
        text = f"ed25519-private/{bytes(KeyPair().private_key.to_bytes()).hex()}\n"
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(descriptor)
            # Unlike rename(2), it does not take the place of one that is there.
            os.link(new, file)
            new.unlink()
        except FileExistsError:
            return
        except OSError as error:
            raise KeysError(f"cannot make the host's key {file}: {error.strerror}") from error


def _read(file: Path, *, secret: bool) -> str:
    """The text of a key file; FileNotFoundError, KeysError."""
    try:
        with file.open("rb") as opened:
            facts = os.fstat(opened.fileno())
            data = opened.read(LARGEST + 1)
        text = data.decode("ascii")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise KeysError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(f"{file} is no key: it is not ASCII") from error
    forbidden = 0o077 if secret else 0o022
    if facts.st_uid not in {0, os.geteuid()} or stat.S_IMODE(facts.st_mode) & forbidden:
        done = "read or written" if secret else "written"
        raise KeysError(f"{file} can be {done} by others than root")
    if not stat.S_ISREG(facts.st_mode) or len(data) > LARGEST:
        raise KeysError(f"{file} is no key: it is larger than {LARGEST} bytes, or no regular file")
    return text


def _public(text: str, file: Path) -> str:
    """A public key in hexadecimal."""
    match = _PUBLIC.fullmatch(text.strip())
    if match is not None:
        return match[1]
    from biscuit_auth import PublicKey

    try:
        # Its text is `ed25519/HEX`, or begins with the name of another algorithm.
        match = _PUBLIC.fullmatch(str(PublicKey.from_pem(text)))  # type: ignore[attr-defined]
    except Exception as error:
        raise KeysError(f"{file} holds no public key: `ed25519/` and 64 digits, or PEM") from error
    if match is None:
        raise KeysError(f"{file} holds a key that is not Ed25519")
    return match[1]


def _public_of(private: str) -> str:
    from biscuit_auth import Algorithm, KeyPair, PrivateKey

    try:
        key = PrivateKey.from_bytes(bytes.fromhex(private), Algorithm.Ed25519)  # type: ignore[attr-defined, call-arg]
    except Exception as error:
        raise KeysError("the host's private key is none") from error
    return bytes(KeyPair.from_private_key(key).public_key.to_bytes()).hex()
