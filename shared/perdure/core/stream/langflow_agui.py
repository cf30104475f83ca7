"""The stream protocol `agui` of Langflow's workflows API: its own stream, translated. See `core.langflow.agui`.

Frames are laid out and numbered as those of the protocol `langflow`; JSON is compact and UTF-8, members of an event are
never null. A run that is suspended ends its stream without RUN_FINISHED; the answer brings the rest, without another
RUN_STARTED.
"""

import json
from collections.abc import Iterable, Iterator

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.langflow.agui import Event, Translator
from perdure.core.langflow.shape import FlowShape
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.langflow import LangflowFrame, LangflowStream
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset


class LangflowAgui(LangflowStream):
    """The StreamAdapter of the protocol for one reader; its options are those of `langflow`."""

    def __init__(self, reader: Attach, shape: FlowShape | None = None) -> None:
        super().__init__(reader, shape)
        self._translator = Translator(reader.job)

    def on_event(self, body: bytes, event: AnyEvent) -> Iterator[Frame]:
        """The frames of an event that lies behind the reader's offset."""
        told = self._telling.event(event)
        events: list[Event] = []
        if isinstance(event, ev.JobSubmitted):
            thread = event.data.session_id or event.data.flow.id
            events += self._translator.submitted(thread, graph=not self._telling.hides)
        events += self._translator.event(event, told)
        return self._numbered(event, [self._said(each) for each in events])

    def on_delta(self, said: Said, at: Offset | None) -> Iterator[Frame]:
        """Pieces of texts, log lines, the starts of components: they repeat the last id."""
        return self._frames(self._translator.delta(self._telling.delta(said)))

    def on_reset(self, reset: Reset) -> Iterator[Frame]:
        """The end of what was being said: it begins anew."""
        self._telling.reset()
        return self._frames(self._translator.reset())

    def _frames(self, events: Iterable[Event]) -> Iterator[Frame]:
        return iter([self._said(each) for each in events])

    def _said(self, event: Event) -> LangflowFrame:
        found = {name: value for name, value in event.items() if value is not None}
        body = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
        return LangflowFrame(str(self._id), str(event["type"]), body)


def opened(reader: Attach) -> LangflowAgui:
    """The adapter for `reader`, of a job whose flow is not known."""
    return LangflowAgui(reader)
