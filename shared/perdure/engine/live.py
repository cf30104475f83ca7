"""What followers see live and nobody keeps: tokens, log lines, step starts. Callable from any thread of a step.

The body of a workflow is silent while recorded events remain: in the first pass it has said all that already.
"""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from perdure.core.journal import Journal, last_told
from perdure.core.key import Key

if TYPE_CHECKING:
    from perdure.engine.branches import Branch
    from perdure.engine.port import Port
    from perdure.engine.steps import Run


class Live:
    """One pass's way out for deltas."""

    def __init__(self, port: "Port", journal: Journal) -> None:
        self._port = port
        self._journal = journal
        self._recorded = last_told(port.log)
        self._loop = asyncio.get_running_loop()
        self.over = False

    def started(self, key: Key) -> None:
        """A step begins."""
        self._port.delta("delta.step", {**_head(key), "kind": "started"})

    def text(self, where: "Branch | Run", text: str, channel: str) -> None:
        """More text of a channel; its place counts in code points from the start of the branch or the step's run."""
        self._say(where, self._text, where.positions, _place(where), text, channel)

    def log(self, where: "Branch | Run", text: str, level: str, fields: dict[str, Any]) -> None:
        """A line for whoever looks on."""
        data = {**_place(where), "level": level, "text": text}
        self._say(where, self._port.delta, "delta.log", {**data, "fields": fields} if fields else data)

    def progress(self, run: "Run", done: float | None, total: float | None, text: str | None) -> None:
        """How far a step is."""
        said = {"done": done, "total": total, "text": text}
        self._say(
            run, self._port.delta, "delta.progress", {**_place(run), **{k: v for k, v in said.items() if v is not None}}
        )

    def _text(self, positions: Counter[str], place: dict[str, Any], text: str, channel: str) -> None:
        if not self.over:
            self._port.delta("delta.text", {**place, "channel": channel, "pos": positions[channel], "text": text})
            positions[channel] += len(text)

    def _say(
        self, where: "Branch | Run", what: Any, *args: Any
    ) -> None:  # a port's or this object's method and its arguments
        key = getattr(where, "key", None)
        if self.over or (key is None and self._journal.seq < self._recorded):
            return
        if key is not None and where.call.abandoned:  # type: ignore[union-attr]  # with a key it is a Run
            return
        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            what(*args)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *args)


def _head(key: Key) -> dict[str, Any]:
    place: dict[str, Any] = {"path": key.path} if key.path else {}
    return {**place, "step": key.name, "occurrence": key.occurrence}


def _place(where: "Branch | Run") -> dict[str, Any]:
    key = getattr(where, "key", None)
    if key is not None:
        return _head(key)
    return {"path": where.path} if where.path else {}  # type: ignore[union-attr]  # without a key it is a Branch
