"""The reference pages hold what the code holds: event types and members, subjects and rights, routes, problems."""

import re
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args

import pytest
from msgspec import Struct
from msgspec.structs import fields

from perdure.bus.layout import Topology, streams
from perdure.core import event as ev
from perdure.core.event import TYPE_OF, Status
from perdure.local.server import RIGHTS
from perdure_gateway.app import RESOURCES
from perdure_gateway.problems import KINDS

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = {page.stem: page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")}
_PATTERN: Final = re.compile(r"(?<=\{)(\w+):((?:[^{}]|\{[^{}]*\})*)(?=\})")  # what a path segment must look like
MEMBERS_OF_THEIR_OWN: Final = (ev.Event, ev.Usage, ev.Failure, ev.BlobRef)  # told once on the page


def rows(page: str) -> dict[str, str]:
    """The rows of a page's tables by what stands first in them."""
    found = (line.split(" | ", 1) for line in PAGES[page].splitlines() if line.startswith("| "))
    return {first.removeprefix("| ").strip(): rest for first, rest in ((f[0], f[1]) for f in found if len(f) == 2)}


def parts(annotation: Any) -> list[type[Struct]]:  # Any: a type expression
    """The records that a member's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return [annotation]
    if isinstance(annotation, UnionType) or get_args(annotation):
        return [p for a in get_args(annotation) for p in parts(a)]
    return []


def members(record: type[Struct]) -> set[str]:
    """The names of a record's members, and of its records' members."""
    found = set()
    for field in fields(record):
        found.add(field.name)
        for part in parts(field.type):
            if part not in MEMBERS_OF_THEIR_OWN:
                found |= members(part)
    return found


@pytest.mark.parametrize("cls", TYPE_OF, ids=str)
def test_an_event_type_has_a_row_that_names_its_members_and_no_others(cls: type[Struct]) -> None:
    text = rows("events")[f"`{TYPE_OF[cls]}`"]  # type: ignore[index]  # the keys of TYPE_OF
    [data] = [f.type for f in fields(cls) if f.name == "data"]
    words = {w for quoted in re.findall(r"`([^`]+)`", text) for w in re.findall(r"[a-z_]+", quoted)}
    missing = members(data) - words
    assert missing == set()


def test_the_page_of_events_has_no_type_that_is_none() -> None:
    found = {
        name.strip("`")
        for name in rows("events")
        if re.fullmatch(r"`[a-z]+\.[a-z_]+`|`output`|`message`|`progress`", name)
    }
    assert found == set(TYPE_OF.values())


def test_the_envelope_and_the_statuses_are_told() -> None:
    envelope = {name.strip("`?") for name in rows("events") if re.fullmatch(r"`[a-z_]+\??`", name)}
    assert {f.name for f in fields(ev.Event)} | {"type", "data"} <= envelope
    for status in Status:
        assert f"`{status}`" in PAGES["events"]


def test_every_stream_and_subject_is_told() -> None:
    page = PAGES["subjects"]
    for stream in streams(Topology(shards=1)):
        assert f"`{stream.name.replace('_0', '_<shard>')}`" in page
        for subject in stream.subjects:
            plain = "<[a-z0-9]+>".join(re.escape(part.replace("0", "<shard>")) for part in subject.split("*"))
            assert re.search(f"`{plain}`", page), subject


@pytest.mark.parametrize("user", [user for user in RIGHTS if user != "admin"])
def test_what_a_user_of_the_broker_may_do_is_told(user: str) -> None:
    [text] = [rest for first, rest in rows("subjects").items() if first.split(",")[0] == f"`{user}`"]
    publish, subscribe = (re.findall(r"`([^`]+)`", cell) for cell in text.split(" | ")[:2])
    assert tuple(publish) == RIGHTS[user].publish
    assert (*subscribe, f"_SVC.{user}.>") == RIGHTS[user].subscribe


def test_every_route_is_told_and_no_other() -> None:
    routes = [r for resource in RESOURCES for r in resource.ROUTES]
    served = {f"{route.method} {_PATTERN.sub(lambda m: m[1], route.path)}" for route in routes}
    told = {name for first in rows("http") for name in re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) [^`]+)`", first)}
    assert told == served


def test_every_problem_is_told_under_its_status_and_no_other() -> None:
    told: dict[str, int] = {}
    for first, rest in rows("http").items():
        if re.fullmatch(r"[0-9 ]+", first):
            for status, codes in zip(first.split(), rest.removesuffix(" |").split(" · "), strict=False):
                told |= dict.fromkeys(re.findall(r"`([a-z-]+)`", re.sub(r"\([^)]*\)", "", codes)), int(status))
    assert told == {code: kind.status for code, kind in KINDS.items()}
