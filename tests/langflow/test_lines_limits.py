"""What a flow may take and see; and that a process which dies, hangs or takes too much harms nobody else."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.langflow.bench import Bench, contents, finished
from tests.langflow.drive import order, play
from tests.langflow.flowfiles import custom

from perdure.bus.connection import Bus
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status
from perdure.core.langflow.overrides import Overrides
from perdure.errors import Unavailable
from perdure.ids import Tenant
from perdure.jobs import control
from perdure.local.server import NatsServer
from perdure.testing.factory import OWNER
from perdure_runner.langflow.frames import Ended
from perdure_runner.langflow.pool import Child, Confines, Pool, visible
from perdure_runner.langflow.run import LangflowRun

pytestmark = pytest.mark.asyncio(loop_scope="session")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def test_083_a_gate_in_a_loop_fails_and_runs_no_branch(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["loop_with_gate"], "a,b"), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("HITL_UNSUPPORTED_PLACE", "LoopComponent-l0001")
    assert contents(events) == {}


async def test_085_the_environment_of_the_runner_is_invisible(bench: Bench) -> None:
    assert len(os.environ) > 5
    flow = custom("text = ' '.join(sorted(os.environ))", "import os")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow))
    seen = set(contents(events)["out01"].split())
    lfx = {"OTEL_SEMCONV_STABILITY_OPT_IN", "USER_AGENT"}  # which it and its packages set themselves
    assert seen - lfx - {"LC_CTYPE"} == {"HOME", "TMPDIR", "LANGFLOW_CONFIG_DIR"}


async def test_087_a_child_over_its_memory_costs_an_attempt_and_the_runner_lives(
    bench: Bench, flows: dict[str, Any]
) -> None:
    flow = custom("held = []\nfor _ in range(64): held.append(bytearray(1 << 28))")
    async with bench.runner():
        beside = await bench.submit(flows["two_slow_steps"], "beside")
        events = await bench.reached(await bench.submit(flow, max_failures=1), Status.FAILED)
        assert contents(await bench.reached(beside)) == {"out01": "slept:slept:beside"}
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("out_of_memory", "Sleeper-own01")


async def test_a_child_that_dies_costs_three_attempts_at_most(bench: Bench) -> None:
    flow = custom("os._exit(3)", "import os")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow), Status.FAILED)
    failures = [e.data for e in events if isinstance(e, ev.StepFailed)]
    assert [(f.step, f.error.code, f.final) for f in failures] == [
        ("Sleeper-own01", "child_died", False),
        ("Sleeper-own01", "child_died", False),
        ("Sleeper-own01", "child_died", True),
    ]
    assert sum(isinstance(e, ev.AttemptStarted) for e in events) == 3


async def test_a_pass_that_hangs_is_ended_by_its_time(bench: Bench) -> None:
    bench.pass_seconds = 1.0
    flow = custom("while True: pass")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow, max_failures=1), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "timeout"


async def test_a_cancel_ends_a_component_that_ignores_it(bench: Bench) -> None:
    flow = custom("while True: pass")
    async with bench.runner():
        ref = await bench.submit(flow)
        await bench.heard(ref, lambda e: isinstance(e, ev.StepCompleted))
        await control.cancel(bench.desk, ref, OWNER, grace_seconds=5.0)
        events = await bench.reached(ref, Status.CANCELLED)
    end = events[-1]
    assert isinstance(end, ev.JobCancelled)
    assert end.attempt == 1


async def test_097_a_child_leaves_nothing_behind_and_has_a_folder_of_its_own(
    bench: Bench, eventually: Callable[..., Awaitable[None]]
) -> None:
    flow = custom(
        "open('left', 'w').close()\n"
        "open(os.path.expanduser('~/left2'), 'w').close()\n"
        "text = '|'.join([os.environ['LANGFLOW_CONFIG_DIR'], os.path.expanduser('~'), os.getcwd(),"
        " get_settings_service().settings.config_dir])",
        "import os\nfrom lfx.services.deps import get_settings_service",
    )
    async with bench.runner():
        jobs = [await bench.submit(flow) for _ in range(2)]
        found = [contents(await bench.reached(job))["out01"].split("|") for job in jobs]
    for places in found:
        assert len(set(places)) == 1, places
    assert found[0][0] != found[1][0]
    await eventually(lambda: not any(Path(places[0]).exists() for places in found))


async def test_a_component_has_no_socket_but_its_pipe(bench: Bench) -> None:
    flow = custom(
        "text = sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}') or os.path.islink(f'/proc/self/fd/{n}'))",
        "import os",
    )
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow))
    kinds = contents(events)["out01"]
    # its pipe, and the pair by which a loop wakes itself
    assert kinds.count("'socket'") == 3, kinds


@pytest.mark.parametrize("imported", ["no_such_package", "no_such_package.inner"])
async def test_099_an_import_that_is_missing_fails_at_once_and_is_named(bench: Bench, imported: str) -> None:
    flow = custom("pass", f"import {imported}")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "INVALID_FLOW_DATA"
    assert end.data.error.details["package"] == "no_such_package"
    assert end.data.error.step == "Sleeper-own01"
    assert end.attempt == 1


async def test_099_an_import_inside_a_function_fails_that_component(bench: Bench) -> None:
    flow = custom("import no_such_package")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("component_failed", "Sleeper-own01")
    assert end.data.error.details == {"error_type": "ModuleNotFoundError", "package": "no_such_package"}


async def test_022_globals_reach_a_component_behind_a_gate_and_are_in_no_event(
    bench: Bench, flows: dict[str, Any]
) -> None:
    bench.overrides = Overrides(globals={"MY_KEY": "canary-4711"})
    async with bench.runner():
        ref = await bench.submit(flows["secret_after_gate"], "x")
        await bench.reached(ref, Status.SUSPENDED)
        await bench.answer(ref, gate1="approve")
        events = await bench.reached(ref)
    assert contents(events) == {"ok001": "slept:x:**********"}  # lfx hides what a component gives away
    gives = {"Sleeper-s0001", "ChatOutput-ok001"}  # the component that gives it away, and the one that gets it
    assert not [e for e in events if "canary" in str(e) and getattr(e.data, "step", None) not in gives]


async def test_025_a_tweak_behind_a_gate_holds_after_a_resume(bench: Bench, flows: dict[str, Any]) -> None:
    bench.overrides = Overrides(tweaks={"Sleeper-slow2": {"seconds": 0.01, "text2": "t"}, "nobody": {"x": 1}})
    async with bench.runner():
        ref = await bench.submit(flows["hitl_slow"], "x")
        await bench.reached(ref, Status.SUSPENDED)
        await bench.answer(ref, gate1="approve")
        events = await bench.reached(ref)
    slow = {e.data.step: e.data.duration_seconds for e in events if isinstance(e, ev.StepCompleted)}
    assert slow["Sleeper-slow2"] < slow["Sleeper-slow1"]


async def test_a_protected_field_refuses_all_tweaks(bench: Bench, flows: dict[str, Any]) -> None:
    bench.overrides = Overrides(tweaks={"Sleeper-slow1": {"code": "import os", "seconds": 0.01}})
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["two_slow_steps"]), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "tweaks_refused"
    assert finished(events) == []


async def test_without_the_key_that_seals_it_a_job_waits_for_another_runner(
    bench: Bench, flows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(tenant: Tenant, submitted: ev.SubmittedData) -> Overrides:
        raise Unavailable("the master key k1 is not here")

    monkeypatch.setattr(bench, "_unseal", locked)
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["echo"]), Status.RETRYING)
    asleep = events[-1]
    assert isinstance(asleep, ev.JobSuspended)
    assert [(w.kind, w.expected) for w in asleep.data.waiting] == [("code", "the master key that seals the job")]


async def test_a_runner_that_cannot_start_lfx_hands_the_job_on(
    bench: Bench, flows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none() -> Child:
        raise Unavailable("no process to run the flow in")

    monkeypatch.setattr(bench.pool, "take", none)
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["echo"]), Status.RETRYING)
    asleep = events[-1]
    assert isinstance(asleep, ev.JobSuspended)
    assert [(w.kind, w.expected) for w in asleep.data.waiting] == [("code", "a process with lfx")]


async def test_a_lost_lease_kills_the_child(bench: Bench, eventually: Callable[..., Awaitable[None]]) -> None:
    lost: list[int] = []

    def watch(run: LangflowRun, event: AnyEvent) -> None:
        if isinstance(event, ev.StepCompleted) and not lost and run._child is not None:
            lost.append(run._child.pid.result())
            run._port.interrupt("the lease is in doubt")

    bench.watch = watch
    async with bench.runner():
        ref = await bench.submit(custom("while True: pass"))
        await bench.heard(ref, lambda e: isinstance(e, ev.StepCompleted))
        await eventually(lambda: not Path(f"/proc/{lost[0]}").exists())
        before = (await bench.log(ref)).state
        assert (before.attempt, before.status) == (1, Status.RUNNING)
        await bench.heard(ref, lambda e: isinstance(e, ev.AttemptStarted) and e.attempt == 2)
        await control.cancel(bench.desk, ref, OWNER, grace_seconds=5.0)
        await bench.reached(ref, Status.CANCELLED)


async def test_098_a_private_address_that_the_operator_allows() -> None:
    environ = {"LANGFLOW_SSRF_ALLOWED_HOSTS": "10.0.0.0/8"}
    imports = "from lfx.utils.ssrf_protection import validate_url_for_ssrf"
    async with Pool.running(Confines(ahead=1, environ=environ), SystemClock()) as pool:
        played = await play(pool, order(custom("validate_url_for_ssrf(text)", imports), "http://10.1.2.3/v1"))
    assert isinstance(played.end, Ended)


async def test_children_that_wait_are_replaced_when_the_process_that_forks_dies() -> None:
    async with Pool.running(Confines(ahead=1), SystemClock()) as pool:
        child = await pool.take()
        os.kill(parent_of(child.pid.result()), 9)
        assert await child.receive() is None
        await child.close()
        again = await pool.take()
        assert again.pid.result() != child.pid.result()
        await again.close()


async def test_who_waits_no_longer_for_a_child_takes_the_pool_from_nobody() -> None:
    async with Pool.running(Confines(ahead=0), SystemClock()) as pool:
        first = await pool.take()
        server = parent_of(first.pid.result())
        await first.close()
        waiting = asyncio.create_task(pool.take())
        await asyncio.sleep(0)  # now the fork is asked for, and its answer not heard
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(60):
            again = await pool.take()
        assert parent_of(again.pid.result()) == server
        await again.close()


async def test_a_child_that_dies_is_dead_though_what_it_started_holds_its_pipe(bench: Bench) -> None:
    bench.pass_seconds = 20.0
    flow = custom("if os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\nos._exit(3)", "import os, time")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow, max_failures=1), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "child_died"


async def test_what_a_component_starts_has_not_its_pipe(bench: Bench) -> None:
    """By `os.system` too, which closes no descriptor."""
    flow = custom("os.system('ls -l /proc/self/fd > fds')\ntext = open('fds').read()", "import os")
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow))
    assert "/dev/null" in contents(events)["out01"]
    assert "socket:" not in contents(events)["out01"]


async def test_what_a_component_has_started_dies_with_the_process_that_forks(
    session_bus: Bus, nats_server: NatsServer, tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    told = tmp_path / "pids"
    flow = custom(
        "sleeper = subprocess.Popen(['sleep', '300'])\n"
        f"open({str(told)!r}, 'w').write(f'{{sleeper.pid}} {{os.getppid()}}.')\n"
        "sleeper.wait()",
        "import os, subprocess",
    )
    async with Pool.running(Confines(ahead=1, environ=visible(os.environ, ())), SystemClock()) as pool:
        bench = Bench(session_bus, nats_server, pool)
        async with bench.runner():
            ref = await bench.submit(flow, max_failures=1)
            await eventually(lambda: told.exists() and told.read_text().endswith("."), within_seconds=60)
            sleeper, server = (int(pid) for pid in told.read_text().rstrip(".").split())
            assert runs(sleeper)
            os.kill(server, 9)
            await bench.reached(ref, Status.FAILED)
            await eventually(lambda: not runs(sleeper))


async def test_a_component_that_asks_in_words_of_its_own_fails_and_the_runner_goes_on(bench: Bench) -> None:
    flow = custom(
        "self._vertex.graph.request_pause('mine', {'request_id': 'x', 'timeout_seconds': 'soon'})\n"
        "await asyncio.sleep(30)",
        "import asyncio",
    )
    async with bench.runner():
        events = await bench.reached(await bench.submit(flow, max_failures=1), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert "asks in words that are no request's" in end.data.error.message
    assert (end.attempt, end.data.error.step) == (1, "Sleeper-own01")


def runs(pid: int) -> bool:
    """Whether the process is there, and no zombie that nobody has buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
