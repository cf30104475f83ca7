"""Plays recordings of Langflow 1.13 against a gateway and compares what both say."""

import json
import re
from typing import Any

from tests.integration.gateway.conftest import Answer
from tests.integration.langflow.conftest import Api

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
PLACE = re.compile(r"<uuid:\d+>")


class Replay:
    """Plays the steps of a recording against the gateway: placeholders become what the answers showed."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.known: dict[str, str] = {}

    async def play(self, one: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
        """The answer to a step, and the response that 1.13 gave."""
        asked = self.filled(one["request"])
        headers = {n.replace("-", "_"): v for n, v in asked.get("headers", {}).items() if n != "x-api-key"}
        if "multipart" in asked:
            answer = await self.api.upload(asked["multipart"]["file"]["json"])
        else:
            answer = await self.api.call(asked["method"], asked["path"], asked.get("json"), **headers)
        return answer, one["response"]

    def filled(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request with what is known in the place of its placeholders; others become ids that nothing has."""
        text = json.dumps(request)
        text = PLACE.sub(lambda m: self.known.get(m[0], nowhere(m[0])), text)
        found: dict[str, Any] = json.loads(text)
        return found

    def same(self, ours: Any, theirs: Any, at: str = "") -> None:
        """Whether both say the same, placeholders being whatever they were first."""
        if isinstance(theirs, dict):
            assert list(ours) == [*theirs, *(name for name in ours if name not in theirs)], at
            for name, value in theirs.items():
                self.same(ours[name], value, f"{at}/{name}")
        elif isinstance(theirs, list):
            assert len(ours) == len(theirs), at
            for index, value in enumerate(theirs):
                self.same(ours[index], value, f"{at}/{index}")
        elif isinstance(theirs, str) and PLACE.fullmatch(theirs):
            assert UUID.fullmatch(ours), at
            assert self.known.setdefault(theirs, ours) == ours, at
        elif theirs == "<time>":
            assert TIME.fullmatch(ours), (at, ours)
        elif isinstance(theirs, str):
            assert ours == PLACE.sub(lambda m: self.known.get(m[0], nowhere(m[0])), theirs), at
        else:
            assert ours == theirs, at


def nowhere(place: str) -> str:
    """An id that nothing has, for a placeholder that nothing was seen of."""
    return f"00000000-0000-4000-8000-{int(place[6:-1]):012}"
