"""The page of a link, whatever people and models write: no markup of theirs lives, a form says what was meant."""

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.core.request import proposal_digest
from perdure.errors import Fault, Invalid
from perdure.ids import JobId, Principal, RequestId
from perdure_gateway.linkform import answered, filled, posted
from perdure_gateway.linkpage import asking, thanks
from perdure_gateway.markdown import MOST_CHARS, rendered, visible

JOB = JobId("01990000-0000-7000-8000-000000000001")
OURS = set(
    [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "p",
        "pre",
        "code",
        "div",
        "ul",
        "ol",
        "li",
        "small",
        "strong",
        "em",
        "a",
        "form",
        "input",
        "textarea",
        "select",
        "option",
        "button",
        "label",
        "br",
        "hr",
        "blockquote",
        "fieldset",
        "legend",
    ]
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "number": {"type": "number"},
        "count": {"type": "integer"},
        "yes": {"type": "boolean"},
        "one": {"oneOf": [{"const": 1, "title": "One"}, {"const": "1", "title": "Text"}]},
        "many": {"type": "array", "items": {"enum": [1, 2, "x"]}},
    },
}


def request(**members: Any) -> ev.Request:
    given: dict[str, Any] = {"title": "Publish this?", "actions": (ev.Action(id="approve"),)} | members
    return ev.Request(
        id=RequestId(f"{JOB}_3"),
        job_id=JOB,
        name="review",
        occurrence=1,
        revision=1,
        kind="approval",
        asked_at=Instant("2026-01-01T00:00:00.000Z"),
        asked_for=Principal("user:ann"),
        **given,
    )


class Seen(HTMLParser):
    """Tags and attributes of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def page_of(asked: ev.Request, faults: tuple[Fault, ...] = ()) -> str:
    body = asking(asked, filled(asked), faults).text
    assert body is not None
    return body


NASTY = st.lists(
    st.sampled_from(
        [
            "<script>",
            "</textarea>",
            '"',
            "'",
            "<img/src=x/onerror=alert(1)>",
            "](javascript:x)",
            "[a",
            "![b](http://c)",
            "`",
            "**",
            "&lt;",
            "\u202e",
            "<!--",
            "]]>",
            "<a/href=javascript:x>",
            "[x](data:text/html,y)",
            "<https://a.b>",
            "\n\n",
            "    ",
            "<img src=x onerror=alert(1)>",
        ]
    )
    | st.text(max_size=6)
).map("".join)


@given(NASTY)
def test_nothing_that_was_written_becomes_markup_of_its_own(text: str) -> None:
    schema = {"type": "object", "properties": {text: {"type": "string", "title": text}}}
    asked = request(
        title=text,
        message=text,
        proposal=text,
        proposal_digest="sha256:0",
        editable=("",),
        response_schema=schema,
        defaults={text: text},
        actions=(ev.Action(id="approve", label=text),),
    )
    seen = Seen(page_of(asked, (Fault("c", text, pointer=f"/payload/{text}"),)))
    assert set(seen.tags) <= OURS
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "srcdoc", "formaction")]
    for name, value in seen.attributes:
        if name == "href":
            assert re.match(r"https?://|mailto:", value, re.IGNORECASE), value
    assert set(Seen(thanks(asked, "approve", counted=True).text or "").tags) <= OURS


def test_a_message_that_is_too_long_to_parse_is_shown_as_it_is() -> None:
    assert rendered("[" * (MOST_CHARS + 1)) == f"<pre>{'[' * (MOST_CHARS + 1)}</pre>"
    assert rendered("*a*") == "<p><em>a</em></p>\n"


def test_what_is_not_seen_or_turns_the_text_is_shown() -> None:
    assert visible("a\u202eb\u200fc\x1bd\te\nf") == "a\\u202eb\\u200fc\\u001bd\te\nf"


def say(asked: ev.Request, *pairs: tuple[str, str]) -> Any:
    return answered(asked, posted(urlencode(pairs).encode()))


def test_a_form_says_what_was_entered_with_its_types() -> None:
    asked = request(response_schema=SCHEMA)
    pairs = [("action", "approve"), ("f.text", "5"), ("f.day", "2026-01-01"), ("f.number", "1.5"), ("f.count", "7")]
    pairs += [("f.yes", "true"), ("f.one", '"1"'), ("f.many", "2"), ("f.many", '"x"'), ("comment", "so")]
    said = say(asked, *pairs)
    assert said.payload == {
        "text": "5", "day": "2026-01-01", "number": 1.5, "count": 7, "yes": True, "one": "1", "many": [2, "x"],
    }  # fmt: skip
    assert (said.action, said.comment, said.proposal, said.proposal_digest) == ("approve", "so", UNSET, None)


def test_what_was_left_empty_was_not_sent_and_what_is_no_number_stays_a_text() -> None:
    asked = request(response_schema=SCHEMA)
    said = say(asked, ("action", "approve"), ("f.text", ""), ("f.count", "many"), ("comment", " "))
    assert said.payload == {"count": "many", "yes": False, "many": []}
    assert said.comment is None
    assert say(request(), ("action", "approve")).payload is UNSET


def test_a_proposal_counts_as_edited_only_where_it_was() -> None:
    proposal = {"amount": 1}
    digest = proposal_digest("Publish this?", None, proposal)
    asked = request(proposal=proposal, proposal_digest=digest, editable=("/amount",))
    shown = re.findall(r'name="proposal" rows="4">\n([^<]*)<', page_of(asked))[0].replace("&quot;", '"')
    assert say(asked, ("action", "approve"), ("proposal", shown.replace("\n", "\r\n"))).proposal is UNSET
    assert say(asked, ("action", "approve"), ("proposal", '{"amount": 2}')).proposal == {"amount": 2}
    with pytest.raises(Invalid) as info:
        say(asked, ("action", "approve"), ("proposal", '{"amount": 2, "amount": 3}'))
    assert [(fault.code, fault.pointer) for fault in info.value.faults] == [("invalid-json", "/proposal")]
