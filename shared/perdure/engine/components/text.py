"""Components that only move and join what they are given: inputs, template, outputs."""

from typing import Final

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph import template
from perdure.core.graph.catalogue import BUILTIN
from perdure.engine.components.contract import Component, ComponentContext
from perdure.errors import Malformed, Terminal, TooLarge


class GivenInputs(Struct, frozen=True):
    """`value` is what the job's input says for this node."""

    value: str


class GivenData(Struct, frozen=True):
    """The same, for any JSON."""

    value: UserValue


class TextInputs(Struct, frozen=True):
    text: str


class DataInputs(Struct, frozen=True):
    data: UserValue


async def _given(_context: ComponentContext, inputs: GivenInputs) -> str:
    return inputs.value


async def _given_data(_context: ComponentContext, inputs: GivenData) -> UserValue:
    return inputs.value


async def _text(_context: ComponentContext, inputs: TextInputs) -> str:
    return inputs.text


async def _data(_context: ComponentContext, inputs: DataInputs) -> UserValue:
    return inputs.data


async def _template(_context: ComponentContext, inputs: dict[str, UserValue]) -> str:
    """Raises Terminal when a path of the template leads nowhere or the text becomes too long."""
    try:
        return template.render(template.parse(inputs["template"]), inputs)
    except (Malformed, TooLarge) as exc:
        raise Terminal(f"the template cannot be filled: {exc}", code="template_failed") from exc


COMPONENTS: Final = (
    Component(spec=BUILTIN["chat_input"], inputs=GivenInputs, run=_given),
    Component(spec=BUILTIN["text_input"], inputs=GivenInputs, run=_given),
    Component(spec=BUILTIN["data_input"], inputs=GivenData, run=_given_data),
    Component(spec=BUILTIN["template"], inputs=dict, run=_template),
    Component(spec=BUILTIN["chat_output"], inputs=TextInputs, run=_text),
    Component(spec=BUILTIN["text_output"], inputs=TextInputs, run=_text),
    Component(spec=BUILTIN["data_output"], inputs=DataInputs, run=_data),
)
