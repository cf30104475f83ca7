"""Failpoints: what arms, what fires, and that the table and the code agree."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure import probe
from perdure.probe import SimulatedCrash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    probe.arm("")


def test_an_unarmed_point_does_nothing() -> None:
    probe.hit("step.after_run")


def test_an_armed_point_raises_and_the_others_do_not() -> None:
    probe.arm("step.after_run=raise")
    probe.hit("step.before_run")
    with pytest.raises(SimulatedCrash, match=r"step\.after_run"):
        probe.hit("step.after_run")


def test_a_point_may_fire_at_one_hit_only() -> None:
    probe.arm("step.after_run=raise:n2")
    probe.hit("step.after_run")
    with pytest.raises(SimulatedCrash):
        probe.hit("step.after_run")
    probe.hit("step.after_run")


def test_a_probability_of_nought_never_fires_and_of_one_always() -> None:
    probe.arm("step.after_run=raise:p0; step.before_run=raise:p1")
    probe.hit("step.after_run")
    with pytest.raises(SimulatedCrash):
        probe.hit("step.before_run")


@pytest.mark.parametrize("text", ["nowhere=exit", "step.after_run", "step.after_run=burn", "step.after_run=exit:x1"])
def test_what_cannot_be_armed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PERDURE_FAILPOINTS"):
        probe.arm(text)


def test_the_environment_arms_a_process_which_dies_without_cleanup() -> None:
    code = "from perdure import probe\ntry:\n probe.hit('step.after_run')\nfinally:\n print('cleanup')"
    environ = {**os.environ, "PERDURE_FAILPOINTS": "step.after_run=exit"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (137, "")


def test_every_point_that_code_passes_is_in_the_table() -> None:
    sources = [*(ROOT / "shared").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    passed = {m for f in sources for m in re.findall(r'\bprobe\.hit\("([^"]+)"\)', f.read_text())}
    assert passed <= probe.POINTS
