"""What a real Langflow 1.13 answered, asked again of everything: `perdure up` with a runner of Langflow flows.

Each step of a recording is sent; the answer has every member of theirs with its value, ours may have more. Where we
differ on purpose the step is named below with the row of the contract's table (2.4) or the section that says so.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from tests.langflow import flowfiles
from tests.langflow.test_whole import up
from tests.unit.langflow.recordings import lines, steps

FLOWS: Final[dict[int, dict[str, str]]] = {
    1: {"<uuid:1>": "echo"},
    2: {"<uuid:1>": "router"},
    3: {"<uuid:1>": "diamond"},
    6: {"<uuid:1>": "diamond", "<uuid:6>": "router"},
    9: {"<uuid:1>": "failing", "<uuid:8>": "echo"},
    14: {"<uuid:1>": "echo"},
    16: {"<uuid:1>": "router"},
}
ON_PURPOSE: Final = {
    (1, "events of the sync job"): "row 22",
    (1, "stop of the sync job"): "row 22",
    (6, "the branch not taken"): "1.8: what never ran is not considered",
    (9, "unknown component"): "1.5: the session and what was produced are kept, the message is the component's",
    (9, "unknown field"): "1.5",
    (9, "component value not an object"): "1.5",
    (14, "agui, expose_graph_state true"): "row 14",
    (14, "status of the run id"): "row 22",
    (14, "events of the run id"): "row 22",
    (14, "stop of the run id"): "row 22",
    (16, "agui, expose_graph_state true"): "row 14",
}
ANY: Final = {
    "<time>": r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d| UTC)?",
    "<duration>": r"[0-9.e-]+(?: ms)?",
}
UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PLACE: Final = re.compile(r"<time>|<duration>|<uuid:\d+>")
PARTS: Final = re.compile(f"({PLACE.pattern})")
SETS: Final = ("ids", "to_run", "next_vertices_ids", "top_level_vertices", "inactivated_vertices")


class Same:
    """Compares, with placeholders that are whatever they were first."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def filled(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request with what is known in the place of its placeholders."""
        found: dict[str, Any] = json.loads(PLACE.sub(lambda m: self.known[m[0]], json.dumps(request)))
        return found

    def check(self, ours: Any, theirs: Any, at: str = "") -> None:
        """Raise AssertionError where ours lacks something of theirs, or says it otherwise."""
        if isinstance(theirs, dict):
            assert theirs.keys() <= ours.keys(), (at, ours)
            for name, value in theirs.items():
                mine = ours[name]
                if name in SETS:
                    mine, value = sorted(mine), sorted(value)
                self.check(mine, value, f"{at}/{name}")
        elif isinstance(theirs, list):
            assert len(ours) == len(theirs), (at, ours)
            for index, value in enumerate(theirs):
                self.check(ours[index], value, f"{at}/{index}")
        elif isinstance(theirs, str) and PLACE.search(theirs):
            places = [place for place in PLACE.findall(theirs) if place not in ANY]
            found = re.fullmatch("".join(self._pattern(part) for part in PARTS.split(theirs)), str(ours))
            assert found, (at, ours)
            for place, value in zip(places, found.groups(), strict=True):
                assert self.known.setdefault(place, value) == value, at
        else:
            assert ours == theirs, at

    def _pattern(self, part: str) -> str:
        if not PLACE.fullmatch(part):
            return re.escape(part)
        return ANY.get(part, f"({UUID})")


async def ask(http: aiohttp.ClientSession, same: Same, one: dict[str, Any]) -> None:
    """Send one step and compare the answers."""
    request, theirs = same.filled(one["request"]), one["response"]
    sent = {name: value for name, value in request["headers"].items() if name != "x-api-key"}
    async with http.request(request["method"], request["path"], json=request.get("json"), headers=sent) as answer:
        text = await answer.text()
        assert answer.status == theirs["status"], text
        for name, value in theirs["headers"].items():
            assert answer.headers[name].replace("; charset=utf-8", "") == value.replace("; charset=utf-8", "")
    if "json" in theirs:
        same.check(json.loads(text), theirs["json"])
        return
    ours = [json.loads(line) for line in lines(text)]
    recorded = [json.loads(line) for line in lines(theirs["text"])]
    assert [frame.get("event", frame.get("type")) for frame in ours] == [
        frame.get("event", frame.get("type")) for frame in recorded
    ]
    same.check(ours, recorded)


@pytest.mark.asyncio(loop_scope="function")
async def test_answers_and_streams_are_those_of_1_13(tmp_path: Path) -> None:
    asked = 0
    async with up(tmp_path) as (_, http):
        made = flowfiles.flows(seconds=0.2)
        for number, names in FLOWS.items():
            known = {}
            for place, name in names.items():
                async with http.post("/api/v1/flows/", json=made[name]) as answer:
                    known[place] = (await answer.json())["id"]
            same = Same(known)
            for one in steps(number):
                if (number, one["name"]) in ON_PURPOSE or one["request"]["path"].startswith("/api/v1/"):
                    continue
                try:
                    await ask(http, same, one)
                except AssertionError as exc:
                    raise AssertionError(f"{number:02} {one['name']}: {exc}") from exc
                asked += 1
    assert asked > 30
