# SPDX-License-Identifier: Apache-2.0
"""Opens of marked files: held, refused, let through, and what a label does to them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from monitor.policy.opens import OpenKind, OpenRule
from tests.support.daemon import wait_until
from tests.support.opens import Scene

ASK, LABEL, DENY = OpenKind.ASK, OpenKind.LABEL, OpenKind.DENY
Make = Callable[[Sequence[OpenRule]], Scene]


def rule(kind: OpenKind, pattern: object, link: int = 0, label: int = -1) -> OpenRule:
    return OpenRule(kind, str(pattern), link, f"{kind.value}: {pattern}", "why", label, "secret")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Scene] = []

    def scene(rules: Sequence[OpenRule]) -> Scene:
        made.append(Scene(tmp_path, rules))
        return made[-1]

    yield scene
    for each in made:
        each.close()


def test_an_ask_holds_the_open_until_the_answer(make: Make, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan")])
    gate = scene.start_gate()
    assert scene.watch().marked == 1
    process = scene.inside(["cat", str(tmp_path / "plan")])
    (ask,) = gate.waits_for_ask()
    assert ask["wanted"]["object"] == str(tmp_path / "plan")
    assert ask["wanted"]["exe"].endswith("cat")
    time.sleep(0.2)
    assert process.poll() is None
    gate.answer(ask, True)
    assert process.communicate(timeout=5)[0] == "text"
    # The next one is asked about again, and refused.
    process = scene.inside(["cat", str(tmp_path / "plan")])
    gate.answer(gate.waits_for_ask(2)[-1], False)
    output, errors = process.communicate(timeout=5)
    assert output == ""
    assert "not permitted" in errors


def test_every_link_that_asks_is_asked(make: Make, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan", link=0), rule(ASK, f"{tmp_path}/*", link=1)])
    gate = scene.start_gate()
    scene.watch()
    process = scene.inside(["cat", str(tmp_path / "plan")])
    first, second = gate.waits_for_ask(2)
    assert {first["wanted"]["link"], second["wanted"]["link"]} == {0, 1}
    gate.answer(first, True)
    time.sleep(0.1)
    assert process.poll() is None
    gate.answer(second, True)
    assert process.communicate(timeout=5)[0] == "text"


def test_others_are_not_held(make: Make, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan"), rule(DENY, tmp_path / "plan")])
    gate = scene.start_gate()
    scene.watch()
    assert (tmp_path / "plan").read_text() == "text"
    assert gate.heard() == []


def test_an_unnamed_file_is_not_held(make: Make, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("text")
    (tmp_path / "other").write_text("other")
    scene = make([rule(ASK, tmp_path / "plan")])
    gate = scene.start_gate()
    scene.watch()
    assert scene.run(["cat", str(tmp_path / "other")]) == (0, "other")
    assert gate.heard() == []


def test_a_label_is_earned_before_the_open_returns(make: Make, tmp_path: Path) -> None:
    (tmp_path / "customers" / "deep").mkdir(parents=True)
    (tmp_path / "customers" / "deep" / "list").write_text("names")
    scene = make([rule(LABEL, tmp_path / "customers", label=7)])
    gate = scene.start_gate()
    # The two folders and the file.
    assert scene.watch().marked == 3
    file = str(tmp_path / "customers" / "deep" / "list")
    assert scene.run(["cat", file]) == (0, "names")
    assert [label for _when, label in scene.earned] == [7]
    wait_until(lambda: any(each["say"] == "label" for each in gate.heard()))
    # It is known: no open of it waits any more, and none is earned again.
    assert scene.run(["cat", file]) == (0, "names")
    assert len(scene.earned) == 1


def test_a_hard_link_elsewhere_earns_it_too(make: Make, tmp_path: Path) -> None:
    (tmp_path / "customers").mkdir()
    (tmp_path / "customers" / "list").write_text("names")
    scene = make([rule(LABEL, tmp_path / "customers", label=7)])
    scene.start_gate()
    scene.watch()
    assert scene.run(["ln", str(tmp_path / "customers" / "list"), str(tmp_path / "x")])[0] == 0
    assert scene.run(["cat", str(tmp_path / "x")]) == (0, "names")
    assert [label for _when, label in scene.earned] == [7]


def test_a_file_that_is_made_anew_is_held(make: Make, tmp_path: Path) -> None:
    """Written aside and renamed in: another inode under a name that the rules know."""
    (tmp_path / "plan").write_text("old")
    scene = make([rule(ASK, tmp_path / "plan")])
    gate = scene.start_gate()
    scene.watch()
    (tmp_path / "plan.new").write_text("new")
    (tmp_path / "plan.new").rename(tmp_path / "plan")
    time.sleep(0.1)
    process = scene.inside(["cat", str(tmp_path / "plan")])
    gate.answer(gate.waits_for_ask()[0], True)
    assert process.communicate(timeout=5)[0] == "new"


def test_what_appears_in_a_new_folder_is_refused(make: Make, tmp_path: Path) -> None:
    scene = make([rule(DENY, f"{tmp_path}/**/.env")])
    gate = scene.start_gate()
    from monitor.policy.plan import MaskKind

    scene.watch([(f"{tmp_path}/**/.env", MaskKind.HIDE)])
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / ".env").write_text("TOKEN")
    time.sleep(0.2)
    status, output = scene.run(["cat", str(tmp_path / "a" / "b" / ".env")])
    assert status == 1
    assert "not permitted" in output
    wait_until(lambda: any(each["say"] == "record" for each in gate.heard()))
    (record,) = [each for each in gate.heard() if each["say"] == "record"]
    assert record["verdict"] == "deny"
    # A folder that is moved keeps nothing open either.
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "c" / "b" / ".env").unlink()
    (tmp_path / "c" / "b" / ".env").write_text("TOKEN")
    time.sleep(0.2)
    assert scene.run(["cat", str(tmp_path / "c" / "b" / ".env")])[0] == 1
    assert (tmp_path / "c" / "b" / ".env").read_text() == "TOKEN"


def test_a_killed_opener_withdraws_its_ask(make: Make, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan")])
    gate = scene.start_gate()
    scene.watch()
    process = scene.inside(["cat", str(tmp_path / "plan")])
    (ask,) = gate.waits_for_ask()
    process.kill()
    process.communicate()
    wait_until(lambda: any(each["say"] == "gone" for each in gate.heard()))
    gate.answer(ask, True)  # too late, and harmless
    assert gate.loop.faults == 0


def test_a_dead_gate_makes_opens_wait_and_the_next_one_asks_again(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan")])
    gate = scene.start_gate()
    scene.watch()
    held = scene.inside(["cat", str(tmp_path / "plan")])
    gate.waits_for_ask()
    gate.die()
    late = scene.inside(["cat", str(tmp_path / "plan")])
    outside = threading.Thread(target=(tmp_path / "plan").read_text)
    outside.start()
    time.sleep(0.3)
    assert held.poll() is None
    assert late.poll() is None
    assert outside.is_alive()
    following = scene.start_gate()
    asks = following.waits_for_ask(2)
    outside.join(5)
    assert not outside.is_alive()
    assert {ask["wanted"]["pid"] for ask in asks} == {held.pid, late.pid}
    allowed = {ask["wanted"]["pid"]: ask for ask in asks}
    following.answer(allowed[held.pid], True)
    following.answer(allowed[late.pid], False)
    assert held.communicate(timeout=5)[0] == "text"
    assert "not permitted" in late.communicate(timeout=5)[1]


FLOOD = """
import os, sys, threading
def one():
    try:
        os.open(sys.argv[1], os.O_RDONLY)
    except OSError:
        return
    print("opened", flush=True)
threads = [threading.Thread(target=one) for _ in range(int(sys.argv[2]))]
threading.stack_size(65536)
for each in threads: each.start()
print("started", flush=True)
for each in threads: each.join()
"""


def test_a_flood_of_opens_lets_none_through(make: Make, tmp_path: Path) -> None:
    """Past what a gate holds it refuses; what waits stays refused until it is answered."""
    (tmp_path / "plan").write_text("text")
    scene = make([rule(ASK, tmp_path / "plan")])
    scene.start_gate()
    scene.watch()
    process = scene.inside(["python3", "-c", FLOOD, str(tmp_path / "plan"), "3000"])
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(1)
    began = time.monotonic()
    (tmp_path / "plan").read_text()  # somebody else is not held up by it
    assert time.monotonic() - began < 2
    (scene.cgroup / "cgroup.kill").write_text("1")
    assert "opened" not in process.communicate(timeout=10)[0]


def test_a_fifo_in_a_named_folder_holds_nobody_up(make: Make, tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    os.mkfifo(tmp_path / "named" / "fifo")
    scene = make([rule(LABEL, tmp_path / "named", label=3)])
    gate = scene.start_gate()
    scene.watch()
    (tmp_path / "named" / "file").write_text("text")
    reader = scene.inside(["cat", str(tmp_path / "named" / "fifo")])
    time.sleep(0.1)
    assert scene.run(["cat", str(tmp_path / "named" / "file")]) == (0, "text")
    (tmp_path / "named" / "fifo").write_text("through")
    assert reader.communicate(timeout=5)[0] == "through"
    assert gate.loop.faults == 0
