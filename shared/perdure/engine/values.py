"""Values of users' code: encoded at once, handed out decoded and in the shape that the code declares.

What a step returns is encoded before anybody sees it, and its caller gets the decoded value in the first pass too. So
no code can come to rely on what a later pass would not give it.
"""

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from perdure.core import codec
from perdure.engine.result import Result
from perdure.errors import Malformed

Shape = Any  # a type form as annotations hold it; UNSHAPED where nothing is declared
UNSHAPED: Final = object()
# Read once for each function and forgotten with it: every step asks, and the answer takes long to find.
_known: Final[WeakKeyDictionary[Callable[..., object], dict[str, Any]]] = WeakKeyDictionary()
_inputs: Final[WeakKeyDictionary[Callable[..., object], Shape]] = WeakKeyDictionary()


def plain(value: object) -> Any:  # any JSON
    """`value` as it will be read back. Raises Malformed when it cannot be stored, TooLarge beyond a value's bound."""
    return codec.decode_value(codec.encode_value(value))


def shape_of(fn: Callable[..., object], returns: Shape = None) -> Shape:
    """What the result of `fn` is converted to: `returns`, else the return annotation, else UNSHAPED."""
    if returns is not None:
        return returns
    wanted = _hints(fn).get("return", UNSHAPED)
    if typing.get_origin(wanted) in (Awaitable, Coroutine):
        wanted = typing.get_args(wanted)[-1]
    if wanted is Result:
        return UNSHAPED
    if typing.get_origin(wanted) is Result:
        wanted = typing.get_args(wanted)[0]
    return UNSHAPED if wanted in (Any, object) or isinstance(wanted, typing.TypeVar) else wanted


def input_shape(fn: Callable[..., object]) -> Shape:
    """What the input of a workflow is converted to: the annotation of its second parameter, None if it has none."""
    if fn not in _inputs:
        _inputs[fn] = _input_shape(fn)
    return _inputs[fn]


def _input_shape(fn: Callable[..., object]) -> Shape:
    parameters = list(inspect.signature(fn).parameters.values())
    if len(parameters) < 2:
        return None
    wanted = _hints(fn).get(parameters[1].name, UNSHAPED)
    return UNSHAPED if wanted in (Any, object) else wanted


def shaped(value: Any, shape: Shape) -> Any:  # any JSON in, whatever the code declared out
    """A copy of the JSON `value` in the declared shape. Raises Malformed when it does not fit."""
    if isinstance(value, dict | list):
        value = codec.decode_value(codec.encode_value(value))  # nobody may change what the log holds
    if shape is UNSHAPED:
        return value
    try:
        return msgspec.convert(value, shape, str_keys=True, dec_hook=_model)
    except msgspec.ValidationError as exc:
        raise Malformed(f"the value does not fit {_name(shape)}: {exc}") from exc
    except TypeError:  # an annotation that msgspec cannot read converts nothing
        return value
    except BaseException as exc:  # users' code: validators, __post_init__
        raise Malformed(f"the value does not fit {_name(shape)}: {type(exc).__name__}") from exc


def _model(wanted: type, value: Any) -> Any:
    validate = getattr(
        wanted, "model_validate", None
    )  # pydantic's; importing it here would cost every program its time
    if validate is None:
        if isinstance(value, wanted):
            return value
        raise NotImplementedError
    return validate(value)


def _hints(fn: Callable[..., object]) -> dict[str, Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not inspect.isroutine(fn):
        fn = type(fn).__call__
    if not getattr(fn, "__annotations__", None):
        return {}
    key = getattr(fn, "__func__", fn)  # a bound method is a new object at each look
    if key not in _known:
        try:
            _known[key] = typing.get_type_hints(fn, include_extras=True)
        except (NameError, TypeError):  # names that only a type checker sees
            return {}
    return _known[key]


def _name(shape: Shape) -> str:
    return getattr(shape, "__name__", None) or str(shape)
