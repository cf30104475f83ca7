"""Which function is behind which component of the catalogue."""

from perdure.engine.components import control, text
from perdure.engine.components.chat_model import chat_model
from perdure.engine.components.contract import Components
from perdure.engine.components.endpoint import ModelEndpoint


def builtin(model: ModelEndpoint | None) -> Components:
    """The built-in components by name. `ask` is none of them: asking a person is the engine's own call, not a step."""
    components = (*text.COMPONENTS, *control.COMPONENTS, chat_model(model))
    return {component.spec.name: component for component in components}
