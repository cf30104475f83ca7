"""The AG-UI adapter: silent while it is told what there is, then a prelude, then every event as it comes.

    prelude     RUN_STARTED ─ STATE_SNAPSHOT ─ MESSAGES_SNAPSHOT ─ ACTIVITY_SNAPSHOT ─ open steps ─ open texts
    live        texts, tool calls, steps, outputs, the state's key `perdure`, the activity
    end         RUN_FINISHED or RUN_ERROR, and nothing behind it

The run is interrupted when the job sleeps and asks something that this reader may answer. While it waits for anything
else the stream stays open and the activity says for what. What is said ends with the connection, never with the drain
of a gateway: a body that ends without one of the two is to be asked for again.
"""

from typing import Any, Final

import msgspec

from perdure.core import blob
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.machine import EMPTY, apply
from perdure.core.output import text_of
from perdure.core.reason import reason
from perdure.core.stream.adapter import Attach, Manners
from perdure.core.stream.agui import picture, words
from perdure.core.stream.agui.thread import Message, Thread, known
from perdure.core.stream.agui.words import Said, custom, event
from perdure.core.stream.delta import Call
from perdure.core.stream.delta import Said as Heard
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset
from perdure.core.surface import agui

MANNERS: Final = Manners(moves=False)


class Run:
    """The StreamAdapter of AG-UI for one reader. It is attached at the beginning of the log, wherever its reader is."""

    deltas = True
    manners = MANNERS

    def __init__(self, reader: Attach) -> None:
        self._reader = reader
        self._job = EMPTY
        self._thread = Thread(reader.job)
        self._state: Said = {}  # the client's own members
        self._skipped: list[str] = []
        self._steps: dict[Call, str] = {}
        self._lines = 0  # the last delta of the attempt whose log line was said
        self._live = self.ended = False
        self._shown: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # state and activity, as they were last said

    def on_event(self, body: bytes, event: AnyEvent) -> list[Frame]:
        """What a log event is, once the reader has caught up."""
        self._job = apply(self._job, event)
        said = self._told(event)
        if not self._live:
            return []
        over = self._over()
        dropped = bool(over) and self._thread.drop(lambda message: not message.kept)
        said += self._changed(event, whole=bool(over) and not self._job.terminal, dropped=dropped) + over
        return list(words.frames(said, str(event.seq)))

    def on_delta(self, said: Heard, at: Offset | None) -> list[Frame]:
        """What a delta is: more of a text, a step that begins, a tool call, a line."""
        delta, events = said.delta, list[Said]()
        members = msgspec.json.decode(said.body)
        match delta.type:
            case "delta.step" if members.get("kind") == "started":
                events = self._step(delta.call)
            case "delta.text" | "delta.reasoning":
                events = self._text(said)
            case "delta.tool":
                events = self._tool(said, members)
            case "delta.log" if delta.n > self._lines:  # else told again, behind a reset
                self._lines = delta.n
                line = {name: members[name] for name in ("level", "text", "fields") if name in members}
                events = [custom("log", line | ({"step": words.step_name(delta.call)} if delta.step else {}))]
            case _:
                pass
        return list(words.frames(events, None if at is None else str(at))) if self._live else []

    def on_reset(self, reset: Reset) -> list[Frame]:
        """Nothing: what is told again behind it goes on from what was said, and a dead attempt ends by its event."""
        return []

    def on_caught_up(self) -> list[Frame]:
        """The prelude, what the reader is told besides, and the end where the run has one."""
        self._live = True
        job, reader = self._job, self._reader
        at = job.submitted_at
        own = {"perdure": {"job_id": reader.job, "seq": job.seq}}
        members = {"threadId": reader.thread_id, "runId": reader.run_id, "protocolVersion": words.PROTOCOL}
        said = [event("RUN_STARTED", at, **members, metadata=own)]
        self._shown = self._picture()
        said += [self._whole_state(), self._thread.snapshot(), picture.activity(reader.job, self._shown[1])]
        said += [event("STEP_STARTED", stepName=name) for name in self._steps.values()]
        said += [each for message in self._thread.open() for each in message.start()]
        said += [custom("not_applied", notice) for notice in reader.notices]
        return list(words.frames(said + self._over(), str(job.seq)))

    def close(self, reason: str) -> list[Frame]:
        """Nothing: the run goes on, and any last word would be its end."""
        return []

    def _told(self, told: AnyEvent) -> list[Said]:
        """Note an event; what is said of it before state, activity and end."""
        match told:
            case ev.JobSubmitted():
                whole = blob.resolve(told, self._reader.blobs) if self._reader.blobs else told
                thread = getattr(whole.data, "thread", None)
                messages, self._state = known(thread if isinstance(thread, dict) else {})
                self._thread.post(messages)
            case ev.AttemptStarted():
                self._lines = 0
                return self._void()
            case ev.JobSuspended():
                return self._void()
            case ev.StepCompleted():
                return self._completed(told)
            case ev.StepFailed(data=data):
                said = self._voided([m for m in self._thread.of(_call(data)) if not m.settled])
                self._thread.failed(_call(data))
                return self._ended(_call(data)) + said
            case ev.StepSkipped(data=data):
                self._skipped.append(words.step_name(_call(data)))
            case ev.Message(data=data) if data.removed:
                self._thread.removed(data.message_id)
                return [self._thread.snapshot()]
            case ev.Message(data=data):
                call, role = (data.path, data.step or "", 1), words.role(data.role)
                said, differs = self._thread.message(told.attempt, call, data.message_id, role, data.text)
                return said + ([self._thread.snapshot()] if differs else [])
            case ev.Output(data=data):
                return [_output(data.name, data.kind, data.value, data.value_ref, data.step)]
            case ev.JobCompleted(data=data):
                return self._void() + self._given_out(data.outputs)
            case ev.JobFailed() | ev.JobCancelled() | ev.JobTimedOut():
                return self._void()
            case _:
                pass
        return []

    def _completed(self, told: ev.StepCompleted) -> list[Said]:
        data, said = told.data, list[Said]()
        call, text = _call(data), text_of(data.result)
        for message in self._thread.of(call):
            if message.open and message.kind != "tool":
                if message.kind == "text" and text is not None and message.begins(text):
                    said += message.more(text[len(message.text) :])  # the rest that no delta has brought
                said += self._thread.end(message)
            message.settled = True
        if text is not None:
            self._thread.returned(told.attempt, call, text)
        said += self._ended(call)
        if data.output is not None:
            name, kind = data.output.name, data.output.kind
            said.append(_output(name, kind, data.result, data.result_ref, data.step))
        return said

    def _ended(self, call: Call) -> list[Said]:
        """A step is over, of which nobody may have heard that it began."""
        said = [] if call in self._steps else self._step(call)
        return [*said, event("STEP_FINISHED", stepName=self._steps.pop(call))]

    def _void(self) -> list[Said]:
        """Everything that is open ends; what no step has settled was said in vain."""
        said = self._voided(self._thread.unsettled())
        said += [event("STEP_FINISHED", stepName=name) for name in self._steps.values()]
        self._steps.clear()
        return said

    def _voided(self, messages: list[Message]) -> list[Said]:
        """What these have said is void."""
        said = [each for message in messages if message.open for each in self._thread.end(message)]
        gone = self._thread.drop(lambda message: message in messages)
        return said + ([self._thread.snapshot()] if gone else [])

    def _given_out(self, outputs: dict[str, Any]) -> list[Said]:
        """Where nobody has spoken for the assistant, the texts that the job gives out do."""
        said, differs = list[Said](), False
        for name, value in () if self._thread.answered() else outputs.items():
            if (text := text_of(value)) is not None:
                more, other = self._thread.give_out(name, text)
                said, differs = said + more, differs or other
        return said + ([self._thread.snapshot()] if differs else [])

    def _step(self, call: Call) -> list[Said]:
        if call in self._steps:
            return []
        name, taken, number = words.step_name(call), set(self._steps.values()), 1
        while (shown := name if number == 1 else f"{name}~{number}") in taken:
            number += 1
        self._steps[call] = shown
        return [event("STEP_STARTED", stepName=shown)]

    def _text(self, said: Heard) -> list[Said]:
        delta, message = said.delta, self._thread.streaming(said.delta)
        if message is None:
            message = self._thread.begin(delta)
            return message.start() + message.more(delta.text)
        have = message.base + len(message.text)
        if delta.pos > have:  # its middle is lost: the event that settles it brings the whole
            return []
        return message.more(delta.text[have - delta.pos :])

    def _tool(self, said: Heard, members: dict[str, Any]) -> list[Said]:
        events: list[Said] = []
        if not said.delta.call_id:
            return []
        message, new = self._thread.tool(said.delta, words.as_text(members.get("name", "tool")))
        if new:
            mid, message.text = message.id, words.as_text(members.get("arguments", {}))
            events = [event("TOOL_CALL_START", toolCallId=mid, toolCallName=message.tool)]
            events.append(event("TOOL_CALL_ARGS", toolCallId=mid, delta=message.text))
            events.append(event("TOOL_CALL_END", toolCallId=mid))
        if message.result is None and "result" in members:
            events += message.tool_result(members["result"])
        return events

    def _over(self) -> list[Said]:
        """The end of the run, where it has one now."""
        end, at = self._job.end, self._job.updated_at
        ids = {"threadId": self._reader.thread_id, "runId": self._reader.run_id}
        said: list[Said] = []
        match end:
            case ev.CompletedData():
                members: dict[str, Any] = {"result": end.outputs, "usage": picture.usage_of(end.usage)}
                if end.outputs_ref:
                    members["metadata"] = {"perdure": {"outputs_ref": msgspec.to_builtins(end.outputs_ref)}}
                said = [event("RUN_FINISHED", at, **ids, outcome={"type": "success"}, **members)]
            case ev.CancelledData():
                said = [event("RUN_FINISHED", at, **ids, outcome={"type": "cancelled"})]
            case ev.FailedData(error=error):
                said = [event("RUN_ERROR", at, message=error.message, code=reason(self._job))]
            case ev.TimedOutData():
                said = [event("RUN_ERROR", at, message="the job's deadline has passed", code=reason(self._job))]
            case None:
                if asked := agui.open_to(self._job, self._reader.principal, self._reader.may_answer):
                    outcome = {"type": "interrupt", "interrupts": [_interrupt(request) for request in asked]}
                    said = [event("RUN_FINISHED", at, **ids, outcome=outcome)]
        self.ended = bool(said)
        return said

    def _picture(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return picture.state_of(self._job, self._reader.job, self._skipped), picture.activity_of(self._job)

    def _whole_state(self) -> Said:
        return event("STATE_SNAPSHOT", snapshot={**self._state, "perdure": self._shown[0]})

    def _changed(self, told: AnyEvent, *, whole: bool, dropped: bool) -> list[Said]:
        """State and activity as far as they changed, messages where some were `dropped`; `whole`: state and messages
        in any case.
        """
        before, self._shown = self._shown, self._picture()
        said = [self._whole_state()] if whole else []
        if whole or dropped:
            said.append(self._thread.snapshot())
        if not whole and (ops := picture.patch(before[0], self._shown[0])):
            said.append(event("STATE_DELTA", told.at, delta=ops))
        if before[1] != self._shown[1]:
            said.append(picture.activity(self._reader.job, self._shown[1]))
        return said


def _call(data: ev.StepData) -> Call:
    return (data.path, data.step, data.occurrence)


def _output(name: str, kind: str, value: Any, ref: ev.BlobRef | None, step: str | None) -> Said:  # Any: JSON
    told = {"name": name, "kind": kind} | ({"value": value} if ref is None else {"value_ref": msgspec.to_builtins(ref)})
    return custom("output", told if step is None else {**told, "step": step})


def _interrupt(request: ev.Request) -> dict[str, Any]:
    told = agui.interrupt(request)
    if request.proposal_ref is not None:
        told["metadata"]["perdure"].pop("proposal", None)
        told["metadata"]["perdure"]["proposal_ref"] = msgspec.to_builtins(request.proposal_ref)
    return told
