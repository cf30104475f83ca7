"""`perdure up --app`: the how-to's module, run as it says; the example; a module that does not import."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.client import Client
from perdure.local.launch import UpFailed, launched, tail
from perdure.testing import whole

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "python-workflow.md").read_text()
[MODULE] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
[CONSOLE] = re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S)


async def ended(client: Client, flow: str, given: Any) -> Any:
    job = await client.submit(flow, given)
    await whole.events(client, job.id)
    return await client.job(job.id)


async def test_the_how_to_s_module_does_what_the_page_says(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "orders.py").write_text(MODULE)
    assert "perdure up --app orders" in CONSOLE
    app = environ | {"PYTHONPATH": f"{tmp_path}:{environ.get('PYTHONPATH', '')}"}
    async with (
        launched(tmp_path / "data", "--app", "orders", environ=app, log=tmp_path / "up.log") as up,
        whole.client_of(up) as client,
    ):
        done = await ended(client, "order", {"item": "tea", "amount": 12})
        assert done.outputs is not None
        assert re.fullmatch(r"shelf 7: tea, invoice [0-9a-f]{8} over 12\.00 \([0-9a-f]{4}\)", done.outputs["result"])
        asked = await client.submit("order", {"item": "ring", "amount": 400})
        await whole.events(client, asked.id, until="suspended")
        [request] = (await client.job(asked.id)).requests
        await client.answer(await client.request(request.id), "reject")
        await whole.events(client, asked.id)
        refused = await client.job(asked.id)
        assert (refused.status, refused.outputs) == ("completed", {"result": "refused"})


async def test_the_example_runs(tmp_path: Path, environ: dict[str, str]) -> None:
    app = environ | {"PYTHONPATH": f"{ROOT / 'examples'}:{environ.get('PYTHONPATH', '')}"}
    async with (
        launched(tmp_path / "data", "--app", "app", environ=app, log=tmp_path / "up.log") as up,
        whole.client_of(up) as client,
    ):
        assert (await ended(client, "greeting", "Ann")).outputs == {"result": "Hello, Ann!"}
        bought = (await ended(client, "purchase", {"item": "tea", "amount": 3})).outputs
        assert bought is not None
        assert bought["result"]["charged"] is True


async def test_a_module_that_does_not_import_ends_up_and_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(UpFailed):
        async with launched(
            tmp_path / "data", "--app", "no_such_module_at_all", environ=environ, log=tmp_path / "up.log"
        ):
            raise AssertionError("it is ready")
    assert "--app no_such_module_at_all does not import" in tail(tmp_path / "up.log")


def test_what_is_no_module_is_a_wrong_use(tmp_path: Path, environ: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "perdure.cli.app", "up", "--data", str(tmp_path / "data"), "--port", "0"]
    done = subprocess.run([*command, "--app", "../orders"], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "PERDURE_APP" in done.stderr
    assert "../orders" not in done.stderr
