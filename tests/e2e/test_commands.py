"""Every client command against a running `perdure up`: what it prints, and the code it exits with."""

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.app import main
from perdure.cli.examples import example
from perdure.cli.session import Exit
from perdure.local.launch import UpProcess

Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
Eventually = Callable[..., Awaitable[None]]
FLOW = "content_approval"


class Shell:
    """Commands on one data folder, as a script would call them."""

    def __init__(self, data: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self._data, self._capture = data, capture
        self.err = ""

    async def __call__(self, *words: str, code: int = Exit.DONE) -> list[Any]:
        """Run a command with --json; its lines. Fails when it exits with another code."""
        self._capture.readouterr()
        found = await asyncio.to_thread(main, [*words, "--json", "--data", str(self._data)])
        out, err = self._capture.readouterr()
        self.err = err.decode()
        assert found == code, self.err
        return [json.loads(line) for line in out.splitlines()]

    async def people(self, *words: str) -> str:
        """Run a command as people see it; what it prints."""
        self._capture.readouterr()
        assert await asyncio.to_thread(main, [*words, "--data", str(self._data)]) == Exit.DONE
        return self._capture.readouterr().out.decode()


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    file = tmp_path / "flow.json"
    file.write_text(json.dumps(example(FLOW)))
    return file


async def test_commands_on_jobs_and_flows(
    up: Up,
    definition: Path,
    tmp_path: Path,
    eventually: Eventually,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with up() as running:
        shell = Shell(running.data, capsysbinary)
        [checked] = await shell("flows", "push", str(definition), "--dry-run")
        await shell("flows", "pull", FLOW, code=Exit.NOT_THERE)
        [flow] = await shell("flows", "push", str(definition))
        assert (checked["digest"], flow["version"]) == (flow["digest"], 1)
        assert await shell("flows", "pull", FLOW) == [example(FLOW)]
        changed = example(FLOW) | {"description": "another"}
        definition.write_text(json.dumps(changed))  # noqa: ASYNC240  # a small file of the test's own
        assert (await shell("flows", "push", str(definition)))[0]["version"] == 2
        assert (await shell("flows", "restore", FLOW, "1"))[0]["digest"] == flow["digest"]
        assert [row["version"] for row in await shell("flows", "versions", FLOW)] == [3, 2, 1]

        run = ("run", FLOW, "--input", "hello", "--tag", "team=a")
        [asked] = await shell(*run, "--wait", "60", code=Exit.NEEDS_PERSON)
        assert (asked["status"], asked["tags"]) == ("suspended", {"team": "a"})
        [done] = await shell(*run, "--wait", "60", "--answer", "review=approve")
        assert done["status"] == "completed"
        lines = await shell(*run, "--follow", "--answer", "review=approve", "--priority", "high")
        job = lines[0]["job_id"]
        events = [line["seq"] for line in lines if not line["type"].startswith("delta.")]
        assert events == list(range(1, len(events) + 1))
        await shell(*run, "--answer", "review=approve", code=Exit.USAGE)
        await shell("run", "nobody", code=Exit.NOT_THERE)

        tail = await shell("watch", job, "--from", str(events[-2]))
        assert [line["type"] for line in tail] == ["job.completed"]
        named = await shell("watch", job, "--types", "input.*,job.completed", "--raw")
        assert [line["type"] for line in named] == ["input.requested", "input.answered", "job.completed"]
        logs = [line for line in await shell("jobs", "logs", job) if not line["type"].startswith("delta.")]
        assert [line["seq"] for line in logs] == events
        assert await shell("jobs", "export", job) == logs
        [state] = await shell("jobs", "state", job, "--at", "1")
        assert (state["offset"], state["job"]["status"]) == ("1", "queued")
        for command in (("jobs", "state"), ("jobs", "get"), ("jobs", "subject"), ("watch",)):
            text = await shell.people(*command, job)
            assert (job if command != ("watch",) else "job.completed") in text

        [request] = asked["requests"]

        async def in_the_inbox() -> bool:
            return [row["id"] for row in await shell("inbox", "list", "--job", asked["id"])] == [request["id"]]

        await eventually(in_the_inbox)
        assert request["id"] in await shell.people("inbox", "show", request["id"])
        await shell("answer", request["id"], "dance", code=Exit.USAGE)
        assert (await shell("answer", request["id"], "approve"))[0]["status"] == "answered"
        await shell("answer", request["id"], "reject", "--comment", "late", code=Exit.CONFLICT)
        await shell("watch", asked["id"])
        await shell("jobs", "retry", asked["id"], code=Exit.CONFLICT)
        await shell("jobs", "signal", asked["id"], "go", code=Exit.CONFLICT)

        [sleeping] = await shell(*run, "--wait", "60", code=Exit.NEEDS_PERSON)
        await shell("jobs", "delete", sleeping["id"], code=Exit.CONFLICT)

        async def listed() -> bool:
            rows = await shell("jobs", "list", "--waiting", "person")
            return [row["id"] for row in rows] == [sleeping["id"]]

        await eventually(listed)
        await shell("flows", "delete", FLOW, code=Exit.CONFLICT)
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{sleeping['id']}  suspended\n"))
        [cancelled] = await shell("jobs", "cancel", "-", "--reason", "enough")
        assert cancelled["status"] == "cancelled"
        await shell("watch", sleeping["id"], code=Exit.CANCELLED)
        gone, missing = sleeping["id"], "0198aaaa-0000-7000-8000-000000000001"
        assert await shell("jobs", "delete", missing, gone, code=Exit.NOT_THERE) == [{"id": gone, "deleted": True}]
        await shell("jobs", "get", gone, code=Exit.NOT_THERE)
        await shell("jobs", "export", job, "--out", str(tmp_path))
        assert len((tmp_path / f"{job}.jsonl").read_bytes().splitlines()) == len(events)


async def test_commands_of_operators(
    up: Up, eventually: Eventually, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with up() as running:
        shell = Shell(running.data, capsysbinary)
        [made] = await shell("keys", "create", "ci", "--service", "ci", "--scope", "read")
        assert made["secret"].startswith(f"pdr_{made['id']}_")
        await shell("jobs", "list", "--key", made["secret"])
        await shell("cancel", "0198aaaa-0000-7000-8000-000000000001", "--key", made["secret"], code=Exit.REFUSED)
        [turned] = await shell("keys", "rotate", made["id"])
        assert turned["scopes"] == ["read"]
        await shell("keys", "rm", turned["id"])
        await shell("jobs", "list", "--key", turned["secret"], code=Exit.REFUSED)
        rows = {row["id"]: row for row in await shell("keys", "list")}
        assert (rows[made["id"]]["name"], "revoked_at" in rows[turned["id"]]) == ("ci", True)
        assert json.loads((running.data / "nats.json").read_text()) == (await shell("keys", "nats"))[0]
        await shell("keys", "nats", "--tenant", "other", code=Exit.NOT_THERE)

        await shell("tenants", "add", "other")
        await shell("tenants", "add", "not a token", code=Exit.USAGE)
        [first] = await shell("keys", "create", "first", "--tenant", "other", "--user", "ann")
        assert await shell("jobs", "list", "--key", first["secret"]) == []
        await shell("tenants", "disable", "other")
        await shell("tenants", "disable", "nobody", code=Exit.NOT_THERE)
        [turned] = await shell("tenants", "rotate", "other")
        assert turned["before_until"] > turned["signs_at"]
        await shell("tenants", "rotate", "other", code=Exit.CONFLICT)
        [turned] = await shell("tenants", "rotate", "other", "--now")
        assert set(turned) == {"tenant", "signs_at"}
        await shell("tenants", "rotate", "nobody", code=Exit.NOT_THERE)
        tenants = {row["tenant"]: row.get("disabled_at") for row in await shell("tenants", "list")}
        assert tenants["main"] is None
        assert tenants["other"] is not None

        async def registered() -> bool:
            return len(await shell("runners", "list")) == 1

        await eventually(registered)
        [runner] = await shell("runners", "list")
        assert (runner["status"], runner["queues"]) == ("up", ["default"])
        assert {row["queue"] for row in await shell("queues")} == {"default"}
        assert re.search(r"default +high +0 waiting", await shell.people("queues"))
        [drained] = await shell("runners", "drain", runner["id"])
        assert drained["status"] == "draining"
