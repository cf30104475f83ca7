"""The files that put Perdure on a host say the same as the code: names, rights, durability."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from perdure.config import known_names
from perdure.db.principals import KEY
from perdure.local.server import RIGHTS

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = (ROOT / "compose.yaml").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)  # Any: YAML
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
BROKER: Final = (ROOT / "deploy" / "nats.conf").read_text()
USERS: Final = ("gateway", "runner", "sweeper", "replay")


def names(text: str) -> set[str]:
    """The variables that an environment file sets."""
    return set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))


def made() -> str:
    return subprocess.run(["sh", "deploy/new-env.sh"], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_compose_is_the_broker_postgres_migrate_and_the_three_services() -> None:
    assert set(SERVICES) == {"nats", "postgres", "migrate", "gateway", "runner", "sweeper"}
    assert set(COMPOSE["volumes"]) == {"nats", "postgres"}


@pytest.mark.parametrize("user", USERS)
def test_a_user_of_the_broker_may_do_what_the_embedded_brokers_user_may(user: str) -> None:
    block = re.search(
        rf"\{{ user: {user}, password: \$NATS_{user.upper()}_PASSWORD, permissions:(.*?)\n      }} }}",
        BROKER,
        re.DOTALL,
    )
    assert block is not None
    lists = dict(re.findall(r"(publish|subscribe): \{ allow: \[(.*?)\] \}", block[1], re.DOTALL))
    found = {side: tuple(json.loads(line) for line in text.split("\n") if line.strip()) for side, text in lists.items()}
    assert found == {"publish": RIGHTS[user].publish, "subscribe": RIGHTS[user].subscribe}


def test_the_broker_has_no_other_users_and_calls_fsync_for_every_event() -> None:
    assert re.findall(r"user: ([a-z]+)", BROKER) == list(USERS)
    assert re.search(r"^  sync_interval: always$", BROKER, re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_a_health_check_and_comes_back_unless_it_is_meant_to_end(name: str) -> None:
    service = SERVICES[name]
    if name == "migrate":
        assert "healthcheck" not in service
        assert service["restart"] == "on-failure"
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["gateway", "runner", "sweeper", "migrate"])
def test_a_service_gets_settings_that_exist_and_its_own_rights_only(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert set(environment) <= known_names()
    user = environment["PERDURE_NATS_USER"]
    assert user == ("sweeper" if name == "migrate" else name)
    assert environment["PERDURE_NATS_PASSWORD"].startswith(f"${{NATS_{user.upper()}_PASSWORD:?")
    assert environment.get("PERDURE_NATS_REPLAY_USER") == ("replay" if name == "gateway" else None)
    assert ("PERDURE_DATABASE" in environment) == (name != "runner")  # the runner speaks no SQL


@pytest.mark.parametrize("name", ["nats", "migrate", "gateway", "runner", "sweeper"])
def test_a_container_of_ours_has_no_rights_on_its_host(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER perdure$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_only_the_gateway_is_published_and_on_loopback_by_default() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert SERVICES["gateway"]["ports"] == ["${GATEWAY_PUBLISH:-127.0.0.1:8480}:8480"]


def test_the_example_the_script_and_compose_agree_on_the_variables() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", TEXT)) - {"IMAGE_TAG"}
    assert names((ROOT / ".env.example").read_text()) == used
    assert names(made()) == used


def test_the_script_makes_other_secrets_each_time_and_a_key_that_is_one() -> None:
    one, other = (dict(re.findall(r"^([A-Z_]+)=(.+)$", made(), re.MULTILINE)) for _ in range(2))
    secrets = [name for name in one if name.endswith(("_PASSWORD", "_FIRST_KEY"))]
    assert len(secrets) == 6
    assert not [name for name in secrets if one[name] == other[name]]
    assert KEY.fullmatch(one["PERDURE_FIRST_KEY"])
    example = dict(re.findall(r"^([A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert KEY.fullmatch(example["PERDURE_FIRST_KEY"])


def test_the_image_holds_the_files_that_compose_names() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = re.search(r"^COPY (deploy/\S+(?: deploy/\S+)*) /etc/perdure/$", dockerfile, re.MULTILINE)
    assert copied is not None
    files = {Path(name).name for name in copied[1].split()}
    assert set(re.findall(r"/etc/perdure/([\w.]+)", TEXT)) == files
    assert [f for f in files if not (ROOT / "deploy" / f).is_file()] == []
