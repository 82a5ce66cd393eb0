# SPDX-License-Identifier: Apache-2.0
"""The profile loader: any text is a profile or a ProfileError, and a profile compiles or says why.

A profile comes from whoever may start sessions; the daemon reads and compiles it as root.
"""

from __future__ import annotations

from pathlib import Path

from fuzz.target import Target
from monitor.policy.compile import CompileError, Context, compile_plan
from monitor.policy.plan import HostFeatures
from monitor.policy.plan_json import from_json, to_json
from monitor.profile.errors import ProfileError
from monitor.profile.lint import lint
from monitor.profile.load import parse
from monitor.profile.model import Model, Profile
from monitor.profile.variables import Variables

PROFILES = Path(__file__).resolve().parents[1] / "profiles"
VARIABLES = Variables("/work", "/home/alice", "0" * 36, 1000)
CONTEXT = Context(
    workspace="/work",
    home="/home/alice",
    session="0" * 36,
    uid=1000,
    ttl=None,
    observe=False,
    resolve=str,
)
HOST = HostFeatures(landlock_abi=7, unix_hooks=True, view=True)


def run(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        profile = parse(text, "fuzz.yaml")
    except ProfileError as error:
        assert str(error)
        return
    if profile.include or profile.extends:
        return  # its parts are profiles of their own
    try:
        lint((profile,), VARIABLES, exists=_never, is_folder=_never)
        plan = compile_plan((profile,), CONTEXT, HOST)
    except (CompileError, ProfileError):
        return
    assert from_json(to_json(plan)) == plan


def _never(_path: str) -> bool:
    return False


def _keys(model: type[Model]) -> list[bytes]:
    return [f"{name}:".encode() for name in model.model_fields]


TARGET = Target(
    run,
    [path.read_bytes() for path in sorted(PROFILES.glob("*.yaml"))],
    [*_keys(Profile), b"files:\n  read:\n    - ", b"{workspace}", b"{home}", b"/**", b"&a ", b"*a",
     b"!!python/object:os.system", b"<<: *a", b"any:443", b"- to: ", b"why: ", b"%YAML 1.1",
     b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"? ", b"|+\n", b"? [a]\n: b", b"0x1F", b"1e400"],
    4096,
)  # fmt: skip
