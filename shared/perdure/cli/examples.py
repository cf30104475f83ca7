"""The examples that come along: beside the package where a wheel put them, else the checkout's."""

from pathlib import Path
from typing import Any

import perdure
from perdure.cli.values import read_json


def example(name: str) -> Any:  # Any: a definition as its author wrote it
    """The definition `examples/<name>.json`. Raises Invalid when it is not there."""
    package = Path(perdure.__file__).parent
    installed = package / "_examples"
    return read_json((installed if installed.is_dir() else package.parents[1] / "examples") / f"{name}.json")
