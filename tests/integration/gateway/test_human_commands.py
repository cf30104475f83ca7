"""The commands of people against a real gateway: what they print and the codes that they exit with."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.bus.audit import Record
from perdure.cli.app import main
from perdure.cli.session import Exit
from perdure.core import event as ev
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
Project = Callable[[Hand], Awaitable[None]]


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than lists."""
    return "sqlite"


class Shell:
    """Commands with the key of one client."""

    def __init__(self, client: Any, capture: pytest.CaptureFixture[bytes]) -> None:
        self._client, self._capture = client, capture
        self.err = ""

    async def __call__(self, *words: str, code: int = Exit.DONE, json_: bool = True) -> list[Any]:
        """Run a command; its lines, decoded with --json. Fails when it exits with another code."""
        self._capture.readouterr()
        here = ["--url", self._client.url, "--key", self._client.key, *(["--json"] if json_ else [])]
        found = await asyncio.to_thread(main, [*words, *here])
        out, err = self._capture.readouterr()
        self.err = err.decode()
        assert found == code, self.err
        return [json.loads(line) if json_ else line.decode() for line in out.splitlines()]


async def test_people_at_the_command_line(
    gateway: Gateway, hand: Hand, person: Person, project: Project, capsysbinary: pytest.CaptureFixture[bytes],
    audited: Callable[[int], Awaitable[list[Record]]],
) -> None:  # fmt: skip
    ann, bob = Shell(gateway.client, capsysbinary), Shell(await person("bob"), capsysbinary)
    await ann("groups", "add", "leads", "bob")
    assert [g["members"][0]["principal"] for g in await ann("groups", "list")] == ["user:bob"]
    assert (await ann("groups", "list", json_=False))[0].split() == ["leads", "user:bob"]
    asked = await hand.ask(assignees=ev.Assignees(groups=("leads",)))
    both = ev.Assignees(users=("ann", "bob"))
    voted = await hand.ask(name="b", assignees=both, quorum=ev.Quorum(n=2))
    await project(hand)
    assert {row["id"] for row in await ann("inbox", "list")} == {asked, voted}
    assert [row["id"] for row in await ann("inbox", "list", "--mine")] == [voted]
    assert [row["id"] for row in await bob("inbox", "list", "--assignee", "group:leads")] == [asked]
    assert await ann("inbox", "list", "--overdue") == []
    await ann("inbox", "list", "--assignee", "nobody", code=Exit.USAGE)
    assert "assignee" in ann.err

    await ann("answer", asked, "approve", code=Exit.REFUSED)
    await ann("inbox", "delegate", asked, "--to", "cy", code=Exit.REFUSED)
    [moved] = await bob("inbox", "delegate", asked, "--to", "cy", "--comment", "yours")
    assert (moved["revision"], moved["delegations"][0]["to"]) == (2, "user:cy")
    await ann("inbox", "comment", asked, "why?")
    shown = await ann("inbox", "show", asked, json_=False)
    assert any("user:ann: why?" in line for line in shown)
    assert any("asks" in line and "cy" in line for line in shown)
    [gone] = await ann("inbox", "withdraw", asked, "--reason", "not needed")
    assert (gone["status"], gone["settled"]["reason"]) == ("withdrawn", "not needed")
    await ann("inbox", "withdraw", asked, "--reason", "another", code=Exit.CONFLICT)
    await ann("inbox", "withdraw", voted.replace("_", "_9"), code=Exit.NOT_THERE)

    [pending] = await ann("answer", voted, "approve")
    assert (pending["status"], pending["tally"][0]["votes"]) == ("pending", 1)
    assert "1 for approve" in (await ann("answer", voted, "approve", json_=False))[0]
    await ann("answer", voted, "reject", "--comment", "no", code=Exit.CONFLICT)
    assert any("quorum   2, so far 1 approve" in line for line in await bob("inbox", "show", voted, json_=False))
    last = (await bob("answer", voted, "approve"))[0]
    assert (last["status"], last["settled"]["via"]["channel"]) == ("answered", "cli")
    assert {record.channel for record in await audited(12)} == {"cli"}
    await ann("groups", "rm", "leads", "bob")
    await ann("groups", "rm", "leads", "bob", code=Exit.NOT_THERE)


async def test_links_at_the_command_line(
    gateway: Gateway, hand: Hand, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    ann, nobody = Shell(gateway.client, capsysbinary), gateway.client.using("")
    asked = await hand.ask()
    await ann("inbox", "link", asked, code=Exit.USAGE)
    [made] = await ann("inbox", "link", asked, "--for", "board", "--action", "approve")
    assert (made["for"], made["actions"]) == ("link:board", ["approve"])
    [url] = await ann("inbox", "link", asked, "--for", "board", json_=False)
    assert url.startswith(f"{gateway.client.url}/r/")
    assert "shown once" in ann.err
    path = url.removeprefix(gateway.client.url)
    assert (await nobody.get(path)).status == 200
    await ann("inbox", "link", asked, "--revoke", made["id"])
    gone = await nobody.get(made["url"].removeprefix(gateway.client.url))
    assert gone.status == 410
    await ann("inbox", "link", asked, "--for", "board", "--action", "explode", code=Exit.USAGE)
    assert "/actions/0" in ann.err
    assert (await nobody.post(path, {"action": "approve"})).status == 200
