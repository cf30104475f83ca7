"""Chat messages and errors as records of Langflow: all members, and all of them once more under `data`.

What its engine sent is passed on as it was; of other flows the record is made here, with the members of 1.13.
"""

from typing import Any, Final

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.instant import Instant
from perdure.core.langflow.words import code_of

Record = dict[str, UserValue]

NOBODY: Final[Record] = {"id": None, "display_name": None, "source": None}
_SENDERS: Final = {"user": ("User", "User"), "assistant": ("Machine", "AI")}


class Names:
    """What every message of a job says: its session, its flow, itself."""

    def __init__(self, session: str, flow: str, job: str) -> None:
        self.session, self.flow, self.job = session, flow, job


def record(
    names: Names,
    message_id: str,
    role: str,
    text: str,
    at: Instant,
    *,
    source: Record = NOBODY,
    state: str = "complete",
) -> Record:
    """A message of a flow that is none of Langflow's."""
    sender, name = _SENDERS.get(role, ("Machine", role))
    properties = _properties(source, state)
    inner: Record = {
        "timestamp": stamp(at),
        "sender": sender,
        "sender_name": name,
        "session_id": names.session,
        "context_id": "",
        "text": text,
        "files": [],
        "error": False,
        "edit": False,
        "properties": properties,
        "category": "message",
        "content_blocks": [],
        "session_metadata": {"graph_run_id": names.job},
        "id": message_id,
        "flow_id": names.flow,
        "run_id": names.job,
        "duration": None,
    }
    return _doubled(inner)


def error(names: Names, failure: ev.Failure, at: Instant, display_name: str | None) -> Record:
    """The `error` of a job that failed, without traceback. `error` is a text here, where 1.13 has a flag."""
    name = display_name or failure.step or "Workflow"
    source: Record = {"id": failure.step, "display_name": name, "source": name}
    kind = failure.details.get("error_type", code_of(failure))
    reason = f"**{kind}**\n - **Details: {failure.message}**\n"
    content: Record = {
        "type": "error",
        "duration": None,
        "header": {},
        "component": name,
        "field": None,
        "reason": reason,
    }
    content |= {"solution": None, "code": code_of(failure)}
    blocks = [{"title": "Error", "contents": [content], "allow_markdown": True, "media_url": None}]
    properties = _properties(source, "complete") | {"text_color": "red", "background_color": "red", "icon": "error"}
    inner: Record = {
        "timestamp": stamp(at),
        "sender": name,
        "sender_name": name,
        "session_id": names.session,
        "context_id": None,
        "text": failure.message,
        "files": [],
        "error": failure.message,
        "edit": False,
        "properties": properties,
        "category": "error",
        "content_blocks": blocks,
        "session_metadata": {"graph_run_id": names.job},
        "id": f"{names.job}:error",
        "flow_id": names.flow,
        "run_id": names.job,
        "duration": None,
    }
    group: Record = {"type": "group", "id": None, "duration": None, "header": {}}
    group["contents"] = [{"type": "error", "id": None, "duration": None, "header": {}, "contents": []} | content]
    group |= {"title": "Error", "allow_markdown": True, "media_url": None}
    outer = _doubled(inner) | {"content_blocks": [group]}
    return outer | {"code": code_of(failure), "component_id": failure.step}


def completed(message: Record, job: str) -> Record:
    """A record of Langflow's engine with what only its server adds: the run; a block that repeats the text is none."""
    found = _completed(message, job)
    inner = found.get("data")
    return found | {"data": _completed(inner, job)} if isinstance(inner, dict) else found


def anonymous(message: Record) -> Record:
    """The record without what it says of components, in both copies."""
    found = _anonymous(message)
    inner = found.get("data")
    return found if not isinstance(inner, dict) else found | {"data": _anonymous(inner)}


def stamp(at: Instant) -> str:
    """An instant as messages have it."""
    return f"{at[:10]} {at[11:23]}000 UTC"


def _completed(record: Record, job: str) -> Record:
    blocks: Any = record.get("content_blocks")
    changed: Record = {}
    if isinstance(blocks, list):
        repeats = ("text", record.get("text"))
        kept = [b for b in blocks if not (isinstance(b, dict) and (b.get("type"), b.get("text")) == repeats)]
        changed["content_blocks"] = kept
    if "session_metadata" in record and record["session_metadata"] is None:
        changed["session_metadata"] = {"graph_run_id": job}
    return record | changed


def _anonymous(record: Record) -> Record:
    properties: Any = record.get("properties")
    if not isinstance(properties, dict) or "source" not in properties:
        return record
    return record | {"properties": properties | {"source": dict(NOBODY)}}


def _properties(source: Record, state: str) -> Record:
    return {
        "text_color": None,
        "background_color": None,
        "edited": False,
        "source": dict(source),
        "icon": None,
        "allow_markdown": False,
        "positive_feedback": None,
        "state": state,
        "targets": [],
        "usage": None,
        "build_duration": None,
    }


def _doubled(inner: Record) -> Record:
    """1.13 sends the record, its members in another order, around itself."""
    order: tuple[str, ...] = (
        "sender",
        "sender_name",
        "files",
        "session_id",
        "context_id",
        "run_id",
        "timestamp",
        "flow_id",
        "error",
    )
    order += ("edit", "properties", "category", "content_blocks", "duration", "session_metadata", "text", "id")
    return {"text_key": "text", "data": inner, "default_value": ""} | {name: inner[name] for name in order}
