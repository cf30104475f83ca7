"""Processes die at every moment: the job goes on behind its journal, with the same outputs, and repeats nothing."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.langflow import flowfiles
from tests.langflow.bench import Bench, contents, cut_places, kill

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.ids import JobRef
from perdure_runner.langflow.run import LangflowRun

pytestmark = pytest.mark.asyncio(loop_scope="session")

FLOWS: dict[str, dict[str, str]] = {
    "echo": {},
    "router": {},
    "diamond": {},
    "loop": {},
    "hitl_minimal": {"gate1": "reject"},
    "hitl_two_gates": {"gate1": "approve", "gate2": "ship"},
    "hitl_two_parallel_gates": {"gate1": "approve", "gate2": "reject"},
    "hitl_parallel": {"gate1": "approve"},
    "gate_join": {"gate1": "approve"},
}

SLOW = ("diamond", "hitl_parallel")  # whose sleepers take their time


def begun(log: Path) -> Counter[str]:
    """How often each sleeper has begun."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[0] for line in lines if line.split()[1] == "start")


def ended(log: Path) -> Counter[str]:
    """How often each sleeper has ended."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[0] for line in lines if line.split()[1] == "end")


def flow(name: str, log: Path) -> dict[str, Any]:
    return flowfiles.flows(log=str(log), seconds=0.3)[name]


def recorded_before(events: list[AnyEvent], seq: int) -> set[str]:
    """The components that were finished in the log at `seq`."""
    return {e.data.step for e in events if isinstance(e, ev.StepCompleted) and e.seq <= seq}


@pytest.mark.parametrize("name", FLOWS)
async def test_074_kill_of_the_child_after_each_event(
    bench: Bench, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    actions: Mapping[str, str] = FLOWS[name]
    cuts: dict[JobRef, int] = {}
    killed: dict[JobRef, int] = {}

    def watch(run: LangflowRun, event: AnyEvent) -> None:
        ref = run._port.ref
        if cuts.get(ref) == event.seq and ref not in killed and kill(run):
            killed[ref] = event.seq

    async def cut(seq: int) -> tuple[JobRef, Path, list[AnyEvent]]:
        log = tmp_path / str(seq)
        ref = await bench.submit(flow(name, log), "a,b", cut=(cuts, seq))
        return ref, log, await bench.play(ref, actions)

    bench.watch = watch
    async with bench.runner():
        whole = await bench.play(await bench.submit(flow(name, tmp_path / "whole"), "a,b"), actions)
        found = await asyncio.gather(*(cut(seq) for seq in cut_places(whole)))
    looped, died = name == "loop", 0
    for ref, log, events in found:
        assert contents(events) == contents(whole)
        died += any(isinstance(e, ev.StepFailed) and e.data.error.code == "child_died" for e in events)
        again = {component for component, times in begun(log).items() if times > 1}
        if not looped:
            assert not again & recorded_before(events, killed.get(ref, 0))
    record_property("kills", len(killed))
    if name in SLOW:  # the children of the others may have said everything by the time they are killed
        assert died >= 1


async def test_074_the_whole_flow_runs_each_component_once(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with bench.runner():
        await bench.play(await bench.submit(flow("diamond", log), "a"), {})
    assert set(begun(log).values()) == {1}
    assert begun(log) == ended(log)
