"""Reads the answer of a chat-completions endpoint: bytes in, pieces of text out, and whether it was the whole. No I/O.

A stream is server-sent events, each `data:` line a chunk, the last one `[DONE]`. It is whole when a choice gave its
`finish_reason` or `[DONE]` came; one that just ends is not, and its text is never taken for an answer.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.core.event import Usage
from perdure.errors import Retryable, Terminal

MAX_TEXT_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 2 * 1024 * 1024
MAX_BODY_BYTES: Final = 64 * 1024 * 1024  # each token of a stream comes in some 250 bytes of wrapping


class _Text(Struct):
    content: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None  # whatever the endpoint says; only that there is one counts


_decoder: Final = msgspec.json.Decoder(_Chunk)


class Completion:
    """An answer as far as it has come.

    `cut_is_fine`: whoever asked named a limit of tokens, so a text that is cut there is whole.
    """

    def __init__(self, *, cut_is_fine: bool) -> None:
        self._cut_is_fine = cut_is_fine
        self._pieces: list[str] = []
        self._buffer = b""
        self._size = self._read = 0
        self._whole = False
        self._usage: _Usage | None = None
        self._model: str | None = None

    def feed(self, body: bytes) -> list[str]:
        """The pieces of text in these bytes of a stream.

        Raises Terminal beyond the bounds or when the model ended for a reason that gives no text, Retryable for a
        chunk that is none.
        """
        self._count(body)
        *lines, self._buffer = (self._buffer + body).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise _too_large()
        return [piece for line in lines if (piece := self._line(line.rstrip(b"\r")))]

    def feed_whole(self, body: bytes) -> None:
        """Bytes of an answer that is one document, from an endpoint that does not stream; `end` reads them."""
        self._count(body)
        self._buffer += body
        if len(self._buffer) > MAX_LINE_BYTES:
            raise _too_large()

    def end(self, *, streamed: bool) -> tuple[str, Usage | None]:
        """The whole text, and what it cost if that was said. Raises Retryable when it did not come to its end."""
        if streamed:
            self._line(self._buffer.rstrip(b"\r"))
        else:
            self._chunk(self._buffer)
        if not self._whole:
            raise Retryable("the model's answer ended in the middle", code="model_answer_broken")
        return "".join(self._pieces), self._cost()

    def _cost(self) -> Usage | None:
        said = self._usage
        if said is None:
            return None
        return Usage(input_tokens=said.prompt_tokens, output_tokens=said.completion_tokens, model=self._model)

    def _count(self, body: bytes) -> None:
        self._read += len(body)
        if self._read > MAX_BODY_BYTES:
            raise _too_large()

    def _line(self, line: bytes) -> str:
        if not line.startswith(b"data:"):  # comments, `event:` and the blank line between two events say nothing here
            return ""
        data = line[5:].strip()
        if data == b"[DONE]":
            self._whole = True
            return ""
        return self._chunk(data)

    def _chunk(self, body: bytes) -> str:
        try:
            chunk = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise Retryable("the model's answer is no chat completion", code="model_answer_broken") from exc
        if chunk.error is not None:
            raise Retryable("the model endpoint broke its answer off with an error", code="model_answer_broken")
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        pieces = [self._choice(choice) for choice in chunk.choices or () if choice.index == 0]
        return "".join(pieces)

    def _choice(self, choice: _Choice) -> str:
        said = choice.delta or choice.message
        piece = (said.content if said else None) or ""
        self._size += len(piece.encode())
        if self._size > MAX_TEXT_BYTES:
            raise _too_large()
        if piece:
            self._pieces.append(piece)
        if choice.finish_reason is not None:
            self._finish(choice.finish_reason)
        return piece

    def _finish(self, reason: str) -> None:
        match reason:
            case "length" if not self._cut_is_fine:
                raise Terminal(
                    "the model stopped at its own limit of tokens; give the node max_tokens to accept a cut text",
                    code="model_answer_cut",
                )
            case "content_filter":
                raise Terminal("the model endpoint's filter withheld the answer", code="model_filtered")
            case "tool_calls" | "function_call":
                raise Terminal("the model called a tool, and none was offered", code="model_answer_unusable")
            case _:
                self._whole = True


def _too_large() -> Terminal:
    return Terminal(f"the model's answer is larger than {MAX_TEXT_BYTES} bytes", code="model_answer_too_large")
