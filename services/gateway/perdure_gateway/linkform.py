"""The form of a request in HTML, and what a browser sends back of it: fields by the schema, else JSON in a text field.

The schema judges what was entered, as it judges every answer; the form only draws it. A field that was left empty was
not sent.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.form import Field, form
from perdure.core.request import Answer
from perdure.core.schema import pointer
from perdure.errors import Fault, Invalid
from perdure_gateway import strict
from perdure_gateway.markdown import escaped
from perdure_gateway.saying import MAX_COMMENT
from perdure_gateway.strict import InvalidJson

MOST_FIELDS: Final = 1_000
OF_FIELD: Final = "f."  # before the name of a member of the payload
LONG_TEXT: Final = 200  # from this `maxLength` on a text has several lines
_INPUTS: Final = {"email": "email", "uri": "url", "date": "date"}

Sent = Mapping[str, Sequence[str]]


def posted(body: bytes) -> dict[str, list[str]]:
    """A form as a browser posts it. Raises Invalid (`invalid-body`)."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=MOST_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise Invalid([Fault("malformed", "must be a form, in UTF-8", pointer="")]) from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise Invalid([Fault("malformed", "must not contain U+0000", pointer="")])
        found.setdefault(name, []).append(_lines(value))
    return found


def filled(asked: ev.Request) -> dict[str, list[str]]:
    """The form as it is shown first: with the defaults of the request."""
    defaults = asked.defaults or {}
    fields = form(asked.response_schema)
    if fields is None:
        return {"payload": [_pretty(defaults)] if defaults else []}
    found: dict[str, list[str]] = {}
    for field in fields:
        if field.name in defaults:
            value = defaults[field.name]
            values = value if field.kind == "choices" and isinstance(value, list) else [value]
            found[OF_FIELD + field.name] = [each if field.kind == "string" else _json(each) for each in values]
    return found


def answered(asked: ev.Request, sent: Sent) -> Answer:
    """What a form says. Raises Invalid (`invalid-answer`) for JSON that is none, and for a comment that is too long."""
    comment = _one(sent, "comment")
    if comment is not None and len(comment) > MAX_COMMENT:
        fault = Fault("string_too_long", f"must have at most {MAX_COMMENT} characters", pointer="/comment")
        raise Invalid([fault], "invalid-answer")
    return Answer(
        action=_one(sent, "action") or "",
        payload=_payload(asked, sent),
        proposal=_proposal(asked, sent),
        proposal_digest=_one(sent, "proposal_digest"),
        comment=comment,
    )


def drawn(asked: ev.Request, sent: Sent, faults: Sequence[Fault]) -> str:
    """The fields, with what was `sent`, and beside each what is wrong with it."""
    wrong = {fault.pointer or "": fault.detail for fault in faults}
    fields = form(asked.response_schema)
    parts = []
    if fields is None:
        parts.append(_area("payload", "Answer, as JSON", _one(sent, "payload") or "", _below(wrong, "/payload")))
    for field in fields or ():
        parts.append(_field(field, list(sent.get(OF_FIELD + field.name, ())), wrong))
    if asked.proposal_digest is not None and asked.editable:
        text = _one(sent, "proposal") or text_of(asked.proposal)
        what = "The proposal, as you want it" + ("" if isinstance(asked.proposal, str) else " (JSON)")
        parts.append(_area("proposal", what, text, _below(wrong, "/proposal")))
    parts.append(_area("comment", "Comment", _one(sent, "comment") or "", wrong.get("/comment")))
    return "\n".join(parts)


def _payload(asked: ev.Request, sent: Sent) -> Any:  # Any: a user's value
    fields = form(asked.response_schema)
    if fields is None:
        text = _one(sent, "payload")
        return UNSET if text is None else _loaded(text, "/payload")
    found: dict[str, Any] = {}
    for field in fields:
        value = _value(field, [text for text in sent.get(OF_FIELD + field.name, ()) if text])
        if value is not UNSET:
            found[field.name] = value
    return found or UNSET


def _value(field: Field, texts: list[str]) -> Any:  # Any: a user's value
    """What was entered; a text that is no number stays one, and the schema says so."""
    match field.kind:
        case "boolean":
            return _lenient(texts[0]) if texts else False
        case "choices":
            return [_lenient(text) for text in texts]
        case _ if not texts:
            return UNSET
        case "string":
            return texts[0]
        case "number" | "integer" | "choice":
            return _lenient(texts[0])


def _proposal(asked: ev.Request, sent: Sent) -> Any:  # Any: a user's value
    text = _one(sent, "proposal")
    if text is None or _lines(text) == _lines(text_of(asked.proposal)):
        return UNSET
    return text if isinstance(asked.proposal, str) else _loaded(text, "/proposal")


def _field(field: Field, texts: list[str], wrong: Mapping[str, str]) -> str:
    name, at = escape(OF_FIELD + field.name), "/payload" + pointer(field.name)
    title, fault = escaped(field.title) + (" *" if field.required else ""), _below(wrong, at)
    note = f"<small>{escaped(field.description)}</small>" if field.description else ""
    match field.kind:
        case "boolean":
            checked = " checked" if texts and texts[0] == "true" else ""
            inner = f'<label><input type="checkbox" name="{name}" value="true"{checked}> {title}</label>'
            return f"<p>{inner}{note}{_told(fault)}</p>"
        case "choice":
            options = "".join(_option(_json(o.value), o.title, _json(o.value) in texts) for o in field.options)
            inner = f'<select name="{name}"><option value=""></option>{options}</select>'
        case "choices":
            inner = "".join(
                f'<label class="one"><input type="checkbox" name="{name}" value="{escape(_json(o.value))}"'
                f"{' checked' if _json(o.value) in texts else ''}> {escaped(o.title)}</label>"
                for o in field.options
            )
            return f"<fieldset><legend>{title}</legend>{inner}{note}{_told(fault)}</fieldset>"
        case "number" | "integer":
            step = "any" if field.kind == "number" else "1"
            inner = f'<input type="number" step="{step}" name="{name}" value="{escape(_first(texts))}">'
        case "string" if field.format is None and field.limits.get("maxLength", LONG_TEXT) >= LONG_TEXT:
            inner = f'<textarea name="{name}" rows="3">\n{escape(_first(texts))}</textarea>'
        case _:
            kind = _INPUTS.get(field.format or "", "text")
            inner = f'<input type="{kind}" name="{name}" value="{escape(_first(texts))}">'
    return f"<p><label>{title}<br>{inner}</label>{note}{_told(fault)}</p>"


def _area(name: str, title: str, text: str, fault: str | None) -> str:
    inner = f'<textarea name="{name}" rows="4">\n{escape(text)}</textarea>'
    return f"<p><label>{title}<br>{inner}</label>{_told(fault)}</p>"


def _option(value: str, title: str, chosen: bool) -> str:
    return f'<option value="{escape(value)}"{" selected" if chosen else ""}>{escaped(title)}</option>'


def _told(fault: str | None) -> str:
    return "" if fault is None else f' <strong class="wrong">{escaped(fault)}</strong>'


def _below(wrong: Mapping[str, str], at: str) -> str | None:
    found = [
        f"{place.removeprefix(at)} {why}".strip() for place, why in wrong.items() if f"{place}/".startswith(f"{at}/")
    ]
    return "; ".join(found) or None


def _one(sent: Sent, name: str) -> str | None:
    texts = sent.get(name, ())
    return texts[0] if texts and texts[0].strip() else None


def _first(texts: list[str]) -> str:
    return texts[0] if texts else ""


def _loaded(text: str, at: str) -> Any:  # Any: a user's value
    try:
        return strict.loads(text.encode())
    except InvalidJson as exc:
        raise Invalid([Fault("invalid-json", exc.reason, pointer=at)], "invalid-answer") from None


def _lenient(text: str) -> Any:  # Any: a user's value
    try:
        return strict.loads(text.encode())
    except InvalidJson:
        return text


def text_of(value: Any) -> str:  # Any: a user's value
    return value if isinstance(value, str) else _pretty(value)


def _lines(text: str) -> str:
    """`text` with the ends of lines that we keep: a browser sends all of them as CR LF, whatever they were."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pretty(value: Any) -> str:  # Any: a user's value
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _json(value: Any) -> str:  # Any: a user's value
    return msgspec.json.encode(value).decode()
