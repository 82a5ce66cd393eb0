# SPDX-License-Identifier: Apache-2.0
"""How nftables is told of a cgroup, and what its messages become."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from monitor.kernel import cgroup, nft


@pytest.mark.parametrize(
    ("mount", "name"),
    [
        pytest.param("/sys/fs/cgroup", "ri/s1", id="unified"),
        pytest.param("/sys/fs/cgroup/unified", "unified/ri/s1", id="hybrid"),
        pytest.param("/mnt/cgroup2", "../../../mnt/cgroup2/ri/s1", id="elsewhere"),
    ],
)
def test_a_cgroup_has_a_name_and_a_level(
    monkeypatch: pytest.MonkeyPatch, mount: str, name: str
) -> None:
    """The level counts from the root of cgroup2, whatever the name begins with."""
    monkeypatch.setattr(cgroup, "unified_mount", lambda: Path(mount))
    path = Path(mount) / "ri" / "s1"
    assert nft.cgroup_name(path) == name
    assert nft.cgroup_level(path) == 2
    assert nft.cgroup_level(path / "s2") == 3


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Error: Could not process rule: No such file or directory\nadd ...", errno.ENOENT),
        ("internal:0:0-0: Error: Could not process rule: File exists", errno.EEXIST),
        ("Error: syntax error, unexpected newline", errno.EINVAL),
        ("", errno.EINVAL),
    ],
)
def test_a_message_becomes_an_errno(message: str, number: int) -> None:
    with pytest.raises(OSError, match="nftables: ") as raised:
        nft._check(1, message)
    assert raised.value.errno == number
    nft._check(0, message)
