"""An answer of a chat model, byte by byte: whole or not at all."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.event import Usage
from perdure.engine.components import completion
from perdure.engine.components.completion import Completion
from perdure.errors import Retryable, Terminal

DONE = b"data: [DONE]\n\n"


def said(text: str | None, reason: str | None = None, **more: Any) -> bytes:
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def heard(bodies: Sequence[bytes], *, cut_is_fine: bool = False) -> tuple[str, Usage | None]:
    answer = Completion(cut_is_fine=cut_is_fine)
    pieces = [piece for body in bodies for piece in answer.feed(body)]
    text, usage = answer.end(streamed=True)
    assert "".join(pieces) == text
    return text, usage


@given(st.lists(st.text(max_size=20), max_size=8), st.data())
def test_where_the_bytes_are_cut_does_not_matter(texts: list[str], data: st.DataObject) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    body = b": hello\n\nevent: x\n" + b"".join(said(text) for text in texts) + said(None, "stop") + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    bodies = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert heard(bodies) == ("".join(texts), None)


def test_carriage_returns_and_a_missing_last_line_end_are_understood() -> None:
    assert heard([said("a").replace(b"\n", b"\r\n"), b"data: [DONE]"])[0] == "a"


@pytest.mark.parametrize(
    "bodies",
    [[said("a"), DONE], [said("a", "stop")], [said("a"), said(None, "stop"), DONE], [said("a"), said("", "eos")]],
)
def test_either_a_finish_reason_or_done_makes_it_whole(bodies: list[bytes]) -> None:
    assert heard(bodies)[0] == "a"


@pytest.mark.parametrize("bodies", [[], [said("a")], [said("a"), b"data: [DON"], [said("a", "stop")[:-4]]])
def test_what_just_ends_is_never_taken_for_whole(bodies: list[bytes]) -> None:
    with pytest.raises(Retryable) as caught:
        heard(bodies)
    assert caught.value.code == "model_answer_broken"


def test_the_cost_is_kept_wherever_it_is_said() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    expected = Usage(input_tokens=3, output_tokens=5, model="m")
    assert heard(
        [said("a", "stop"), b'data: {"model":"m","choices":[],"usage":' + json.dumps(usage).encode() + b"}\n"]
    )[1] == (expected)
    assert heard([said("a", "stop", usage=usage)])[1] == expected


def test_only_the_first_choice_counts() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"length"}]}\n'
    assert heard([said("a"), other, DONE])[0] == "a"


@pytest.mark.parametrize(
    ("reason", "code"),
    [("length", "model_answer_cut"), ("content_filter", "model_filtered"), ("tool_calls", "model_answer_unusable")],
)
def test_a_reason_that_gives_no_whole_text_is_terminal(reason: str, code: str) -> None:
    with pytest.raises(Terminal) as caught:
        heard([said("a", reason), DONE])
    assert caught.value.code == code


def test_a_limit_that_the_author_named_makes_a_cut_text_fine() -> None:
    assert heard([said("a", "length"), DONE], cut_is_fine=True)[0] == "a"


@pytest.mark.parametrize(
    "body", [b"data: {\n", b"data: []\n", b'data: {"choices":7}\n', b'data: {"error":{"code":"x"}}\n', b"data: \xff\n"]
)
def test_a_chunk_that_is_none_is_retryable(body: bytes) -> None:
    with pytest.raises(Retryable):
        heard([said("a"), body, DONE])


def test_text_lines_and_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    half = said("x" * (completion.MAX_TEXT_BYTES // 2))
    assert len(heard([half, half, DONE])[0]) == completion.MAX_TEXT_BYTES
    with pytest.raises(Terminal):
        heard([half, half, said("x"), DONE])
    with pytest.raises(Terminal):
        heard([b"data: " + b"x" * completion.MAX_LINE_BYTES])
    monkeypatch.setattr(completion, "MAX_BODY_BYTES", 10_000)
    with pytest.raises(Terminal):
        heard([b": nothing but comments\n"] * 1000)


def test_an_answer_as_one_document_is_understood_in_parts() -> None:
    body = json.dumps({"model": "m", "choices": [{"message": {"content": "ä"}, "finish_reason": "stop"}]}).encode()
    answer = Completion(cut_is_fine=False)
    answer.feed_whole(body[:20])
    answer.feed_whole(body[20:])
    assert answer.end(streamed=False) == ("ä", None)
    unfinished = Completion(cut_is_fine=False)
    unfinished.feed_whole(b'{"choices":[{"message":{"content":"x"}}]}')
    with pytest.raises(Retryable):
        unfinished.end(streamed=False)
