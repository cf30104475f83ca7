"""Which function is behind which component of the catalogue."""

from perdure.engine.components import control, text
from perdure.engine.components.chat_model import chat_model
from perdure.engine.components.contract import Components
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.engine.components.http_request import http_request
from perdure.engine.components.outbound import Outbound


def builtin(model: ModelEndpoint | None, outbound: Outbound | None = None) -> Components:
    """The built-in components by name; requests go through `outbound` (without one: to nothing but public addresses and
    the model's). `ask`, `wait`, `subflow` and `map` are none of them: those are the engine's own calls, not steps.
    """
    client = outbound or Outbound([] if model is None else [model.address])
    components = (*text.COMPONENTS, *control.COMPONENTS, chat_model(model, client), http_request(client))
    return {component.spec.name: component for component in components}
