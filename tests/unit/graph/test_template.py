"""Text with holes: paths only, no code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.graph import template
from perdure.errors import Malformed, TooLarge


def filled(text: str, **values: object) -> str:
    return template.render(template.parse(text), values)


def test_a_path_is_replaced_by_what_it_leads_to() -> None:
    order = {"lines": [{"what": "tea", "count": 2}], "paid": True, "note": None}
    assert filled("{{ a }}/{{o.lines.0.what}}/{{o.lines.0.count}}/{{o.paid}}/{{o.note}}", a="x", o=order) == (
        "x/tea/2/true/null"
    )


def test_what_is_no_string_appears_as_json() -> None:
    assert filled("{{v}}", v={"ä": [1, "b"]}) == '{"ä":[1,"b"]}'


def test_a_value_is_never_read_as_a_template_again() -> None:
    assert filled("{{a}}", a="{{b}}", b="secret") == "{{b}}"


def test_json_with_closing_braces_may_stand_in_a_template() -> None:
    assert filled('{"a":{"b":{{v}}}}', v=1) == '{"a":{"b":1}}'


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "{{}}",
        "{{ }}",
        "a {{1a}}",
        "{{a.}}",
        "{{.a}}",
        "{{a b}}",
        "{{a|upper}}",
        "{{a()}}",
        "{{a[0]}}",
        "{{{a}}}",
        "{{a}",
    ],
)
def test_what_is_no_path_is_refused_with_its_position(text: str) -> None:
    with pytest.raises(Malformed, match=f"at character {text.index('{{') + 1} "):
        template.parse(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{{a.b}}", {"a": {}}),
        ("{{a.0}}", {"a": []}),
        ("{{a.0}}", {"a": "text"}),
        ("{{a.-1}}", {"a": [1]}),
        ("{{a.__class__}}", {"a": {}}),
        ("{{a}}", {}),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(text: str, values: dict[str, object]) -> None:
    with pytest.raises(Malformed, match="there is no a"):
        template.render(template.parse(text), values)


def test_a_rendered_text_is_bounded() -> None:
    with pytest.raises(TooLarge):
        filled("{{a}}" * 20, a="x" * 100_000)


def test_the_variables_of_a_template_are_named_once_in_order() -> None:
    assert template.names(template.parse("{{b.c}} {{a}} {{b}}")) == ("b", "a")


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_holes_stays_as_it_is(text: str) -> None:
    assert filled(text) == text
