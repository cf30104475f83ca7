"""Passes of a flow in children, without a log: what a child says for what it is told."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.langflow.entry import Finished, outputs
from perdure_runner.langflow.frames import Asks, Begun, Broken, Done, Ended, FromChild, Paused, Start
from perdure_runner.langflow.pool import Pool


class Played(Struct):
    """What came of a flow: its journal, which components began, what was asked, the last word."""

    journal: list[Finished]
    ran: list[str] = []
    asked: list[dict[str, Any]] = []
    frames: list[FromChild] = []

    @property
    def end(self) -> FromChild:
        return self.frames[-1]

    @property
    def contents(self) -> dict[str, Any]:
        return {name.partition("-")[2]: shown["content"] for name, shown in outputs(self.journal).items()}


def order(flow: Mapping[str, Any], given: str = "x", **more: Any) -> Start:
    """What a first pass is told."""
    ids = {name: str(uuid.uuid4()) for name in ("flow_id", "job_id", "user_id")}
    return Start(
        flow=msgspec.Raw(json.dumps(flow).encode()), session_id="session-1", input_value=given, **{**ids, **more}
    )


async def once(pool: Pool, start: Start) -> list[FromChild]:
    """All that a child says."""
    child = await pool.take()
    try:
        await child.send(start)
        found = []
        while (frame := await child.receive()) is not None:
            found.append(frame)
        return found
    finally:
        await child.close()


async def play(
    pool: Pool, start: Start, actions: Mapping[str, str] | None = None, journal: Sequence[Finished] = ()
) -> Played:
    """Passes behind `journal` until the flow has ended, each request answered by the end of its component's id."""
    played, decisions, threads = Played(list(journal)), dict[str, Any](), dict[str, Any]()
    while True:
        frames = await once(
            pool, msgspec.structs.replace(start, journal=list(played.journal), decisions=decisions, threads=threads)
        )
        assert frames, "the child died"
        played.frames += frames
        known = {step.component for step in played.journal}
        for frame in frames:
            match frame:
                case Begun(component=component):
                    played.ran.append(component)
                case Done(component=component, entry=entry) if component not in known:
                    played.journal.append(Finished(component, entry))
                case Asks(component=component, request=request, thread=thread):
                    played.asked.append(request)
                    threads |= {} if thread is None else {component: thread}
                    action = (actions or {})[component.partition("-")[2]]
                    decisions[request["request_id"]] = {"action_id": action, "values": {}}
                case _:
                    pass
        if not isinstance(frames[-1], Paused):
            assert isinstance(frames[-1], Ended | Broken)
            return played
