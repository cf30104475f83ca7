"""Writes down what a child says: each frame becomes an event of the job's log, or a delta for followers, in its order.

What the log has already is not written again: a component that could not be kept runs once more after a crash, and an
agent asks again what it has asked.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from perdure.core import event as ev
from perdure.core.event import AnyData, UserValue
from perdure.core.instant import Instant, seconds_between
from perdure.core.machine import JobState
from perdure.engine.failure import failure
from perdure.ids import Digest
from perdure_runner.langflow import asked, telling
from perdure_runner.langflow.frames import Asks, Begun, Done, Live, Planned, Raised, Said
from perdure_runner.port import LogPort

PASS: Final = "langflow.pass"  # the name of the `progress` with which a pass begins
FAILED: Final = "component_failed"
Frame = Planned | Begun | Done | Raised | Asks | Said | Live
Keep = Callable[[bytes], Awaitable[Digest]]


class Recording:
    """What one pass leaves. `running` are the components that have begun and not ended, with when they began."""

    def __init__(self, port: LogPort, keep: Keep) -> None:
        self._port = port
        self._keep = keep
        self.running: dict[str, Instant] = {}
        self._over = {e.data.step for e in port.log if isinstance(e, ev.StepCompleted | ev.StepSkipped)}
        self._told: set[str] = set()  # components whose older messages have been looked for
        self._positions: Counter[str] = Counter()

    @property
    def unrecorded(self) -> dict[str, Instant]:
        """The components that run and that the log does not have: one that could not be kept may run once more."""
        return {component: at for component, at in self.running.items() if component not in self._over}

    async def take(self, frame: Frame) -> None:
        """Write a frame down. Raises Interrupted, TooLarge, Unavailable (a blob could not be stored)."""
        match frame:
            case Planned():
                await self._planned(frame)
            case Begun(component=component):
                self.running[component] = self._port.now()
                self._port.delta("delta.step", {"step": component, "occurrence": 1, "kind": "started"})
            case Done():
                await self._done(frame)
            case Raised():
                await self._raised(frame)
            case Asks():
                await self._asks(frame)
            case Said():
                await self._said(frame)
            case Live():
                self._live(frame)

    async def skipped(self, component: str) -> None:
        """A component that will not run."""
        if component in self._over:
            return
        data = ev.StepSkippedData(step=component, occurrence=1, reason="its branch was not taken")
        await self._port.append(lambda job: data)
        self._over.add(component)

    async def _planned(self, frame: Planned) -> None:
        before = sum(isinstance(e, ev.Progress) and e.data.name == PASS for e in self._port.log)
        data = ev.ProgressData(
            name=PASS,
            occurrence=before + 1,
            done=len(self._over),
            total=frame.total,
            data={"ids": list(frame.first), "to_run": list(frame.to_run)},
        )
        await self._port.append(lambda job: data)

    async def _done(self, frame: Done) -> None:
        began_at = self._ended(frame.component)
        if frame.component in self._over:
            return
        usage = None
        if frame.input_tokens or frame.output_tokens:
            usage = ev.Usage(input_tokens=frame.input_tokens, output_tokens=frame.output_tokens)
        data = ev.StepCompletedData(
            step=frame.component,
            occurrence=1,
            result=msgspec.to_builtins(frame.entry),
            started_at=began_at,
            duration_seconds=max(0.0, seconds_between(began_at, self._port.now())),
            component=frame.type,
            output=None if frame.kind is None else ev.Named(name=frame.component, kind=frame.kind),
            usage=usage,
            preview=frame.preview,
        )
        if await self._port.append(lambda job: data) is not None:
            self._over.add(frame.component)

    async def _raised(self, frame: Raised) -> None:
        began_at = self._ended(frame.component)
        if frame.component in self._over:
            return
        data = ev.StepFailedData(
            step=frame.component,
            occurrence=1,
            error=raised(frame),
            failures=self._failures(frame.component) + 1,
            started_at=began_at,
            duration_seconds=max(0.0, seconds_between(began_at, self._port.now())),
            component=frame.type,
            final=True,
            preview=frame.preview,
        )
        if await self._port.append(lambda job: data) is not None:
            self._over.add(frame.component)

    async def _asks(self, frame: Asks) -> None:
        """Ask, unless the log asks it already. An older request of the same component is withdrawn before."""
        port, thread = self._port, None
        if asked.known(frame.request, port.job):
            return
        if frame.thread is not None:
            thread = await self._keep(msgspec.json.encode(frame.thread))

        def older(job: JobState) -> AnyData | None:
            before = asked.replaced(frame.request, frame.component, job)
            return None if before is None else ev.WithdrawnData(request_id=before.id, reason=asked.REASKED)

        def asking(job: JobState) -> AnyData | None:
            request = asked.request_of(frame.request, frame.component, port.ref, job, port.now(), thread)
            return ev.RequestedData(request=request)

        await port.append(older)
        await port.append(asking, () if thread is None else (thread,))

    async def _said(self, frame: Said) -> None:
        component = frame.component
        if component not in self._told:
            self._told.add(component)
            for name in telling.left_over(self._port.log, component):
                await self._message(component, {"id": name}, removed=True)
        if frame.removed and not any(
            isinstance(e, ev.Message) and e.data.message_id == frame.message.get("id") for e in self._port.log
        ):
            return  # nobody has been told of it
        await self._message(component, frame.message, removed=frame.removed)

    async def _message(self, component: str, message: dict[str, UserValue], *, removed: bool) -> None:
        text = message.get("text")
        data = ev.MessageData(
            message_id=str(message.get("id")),
            role="user" if message.get("sender") == "User" else "assistant",
            text="" if removed or not isinstance(text, str) else text,
            step=component or None,
            original=None if removed else message,
            removed=removed,
        )
        await self._port.append(lambda job: data)

    def _live(self, frame: Live) -> None:
        place: dict[str, Any] = {"step": frame.component, "occurrence": 1}
        match frame.event:
            case "token":
                channel, chunk = str(frame.data.get("id", "")), str(frame.data.get("chunk", ""))
                said = {**place, "channel": channel, "pos": self._positions[channel], "text": chunk}
                self._port.delta("delta.text", said)
                self._positions[channel] += len(chunk)
            case "log":
                text = frame.data.get("message")
                line = {**place, "level": "info", "text": text if isinstance(text, str) else str(text)}
                self._port.delta("delta.log", {**line, "fields": frame.data})
            case name:
                self._port.delta("delta.progress", {**place, "name": f"langflow.{name}", "data": frame.data})

    def _ended(self, component: str) -> Instant:
        return self.running.pop(component, None) or self._port.now()

    def _failures(self, component: str) -> int:
        return sum(isinstance(e, ev.StepFailed) and e.data.step == component for e in self._port.log)


def raised(frame: Raised) -> ev.Failure:
    """The failure that a component's exception is."""
    details = {"error_type": frame.error_type, **({} if frame.package is None else {"package": frame.package})}
    found = failure(FAILED, frame.error, False, frame.component)
    return msgspec.structs.replace(found, details=details)
