"""`perdure up` as its users have it: processes, a data folder, signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from perdure.cli.examples import example
from perdure.client import Client, HumanRequest, JobCancelled, NeedsPerson, Reply
from perdure.errors import NotFound
from perdure.local.launch import UpFailed, UpProcess, launched
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel

Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
Eventually = Callable[..., Awaitable[None]]
FLOW = example("content_approval")
NAMES = {"gateway", "runner-1", "sweeper", "nats"}


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def approve(client: Client, job: str) -> None:
    [request] = (await client.job(job)).requests
    await client.answer(await client.request(request.id), "approve")


async def test_the_main_job_runs_and_sigterm_ends_everything_in_order(
    up: Up, model: ChatModel, eventually: Eventually
) -> None:
    async with up() as running:
        pids = running.processes()
        assert set(pids) == NAMES
        async with whole.client_of(running) as client:
            job = await whole.submit(client, FLOW, "the text of this test", key="k")
            before = await whole.events(client, job, until="suspended")
            await approve(client, job)
            after = await whole.events(client, job, before[-1].seq or 0)
            assert [f.seq for f in before + after] == list(range(1, len(before + after) + 1))
            assert after[-1].type == "job.completed"
            found = await client.job(job)
            assert found.outputs is not None
            assert "the text of this test" in found.outputs["post"]
            assert await whole.submit(client, FLOW, "the text of this test", key="k") == job
            assert len(model.calls) == 1

            async def listed() -> bool:
                return [j.status for j in (await client.jobs()).data] == ["completed"]

            await eventually(listed)
        assert await running.stop() == 0
    assert not [name for name, pid in pids.items() if whole.alive(pid)]
    stops = [json.loads(line) for line in running.log.read_text().splitlines() if '"event": "stopped"' in line]
    assert [(line["service"], line["exit_code"]) for line in stops] == [
        ("gateway", 0),
        ("runner", 0),
        ("sweeper", 0),
        ("up", 0),
    ]


async def test_each_process_that_is_killed_is_started_again_and_work_goes_on(up: Up, eventually: Eventually) -> None:
    async with up() as running, whole.client_of(running) as client:
        first = running.processes()
        for name in sorted(NAMES):
            running.kill(name)
        await eventually(
            lambda: set(now := running.processes()) == NAMES and not set(now.values()) & set(first.values()),
            within_seconds=30,
        )
        job = await whole.submit(client, FLOW, "hello")
        await whole.events(client, job, until="suspended")
        assert running.process.returncode is None


async def test_nothing_outlives_a_supervisor_that_is_killed_and_the_next_start_goes_on(
    up: Up, eventually: Eventually
) -> None:
    async with up() as running, whole.client_of(running) as client:
        key = running.client.key
        done, asleep = await whole.submit(client, FLOW, "one"), await whole.submit(client, FLOW, "two")
        before = {job: await whole.events(client, job, until="suspended") for job in (done, asleep)}
        await approve(client, done)
        ended = before[done] + await whole.events(client, done, before[done][-1].seq or 0)
        pids = running.processes()
        running.process.kill()
        await running.process.wait()
        await eventually(lambda: not [name for name, pid in pids.items() if whole.alive(pid)])
    async with up() as again, whole.client_of(again) as client:
        assert again.client.key == key
        assert await whole.events(client, done, 0) == ended
        assert (await client.job(done)).status == "completed"
        assert await whole.events(client, asleep, until="suspended") == before[asleep]
        await approve(client, asleep)
        after = await whole.events(client, asleep, before[asleep][-1].seq or 0)
        assert after[-1].type == "job.completed"


async def test_a_second_up_on_the_same_folder_is_refused_and_the_first_lives_on(
    up: Up, environ: dict[str, str], tmp_path: Path
) -> None:
    async with up() as running:
        with pytest.raises(UpFailed, match="exit code 2"):
            async with launched(running.data, environ=environ, log=tmp_path / "second.log"):
                pass
        assert "is in use by another `perdure up`" in (tmp_path / "second.log").read_text()
        async with whole.client_of(running) as client:
            with pytest.raises(NotFound):
                await client.job("00000000-0000-0000-0000-000000000000")


async def test_a_port_that_is_taken_is_refused(up: Up, environ: dict[str, str], tmp_path: Path) -> None:
    async with up() as running:
        port = running.url.rpartition(":")[2]
        ended = await run_cli(["up", "--data", str(tmp_path / "other"), "--port", port], environ)
        assert ended.returncode == 2
        assert f"127.0.0.1:{port} cannot be listened on" in ended.stderr


async def test_an_unknown_setting_stops_the_start_and_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    for command in (["up", "--data", str(tmp_path / "data"), "--port", "0"], ["gateway"], ["runner"], ["sweeper"]):
        ended = await run_cli(command, environ | {"PERDURE_SLOT": "3"})
        assert ended.returncode == 2, ended.stderr
        assert "PERDURE_SLOT" in ended.stderr
        assert "no such setting" in ended.stderr


async def test_no_secret_is_in_an_argument_a_log_line_or_a_file_that_others_may_read(up: Up, tmp_path: Path) -> None:
    async with up() as running:
        key = str(running.client.key)
        config = (running.data / "nats" / "nats.conf").read_text()
        secrets = {key, *(part.split('"')[1] for part in config.split("password: ")[1:])}
        assert len(secrets) > 4
        arguments = [command_line(pid) for pid in (*running.processes().values(), running.pid)]
        assert not [s for s in secrets for text in (*arguments, running.log.read_text()) if s in text]
        readable = [p for p in running.data.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
        assert not [p for p in readable if any(s.encode() in p.read_bytes() for s in secrets)]
        assert running.data.stat().st_mode & 0o77 == 0


async def test_the_command_line_does_what_the_client_does(
    up: Up, environ: dict[str, str], tmp_path: Path, eventually: Eventually
) -> None:
    async with up() as running:
        env = environ | {"PERDURE_URL": running.url, "PERDURE_KEY": str(running.client.key)}
        flow = tmp_path / "flow.json"
        flow.write_text(json.dumps(example("content_approval")))
        pushed = await run_cli(["flows", "push", str(flow), "--json"], env)
        assert (pushed.returncode, json.loads(pushed.stdout)["version"]) == (0, 1)
        ran = await run_cli(["run", "content_approval", "--input", "hi there", "--follow", "--json"], env)
        assert ran.returncode == 8, ran.stderr  # waits for a person, and nobody sits at a terminal
        events = [json.loads(line) for line in ran.stdout.splitlines()]
        assert events[0]["type"] == "job.submitted"
        job = events[0]["job_id"]
        [request] = [event["data"]["request"]["id"] for event in events if event["type"] == "input.requested"]

        async def listed() -> bool:
            lines = (await run_cli(["inbox", "list", "--json"], env)).stdout.splitlines()
            return [json.loads(line)["id"] for line in lines] == [request]

        await eventually(listed)
        shown = await run_cli(["inbox", "show", request], env)
        assert "hi there" in shown.stdout
        wrong = await run_cli(["answer", request, "no-such-action"], env)
        assert (wrong.returncode, "/action" in wrong.stderr) == (2, True)
        assert (await run_cli(["answer", request, "reject"], env)).returncode == 0
        assert (await run_cli(["answer", request, "reject"], env)).returncode == 0
        assert (await run_cli(["answer", request, "approve"], env)).returncode == 5
        watched = await run_cli(["watch", job, "--from", "2"], env)
        assert watched.returncode == 0
        assert "job.completed" in watched.stdout
        got = await run_cli(["jobs", "get", job, "--json"], env)
        assert json.loads(got.stdout)["status"] == "completed"
        other = await run_cli(["run", "content_approval", "--input", "x", "--json"], env)
        assert (await run_cli(["cancel", json.loads(other.stdout)["id"], "--force"], env)).returncode == 0
        assert (await run_cli(["watch", json.loads(other.stdout)["id"]], env)).returncode == 9
        assert (await run_cli(["jobs", "get", "00000000-0000-0000-0000-000000000000"], env)).returncode == 4
        assert (await run_cli(["jobs", "list", "--key", "pdr_wrong"], env)).returncode == 3
        assert (await run_cli(["run", "no_such_flow"], env)).returncode == 4
        (tmp_path / "bad.json").write_text('{"format": "perdure.graph/1", "name": "bad", "nodes": [{"id": "a"}]}')
        bad = await run_cli(["flows", "push", str(tmp_path / "bad.json")], env)
        assert (bad.returncode, "/definition/nodes/0" in bad.stderr) == (2, True)


async def run_cli(arguments: list[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """One command of the real program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perdure.cli.app", *arguments, env=environ, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out.decode(), err.decode())


async def test_a_broker_whose_port_was_taken_comes_back_on_another_and_everything_with_it(
    up: Up, eventually: Eventually
) -> None:
    async with up() as running, whole.client_of(running) as client:
        job = await whole.submit(client, FLOW, "hello")
        await whole.events(client, job, until="suspended")
        before, first = json.loads((running.data / "nats.json").read_text()), running.processes()
        port = int(before["url"].rpartition(":")[2])
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

            def stolen() -> bool:
                try:
                    thief.bind(("127.0.0.1", port))
                except OSError:
                    return False
                thief.listen()
                return True

            os.kill(first["nats"], signal.SIGKILL)
            async with asyncio.timeout(10):
                while not stolen():  # noqa: ASYNC110  # quicker than the supervisor, so without any pause
                    await asyncio.sleep(0)
            await eventually(
                lambda: set(now := running.processes()) == NAMES and not set(now.values()) & set(first.values()),
                within_seconds=60,
            )
            assert json.loads((running.data / "nats.json").read_text())["url"] != before["url"]
            await approve(client, job)
            assert (await whole.events(client, job))[-1].type == "job.completed"
            assert await running.stop() == 0


async def test_a_job_is_run_to_its_outputs_by_one_call_or_to_the_error_that_says_how_it_ended(up: Up) -> None:
    shown: list[str] = []

    async def approve_it(request: HumanRequest) -> Reply:
        shown.append(request.title)
        return Reply(action="approve")

    async with up() as running, whole.client_of(running) as client:
        await client.push_flow(FLOW["name"], dict(FLOW))
        outputs = await client.run(FLOW["name"], "hello", on_request=approve_it, timeout=60)
        assert "hello" in outputs["post"]
        assert shown == ["Publish this?"]
        with pytest.raises(NeedsPerson) as asks:
            await client.run(FLOW["name"], "hello", timeout=60)
        [request] = asks.value.job.requests
        assert request.title == "Publish this?"
        await client.cancel(asks.value.job.id)
        with pytest.raises(JobCancelled):
            await client.result(asks.value.job.id, timeout=60)
