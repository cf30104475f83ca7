"""The command line without a server: what it resolves, prints and returns, and that its reference pages say it all."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from cyclopts.exceptions import MissingArgumentError
from msgspec import UNSET
from rich.console import Console

from perdure.cli.app import app, main
from perdure.cli.form import at, changes, fields, replaced, value_of
from perdure.cli.render import EventPrinter, describe, words
from perdure.cli.session import Common, Exit, Printer, exit_of_error, exit_of_status, safe
from perdure.cli.values import read_value, with_set
from perdure.client import ApiError, Frame, HumanRequest
from perdure.client.problem import Problem, error_of
from perdure.config import known_names
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.errors import Invalid
from perdure.testing.clock import FakeClock

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reference"


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
    err = capsys.readouterr().err
    assert err.count("Error") == 4
    assert "perdure: --from: not an offset" in err


@pytest.mark.parametrize("words", [["--forec"], ["j", "--forec"], []])
def test_where_ids_are_taken_a_mistyped_option_is_none(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["--url", "http://127.0.0.1:1", "--key", "k", "--data", str(tmp_path)]
    assert main(["cancel", *words, *here]) == Exit.USAGE
    assert "perdure: " in capsys.readouterr().err


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


def test_members_are_set_in_objects_only() -> None:
    assert with_set(None, ["a=1", "b=x=y"]) == {"a": 1, "b": "x=y"}
    assert with_set({"a": 0, "c": 2}, ["a=true"]) == {"a": True, "c": 2}
    assert with_set("text", None) == "text"
    for value, given in (("text", ["a=1"]), (None, ["a"]), (None, ["=1"])):
        with pytest.raises(Invalid):
            with_set(value, given)


def test_a_form_follows_the_schema_and_the_action() -> None:
    request = HumanRequest(
        id="j_1",
        job_id="j",
        name="n",
        title="t",
        status="pending",
        response_schema={
            "properties": {
                "note": {"type": "string", "title": "Note"},
                "amount": {"type": "number"},
                "urgent": {"type": "boolean"},
                "team": {"type": "string", "oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]},
            },
            "required": ["note"],
        },
        defaults={"amount": 2.5},
    )
    note, amount, urgent, team = fields(request, ev.Action(id="approve"))
    assert (note.title, note.required, amount.default, amount.required) == ("Note", True, "2.5", False)
    assert team.choices == ("a", "b")
    assert [f.required for f in fields(request, ev.Action(id="x", requires=("team",)))] == [False, False, False, True]
    assert (value_of(note, ""), value_of(amount, "3"), value_of(urgent, "yes")) == ("", 3, True)
    assert value_of(amount, "") is UNSET
    assert value_of(team, "") is UNSET
    with pytest.raises(Invalid) as wrong:
        value_of(amount, "many")
    assert wrong.value.faults[0].pointer == "/payload/amount"


def test_a_proposal_is_edited_where_its_pointers_say_and_shown_as_a_difference() -> None:
    before = {"a": [{"b~/c": 1}], "d": "x"}
    after = replaced(before, "/a/0/b~0~1c", 2)
    assert (at(before, "/a/0/b~0~1c"), at(after, "/a/0/b~0~1c"), at(after, "/z/0")) == (1, 2, None)
    assert replaced(before, "", "whole") == "whole"
    assert [line for line in changes(before, after) if line[1:].strip().startswith('"b')] == [
        '-      "b~/c": 1',
        '+      "b~/c": 2',
    ]
    with pytest.raises(Invalid):
        replaced(before, "/a/7", 1)


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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [
    (page.name, shlex.split(match[1].replace("…", "x"))[1:])
    for page in PAGES
    if page.name != "cli.md" and page.parent.name != "decisions"
    for match in re.finditer(r"(?:^ *(?:\$ )?|`)(?:\.venv/bin/)?(perdure [a-z]+[^`\n]*)(?=`|$)", page.read_text(), re.M)
]


def test_the_pages_show_commands() -> None:
    assert {page for page, _ in SHOWN} >= {"README.md", "graph-flow.md", "python-workflow.md"}


@pytest.mark.parametrize(
    ("page", "words"), SHOWN, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_command_that_a_page_shows_exists_with_its_flags(page: str, words: list[str]) -> None:
    try:
        command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:  # a command that is only named
        return
    assert command is not None, page


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


def told(kind: str, seq: int | None = None, **members: object) -> Frame:
    """A frame as a stream has it."""
    if seq is None:
        return Frame(kind, json.dumps({"v": 1, "type": kind, "attempt": 1, "n": 1, "after": 2, **members}).encode())
    body = {"v": 1, "id": f"e{seq}", "seq": seq, "attempt": 1, "type": kind, "at": "2026-01-01T10:20:30.000Z"}
    return Frame(kind, json.dumps(body | {"status": "running", "data": members}).encode(), seq)


def spoken(step: str, channel: str, *pieces: str) -> list[Frame]:
    return [told("delta.text", step=step, occurrence=1, channel=channel, pos=0, text=piece) for piece in pieces]


STEP = told("step.skipped", 3, step="late", occurrence=1, reason="branch")


def shown(capsys: pytest.CaptureFixture[str], frames: list[Frame], clock: FakeClock, printer: Printer) -> str:
    """What is printed of `frames`, one a quarter of a second."""
    events = EventPrinter(printer, clock)
    for frame in frames:
        events.show(frame)
        clock.advance(0.25)
    events.end()
    return capsys.readouterr().out


def test_tokens_flow_on_one_line_a_channel_and_events_begin_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    frames = [*spoken("draft", "m-1", "Once", " upon"), *spoken("draft", "m-2", "Aside"), STEP]
    frames += [*spoken("late", "m-1", "a \x1b[31m"), told("delta.reset", reason="attempt"), *spoken("late", "m-1", "b")]
    assert shown(capsys, frames, FakeClock(), Printer()).splitlines() == [
        "      … draft: Once upon",
        "      … draft: Aside",
        "   3  10:20:30.000  #1  step.skipped     late  branch",
        "      … late: a \\u001b[31m",
        "      … late: b",
    ]


def test_progress_is_a_line_a_second_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    ticks = [told("delta.progress", step="load", occurrence=1, done=n, total=10, text="rows") for n in range(1, 11)]
    other = told("delta.progress", step="scan", occurrence=1, text="begun")
    assert shown(capsys, [*ticks, other], FakeClock(), Printer()).splitlines() == [
        "      … load 1/10 rows",
        "      … load 5/10 rows",
        "      … load 9/10 rows",
        "      … load 10/10 rows",
        "      … scan  begun",
    ]


def test_on_a_terminal_progress_changes_in_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printer = Printer(no_color=True)
    monkeypatch.setattr(printer, "out", Console(force_terminal=True, width=30, no_color=True, soft_wrap=True))
    ticks = [
        told("delta.progress", step="load", occurrence=1, done=n, total=9, text=t) for n, t in ((1, "rows"), (2, ""))
    ]
    wide = told("delta.progress", step="load", occurrence=1, done=3, text="x" * 99)
    said = re.sub(r"\x1b\[[0-9;]*m", "", shown(capsys, [*ticks, wide, STEP], FakeClock(), printer))
    first, second, third, line, end = said.replace("\r", "\n").split("\n", 4)
    assert (first, second) == ("      … load 1/9 rows", "      … load 2/9     ")
    assert third == "      … load 3 " + "x" * 14
    assert (line, end.strip()) == ("", "3  10:20:30.000  #1  step.skipped     late  branch")


def test_with_json_each_event_and_delta_is_a_line_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    frames = [STEP, *spoken("draft", "m-1", "Once"), told("delta.progress", step="load", done=1), STEP]
    stream = Frame("stream.gap", b'{"from":"1","to":"2"}')
    out = shown(capsys, [stream, *frames], FakeClock(), Printer(json=True))
    assert out.encode().splitlines() == [frame.data for frame in frames]
