# SPDX-License-Identifier: Apache-2.0
"""The keys of grants: made once, for their owner alone; others' as their files say."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from biscuit_auth import KeyPair

from monitor.daemon.keys import MOST_TRUSTED, Keys, KeysError

KEY = "0123456789abcdef" * 4


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def trusting(keys: Keys, text: str | bytes, name: str = "laptop") -> Path:
    file = keys.folder / "trusted" / f"{name}.pub"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(0o644)
    return file


def test_nothing_is_made_before_it_is_needed(keys: Keys) -> None:
    assert keys.trusted() == {}
    assert keys.problem() == ""
    assert not keys.folder.exists()


def test_the_hosts_key_is_made_once(keys: Keys) -> None:
    made = keys.private()
    file = keys.folder / "host.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert file.read_text() == f"ed25519-private/{made}\n"
    assert [each.name for each in keys.folder.iterdir()] == ["host.key"]
    assert Keys(keys.folder).private() == made
    assert keys.trusted() == {keys.public(): ""}


def test_one_that_was_broken_off_while_making_is_no_hindrance(keys: Keys) -> None:
    keys.folder.mkdir()
    (keys.folder / "host.new").write_text("half")
    assert len(keys.private()) == 64
    assert not (keys.folder / "host.new").exists()


def test_whoever_comes_second_takes_the_key_of_the_first(keys: Keys) -> None:
    first = keys.private()
    keys._make()
    assert keys.private() == first


def test_where_none_can_be_made_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot make the host's key .*: No such file"):
        Keys(tmp_path / "missing" / "keys").private()


def pem(key: KeyPair) -> str:
    """RFC 8410 section 4: SubjectPublicKeyInfo of Ed25519."""
    data = bytes.fromhex("302a300506032b6570032100") + bytes(key.public_key.to_bytes())
    body = base64.b64encode(data).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


def test_keys_of_other_hosts(keys: Keys) -> None:
    pair = KeyPair()
    trusting(keys, f"ed25519/{KEY}\n")
    trusting(keys, pem(pair), "pem")
    trusting(keys, "ignored", "x.txt").rename(keys.folder / "trusted" / "notes.txt")
    wanted = {KEY: "laptop", bytes(pair.public_key.to_bytes()).hex(): "pem"}
    assert keys.trusted() == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no public key"),
        (f"ed25519-private/{KEY}", "holds no public key"),
        (KEY, "holds no public key"),
        (f"ed25519/{KEY}\ned25519/{KEY}", "holds no public key"),
        (b"\xff", "not ASCII"),
        ("x" * 5000, "larger than"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no public key"),
    ],
)
def test_one_that_is_none_is_named(keys: Keys, text: str | bytes, words: str) -> None:
    file = trusting(keys, text)
    with pytest.raises(KeysError, match=f"{re.escape(str(file))}.*{words}"):
        keys.trusted()
    assert words in keys.problem()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_private_key_that_others_reach_is_refused(keys: Keys, mode: int) -> None:
    keys.private()
    (keys.folder / "host.key").chmod(mode)
    for action in (keys.private, keys.trusted):
        with pytest.raises(KeysError, match="can be read or written by others"):
            action()


@pytest.mark.parametrize("text", ["", "ed25519-private/12", f"ed25519/{KEY}"])
def test_a_private_key_that_is_none_is_refused(keys: Keys, text: str) -> None:
    keys.private()
    (keys.folder / "host.key").write_text(text)
    with pytest.raises(KeysError, match="holds no private key"):
        keys.private()


def test_a_public_key_that_others_could_write_is_refused(keys: Keys) -> None:
    file = trusting(keys, f"ed25519/{KEY}")
    file.chmod(0o664)
    with pytest.raises(KeysError, match="can be written by others"):
        keys.trusted()


def test_there_are_not_endlessly_many(keys: Keys) -> None:
    for number in range(MOST_TRUSTED + 1):
        trusting(keys, f"ed25519/{KEY}", str(number))
    with pytest.raises(KeysError, match="more than"):
        keys.trusted()
