# SPDX-License-Identifier: Apache-2.0
"""One run of the agent through the script, bare or governed, and what came of every step."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo import agent, outside, repository, script
from demo.account import Account
from demo.failure import DemoError
from demo.model_server import Conversation, serving
from demo.scene import Scene
from demo.script import Attack, Step, World
from demo.watch import watching

_AGENT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to. `worked`, of an attack: its effect was seen from outside."""

    step: Step
    told: str
    worked: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What the repository says after the run, looked at from outside the session."""

    committed: bool
    tests_pass: bool
    clean: bool


@dataclass(slots=True)
class Run:
    """All outcomes in the script's order, the state of the work, and what the agent printed."""

    outcomes: list[Outcome] = field(default_factory=list)
    work: Work | None = None
    status: int = -1
    output: str = ""

    @property
    def attacks(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if isinstance(outcome.step, Attack)]


def perform(
    scene: Scene, account: Account, agent_place: Path, launcher: Sequence[str], log: Path
) -> Run:
    """Run the agent, started through `launcher` (empty: bare), until it says that it is done.

    Raises DemoError where the agent did not get through the whole script. `log` gets its output.
    """
    steps = (*script.work(), *script.attacks(scene), script.finish())
    run = Run()

    def on_done(step: Step, told: str) -> None:
        worked = isinstance(step, Attack) and step.worked(world)
        run.outcomes.append(Outcome(step, told, worked))
        if run.work is None and step.title == script.LAST_OF_WORK:
            run.work = _inspect(scene, account, commits)
        print(".", end="", flush=True)

    conversation = Conversation(steps, on_done)
    commits = repository.commit_count(scene.workspace, account)
    with ExitStack() as stack:
        arrivals = outside.Arrivals()
        stack.enter_context(outside.host(scene.network, arrivals))
        stack.enter_context(outside.container_engine(scene, arrivals))
        stack.enter_context(outside.neighbour(account, scene.secrets.neighbour))
        watch = stack.enter_context(watching(account.uid))
        world = World(scene, arrivals, watch, conversation.transcript)
        agent.configure(account, stack.enter_context(serving(conversation)))
        _start(run, account, [*launcher, *agent.command(agent_place)], scene.workspace)
        log.write_text(run.output)
        # What is under way when a step ends may arrive later.
        run.outcomes = [_look_again(outcome, world) for outcome in run.outcomes]
    print(flush=True)
    # The last step ends the agent: nobody reports its outcome.
    if conversation.done != len(steps) - 1:
        why = conversation.problem or f"exit status {run.status}"
        raise DemoError(
            f"the agent stopped after {conversation.done} of {len(steps) - 1} steps: {why}\n"
            f"its output is in {log}; it ends with\n{run.output[-2000:]}"
        )
    return run


def _start(run: Run, account: Account, argv: Sequence[str], workspace: Path) -> None:
    process = account.start(argv, cwd=workspace)
    try:
        run.output, _ = process.communicate(timeout=_AGENT_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        run.output, _ = process.communicate()
    run.status = process.returncode


def _look_again(outcome: Outcome, world: World) -> Outcome:
    if isinstance(outcome.step, Attack) and not outcome.worked:
        return replace(outcome, worked=outcome.step.worked(world))
    return outcome


def _inspect(scene: Scene, account: Account, commits_before: int) -> Work:
    return Work(
        committed=repository.commit_count(scene.workspace, account) == commits_before + 1,
        tests_pass=repository.tests_pass(scene.workspace, account),
        clean=repository.is_clean(scene.workspace, account),
    )
