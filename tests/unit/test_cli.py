"""The command line without a server: what it resolves, prints and returns, and that its reference pages say it all."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from perdure.cli.app import app, main
from perdure.cli.render import describe, words
from perdure.cli.session import Common, Exit, exit_of_error, exit_of_status, safe
from perdure.cli.values import read_value
from perdure.client import ApiError
from perdure.client.problem import Problem, error_of
from perdure.config import known_names
from perdure.core.event import Status
from perdure.errors import Invalid

DOCS = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (422, 2), (401, 3), (403, 3), (404, 4), (410, 4), (409, 5), (412, 5), (429, 6), (503, 6), (500, 1)],
)
def test_a_refusal_over_http_has_the_exit_code_that_the_reference_says(status: int, code: int) -> None:
    assert exit_of_error(error_of(status, b'{"code":"c","detail":"d"}')) == code
    assert exit_of_error(error_of(status, b"<html>a proxy</html>")) == code


@pytest.mark.parametrize(
    ("status", "code"),
    [("completed", 0), ("failed", 1), ("timed_out", 1), ("cancelled", 9), ("suspended", 8), ("running", 7)],
)
def test_a_job_that_was_followed_decides_the_exit_code(status: str, code: int) -> None:
    assert exit_of_status(Status(status)) == code


def test_wrong_use_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["nonsense"],
        ["jobs", "gett"],
        ["watch"],
        ["watch", "j", "--from", "x"],
        ["up", "--profile", "fast"],
    ):
        assert main(arguments) == Exit.USAGE
    assert capsys.readouterr().err.count("Error") == 5


def test_a_client_needs_an_address_and_a_key_from_somewhere(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as info:
        Common(data=tmp_path).client({})
    assert [fault.parameter for fault in info.value.faults] == ["PERDURE_URL", "PERDURE_KEY"]
    (tmp_path / "client.json").write_text(json.dumps({"url": "http://file:1", "key": "pdr_file"}))
    assert Common(data=tmp_path).client({}).url == "http://file:1"
    assert Common(data=tmp_path).client({"PERDURE_URL": "http://env:1/"}).url == "http://env:1"
    assert Common(data=tmp_path, url="http://flag:1").client({"PERDURE_URL": "http://env:1"}).url == "http://flag:1"


def test_what_others_wrote_cannot_drive_the_terminal() -> None:
    assert safe("a\x1b[2Jb\u202ec\x9bd\re\nf\tg é 你") == "a\\u001b[2Jb\\u202ec\\u009bd\\u000de\nf\tg é 你"
    assert words("a\n b" + "x" * 300) == "a b" + "x" * 196 + "…"


def test_a_value_is_json_where_it_is_json(tmp_path: Path) -> None:
    (tmp_path / "v").write_text('{"a": 1}')
    assert read_value('{"a": [1]}') == {"a": [1]}
    assert read_value("hello") == "hello"
    assert read_value(f"@{tmp_path / 'v'}") == {"a": 1}
    with pytest.raises(Invalid):
        read_value(f"@{tmp_path / 'missing'}")


def test_an_answer_that_is_not_ours_is_told_with_its_request() -> None:
    assert "request 0198" in str(ApiError(500, Problem(code="internal", http_request_id="0198")))


def commands(group: App, path: str = "") -> Iterator[str]:
    for name in group:
        if not name.startswith("-"):
            inner = group[name]
            below = list(commands(inner, f"{path}{name} "))
            yield from below or [f"{path}{name}"]


def test_each_command_has_its_line_in_the_reference() -> None:
    text = (DOCS / "cli.md").read_text()
    named = {
        name for line in re.findall(r"^\| (`.*?) \|", text, re.M) for name in re.findall(r"`([a-z ]+)[^`]*`", line)
    }
    assert {name.strip() for name in named} == set(commands(app))


def test_each_setting_has_its_line_in_the_reference_and_nothing_else_has() -> None:
    text = (DOCS / "settings.md").read_text()
    named = {
        name for line in re.findall(r"^\| (`.*?) \|", text, re.M) for name in re.findall(r"`(PERDURE_[A-Z_]+)`", line)
    }
    assert named == known_names()


def test_each_exit_code_has_its_line_in_the_reference() -> None:
    text = (DOCS / "cli.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)] == [int(code) for code in Exit]


def test_every_kind_of_event_has_a_line_for_people() -> None:
    """`describe` is closed over the union by mypy; here it meets the golden events."""
    from perdure.core import codec

    files = sorted((Path(__file__).parents[1] / "golden" / "events").rglob("*.json"))
    assert files
    for file in files:
        assert "\n" not in describe(codec.decode(file.read_bytes()))
