import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from perdure import log as logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:], level = before
    root.setLevel(level)


def test_a_line_is_one_json_object_with_constant_text_and_fields_apart(stream: io.StringIO) -> None:
    logs.configure("runner", "info", stream)
    logs.get("perdure.x").info("lease lost", job_id="j", believed_until=3.5)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["service"]) == ("lease lost", "info", "runner")
    assert (line["logger"], line["job_id"], line["believed_until"]) == ("perdure.x", "j", 3.5)
    assert line["ts"].endswith("Z")


def test_secrets_are_hidden_by_the_name_of_their_key_at_any_depth(stream: io.StringIO) -> None:
    logs.configure("runner", "info", stream)
    logs.get("x").info("e", nats_password="canary", a=[{"Authorization": "canary", "b": 1}], api_key="canary")
    assert "canary" not in stream.getvalue()
    assert json.loads(stream.getvalue())["a"] == [{"Authorization": "[hidden]", "b": 1}]


def test_lines_of_libraries_go_the_same_way_from_warning_on(stream: io.StringIO) -> None:
    logs.configure("runner", "debug", stream)
    logging.getLogger("lib").info("chatter")
    logging.getLogger("lib").warning("trouble %d", 7)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["service"]) == ("trouble 7", "lib", "runner")


def test_a_level_hides_what_lies_below_it(stream: io.StringIO) -> None:
    logs.configure("runner", "warning", stream)
    logs.get("x").info("not seen")
    assert stream.getvalue() == ""


def test_a_traceback_on_a_terminal_shows_no_values(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True)
    logs.configure("gateway", "info", stream)
    tweaks = {"api_key": "".join(("can", "ary"))}
    try:
        tweaks["nothing"]
    except KeyError:
        logs.get("x").exception("request failed")
    assert "KeyError" in stream.getvalue()
    assert "canary" not in stream.getvalue()
