"""Seals of AUDIT, with the sweeper's rights: each appended once, and held against the records that it covers."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from perdure.bus import seals
from perdure.bus.audit import Audit, Record
from perdure.bus.connection import Bus
from perdure.bus.inventory import first_sequence
from perdure.bus.seals import LATE_SECONDS, Verdict, last_seal, verified
from perdure.bus.stream import store
from perdure.bus.subject import audit_subject, seal_subject
from perdure.cli.app import main
from perdure.clock import SystemClock
from perdure.core.instant import later
from perdure.core.seal import sealed
from perdure.errors import Malformed
from perdure.ids import Tenant
from perdure.local.server import NatsServer
from perdure_sweeper.duties.seals import Seals

GOLDEN = Path(__file__).parents[2] / "golden" / "bus" / "audit-1.json"
RECORD = msgspec.json.decode(GOLDEN.read_bytes(), type=Record)
MAIN, OTHER = Tenant("main"), Tenant("other")


async def write(bus: Bus, tenant: Tenant, *numbers: int) -> None:
    await Audit(bus).write([replace(RECORD, tenant=tenant, id=f"{tenant}-{number}") for number in numbers])


async def judged(bus: Bus, tenant: Tenant = MAIN, known: str | None = None, seconds: float = 0.0) -> Verdict:
    await bus.measure_offset()
    return await verified(bus, tenant, later(bus.clock.broker_now(), seconds), known)


@pytest.fixture
def duty(own_bus: Bus) -> Seals:
    return Seals(own_bus, SystemClock())


async def test_what_was_recorded_since_is_under_the_next_seal(own_bus: Bus, duty: Seals) -> None:
    assert await duty.run_once() == 0
    await write(own_bus, MAIN, 1, 2)
    await write(own_bus, OTHER, 1)
    assert await duty.run_once() == 2
    assert await duty.run_once() == 0
    await write(own_bus, MAIN, *range(3, 703))  # more than a seal covers
    assert await Seals(own_bus, SystemClock()).run_once() == 2  # another sweeper, or this one started again
    await write(own_bus, MAIN, 703)
    assert await duty.run_once() == 1  # what it remembers is not the last any more
    await write(own_bus, MAIN, 704)
    found = await judged(own_bus)
    assert (found.findings, found.seals, found.records, found.unsealed) == ([], 4, 703, 1)
    assert found.first is not None
    assert (found.first.number, found.first.records, found.last) == (1, 2, (await last_seal(own_bus, MAIN)).seal)
    assert (await judged(own_bus, OTHER)).records == 1
    late = await judged(own_bus, seconds=LATE_SECONDS + 60)
    assert [text[:26] for text in late.findings] == ["what was recorded since 20"]
    nothing = await judged(own_bus, Tenant("nobody"))
    assert (nothing.findings, nothing.seals, nothing.last) == ([], 0, None)


async def test_of_two_sweepers_at_once_one_seals(own_bus: Bus) -> None:
    await write(own_bus, MAIN, *range(1200))
    both = [Seals(own_bus, SystemClock()) for _ in range(2)]
    assert sum(await asyncio.gather(*(duty.run_once() for duty in both))) == 3
    found = await judged(own_bus)
    assert (found.findings, found.seals, found.records) == ([], 3, 1200)


async def test_what_somebody_with_the_sweeper_s_rights_forges_is_found(own_bus: Bus, duty: Seals) -> None:
    await write(own_bus, MAIN, 1)
    assert await duty.run_once() == 1
    honest = (await last_seal(own_bus, MAIN)).seal
    assert honest is not None
    at = await store(own_bus, audit_subject(MAIN), b"{}")
    forged = sealed(MAIN, replace(honest, digest="0" * 64), [(at, b"[]")], honest.at)
    await store(own_bus, seal_subject(MAIN), msgspec.json.encode(forged))
    found = await judged(own_bus, known=forged.digest)
    assert found.findings == [
        "seal 2: does not follow seal 1",
        "seal 2: the records since the seal before, or itself, were changed",
    ]
    assert (await judged(own_bus, known=honest.digest)).known
    assert (await judged(own_bus, known="1" * 64)).findings[-1] == "no seal has the digest that was given"


async def test_what_goes_by_age_is_no_finding_also_while_it_is_read(
    own_bus: Bus, duty: Seals, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        await write(own_bus, MAIN, 2 * number, 2 * number + 1)
        assert await duty.run_once() == 1
    info = msgspec.json.decode(await own_bus.ask("$JS.API.STREAM.INFO.AUDIT", b""))
    smaller = info["config"] | {"max_msgs": 8}  # of 12: the oldest go, as they do by age
    changed = await own_bus.ask("$JS.API.STREAM.UPDATE.AUDIT", msgspec.json.encode(smaller))
    assert "error" not in msgspec.json.decode(changed)
    found = await judged(own_bus)
    assert found.first is not None
    assert (found.findings, found.first.number, found.seals) == ([], 2, 3)

    async def stale(bus: Bus, stream: str) -> int:
        monkeypatch.setattr(seals, "first_sequence", first_sequence)
        return 1  # as it was before they went

    monkeypatch.setattr(seals, "first_sequence", stale)
    assert (await judged(own_bus)).findings == []


async def test_a_tenant_whose_seal_is_none_holds_up_no_other(own_bus: Bus, duty: Seals) -> None:
    await store(own_bus, seal_subject(MAIN), b"no seal")
    await write(own_bus, MAIN, 1)
    await write(own_bus, OTHER, 1)
    assert await duty.run_once() == 1
    assert (await judged(own_bus, OTHER)).seals == 1
    with pytest.raises(Malformed):
        await judged(own_bus, MAIN)


async def test_the_seals_are_verified_from_the_command_line(
    own_nats_server: NatsServer, own_bus: Bus, duty: Seals, capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    who = own_nats_server.credentials["sweeper"]
    for name, value in (("NATS", own_nats_server.url), ("NATS_USER", who.user), ("NATS_PASSWORD", who.password)):
        monkeypatch.setenv(f"PERDURE_{name}", value)
    await write(own_bus, MAIN, 1, 2)
    await duty.run_once()
    words = ["audit", "verify", "--json", "--data", str(tmp_path)]

    async def run(*more: str) -> tuple[int, dict[str, object]]:
        capsysbinary.readouterr()
        code = await asyncio.to_thread(main, [*words, *more])
        return code, msgspec.json.decode(capsysbinary.readouterr().out or b"{}", type=dict[str, object])

    code, said = await run()
    assert (code, said["intact"], said["records"], said["seals"]) == (0, True, 2, 1)
    last = said["last"]
    assert isinstance(last, dict)
    assert (await run("--seal", last["digest"]))[0] == 0
    code, said = await run("--seal", "0" * 64)
    assert (code, said["intact"], said["findings"]) == (1, False, ["no seal has the digest that was given"])
    assert (await run("--tenant", "a.>"))[0] == 2
