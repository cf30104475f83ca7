import pytest

from perdure.config import Address, ClientSettings, GatewaySettings, RunnerSettings, SweeperSettings, known_names
from perdure.errors import Invalid


def refused(call: object) -> list[tuple[str | None, str]]:
    assert callable(call)
    with pytest.raises(Invalid) as info:
        call()
    return [(fault.parameter, fault.code) for fault in info.value.faults]


def test_an_unknown_name_stops_the_start_and_is_named() -> None:
    assert refused(lambda: RunnerSettings.load({"PERDURE_SLOT": "3", "PERDURE_SLOTS": "3"})) == [
        ("PERDURE_SLOT", "unknown-setting")
    ]


def test_every_unknown_name_and_every_bad_value_is_named_at_once() -> None:
    found = refused(lambda: RunnerSettings.load({"PERDURE_A": "", "PERDURE_SLOTS": "many", "PERDURE_QUEUES": "a b"}))
    assert found == [
        ("PERDURE_A", "unknown-setting"),
        ("PERDURE_QUEUES", "invalid-setting"),
        ("PERDURE_SLOTS", "invalid-setting"),
    ]


def test_a_refused_value_is_not_shown() -> None:
    with pytest.raises(Invalid) as info:
        GatewaySettings.load({"PERDURE_PORT": "hunter2"})
    assert "hunter2" not in str(info.value)
    assert "PERDURE_PORT" in str(info.value)
    assert info.value.__cause__ is None


def test_settings_of_other_services_and_of_other_programs_are_no_mistake() -> None:
    environ = {"PERDURE_PORT": "1", "PERDURE_FAILPOINTS": "", "PERDURE_NATS_SERVER": "/x", "HOME": "/root"}
    assert SweeperSettings.load(environ) == SweeperSettings()


def test_flags_win_over_the_environment_and_none_is_no_flag() -> None:
    environ = {"PERDURE_PORT": "1000", "PERDURE_HOST": "::1"}
    settings = GatewaySettings.load(environ, port=2000, host=None)
    assert (settings.host, settings.port) == ("::1", 2000)


def test_a_variable_set_to_nothing_is_not_set() -> None:
    assert GatewaySettings.load({"PERDURE_PORT": ""}).port == 8480


def test_lists_and_addresses_are_read() -> None:
    settings = RunnerSettings.load(
        {"PERDURE_NATS": "nats://a:1, nats://b:2", "PERDURE_HEALTH": "127.0.0.1:0", "PERDURE_PRIORITIES": "high,low"}
    )
    assert settings.nats == ("nats://a:1", "nats://b:2")
    assert settings.health == Address("127.0.0.1", 0)
    assert settings.priorities == ("high", "low")
    assert RunnerSettings.load({"PERDURE_HEALTH": "[::1]:80"}).health == Address("::1", 80)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PERDURE_HEALTH", "80"),
        ("PERDURE_HEALTH", "h:65536"),
        ("PERDURE_PRIORITIES", "urgent"),
        ("PERDURE_QUEUES", "a.b"),
        ("PERDURE_SLOTS", "0"),
        ("PERDURE_APP", "a b"),
        ("PERDURE_APP", "/etc"),
        ("PERDURE_TENANTS", "Main"),
        ("PERDURE_TENANTS", ","),
        ("PERDURE_GRACE_SECONDS", "nan"),
        ("PERDURE_LOG_LEVEL", "loud"),
        ("PERDURE_NATS", ","),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(name: str, value: str) -> None:
    assert refused(lambda: RunnerSettings.load({name: value})) == [(name, "invalid-setting")]


def test_secrets_do_not_show_in_any_text_of_the_settings() -> None:
    settings = RunnerSettings.load({"PERDURE_NATS_PASSWORD": "canary-1", "PERDURE_MODEL_KEY": "canary-2"})
    assert "canary" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert settings.password == "canary-1"


def test_settings_travel_to_a_child_by_its_environment() -> None:
    settings = RunnerSettings.load(
        {"PERDURE_NATS": "nats://a:1,nats://b:2", "PERDURE_NATS_PASSWORD": "s", "PERDURE_HEALTH": "[::1]:7"}, slots=3
    )
    environ = settings.environ()
    assert environ == {
        "PERDURE_NATS": "nats://a:1,nats://b:2",
        "PERDURE_NATS_PASSWORD": "s",
        "PERDURE_HEALTH": "[::1]:7",
        "PERDURE_SLOTS": "3",
    }
    assert RunnerSettings.load(environ) == settings


def test_the_names_are_the_documented_ones() -> None:
    assert known_names() == {
        "PERDURE_APP",
        "PERDURE_ARCHIVE_DAYS",
        "PERDURE_DATABASE",
        "PERDURE_FAILPOINTS",
        "PERDURE_FIRST_KEY",
        "PERDURE_GRACE_SECONDS",
        "PERDURE_HEALTH",
        "PERDURE_HOST",
        "PERDURE_LANGFLOW",
        "PERDURE_LANGFLOW_AHEAD",
        "PERDURE_LANGFLOW_ENVIRON",
        "PERDURE_LANGFLOW_MEMORY_MB",
        "PERDURE_LANGFLOW_SECONDS",
        "PERDURE_LEASE_SECONDS",
        "PERDURE_KEY",
        "PERDURE_LOG_DAYS",
        "PERDURE_LOG_LEVEL",
        "PERDURE_MODEL_KEY",
        "PERDURE_MODEL_NAME",
        "PERDURE_MODEL_URL",
        "PERDURE_NATS",
        "PERDURE_NATS_PASSWORD",
        "PERDURE_NATS_REPLAY_PASSWORD",
        "PERDURE_NATS_REPLAY_USER",
        "PERDURE_NATS_SERVER",
        "PERDURE_NATS_USER",
        "PERDURE_OUTBOUND_ALLOW",
        "PERDURE_PARENT",
        "PERDURE_PORT",
        "PERDURE_PRIORITIES",
        "PERDURE_QUEUES",
        "PERDURE_SLOTS",
        "PERDURE_TENANTS",
        "PERDURE_CORS_ORIGINS",
        "PERDURE_RATE_PER_MINUTE",
        "PERDURE_CONNECTIONS_PER_ADDRESS",
        "PERDURE_SQL_OUTAGE_SECONDS",
        "PERDURE_URL",
        "PERDURE_MASTER_KEY",
        "PERDURE_LANGFLOW_FAILED_STATUS",
        "PERDURE_LANGFLOW_SUPERSEDE",
        "PERDURE_LANGFLOW_SYNC_TIMEOUT_SECONDS",
        "PERDURE_LANGFLOW_STREAM_ORPHAN_SECONDS",
        "PERDURE_LANGFLOW_QUERY_KEY",
    }


def test_a_runner_knows_what_flows_may_reach() -> None:
    settings = RunnerSettings.load({"PERDURE_OUTBOUND_ALLOW": "intra.example:8080, [::1]:443"})
    assert settings.outbound_allow == (("intra.example", 8080), ("::1", 443))
    assert settings.environ() == {"PERDURE_OUTBOUND_ALLOW": "intra.example:8080,[::1]:443"}
    with pytest.raises(Invalid):
        RunnerSettings.load({"PERDURE_OUTBOUND_ALLOW": "intra.example"})


def test_a_client_finds_its_url_and_key() -> None:
    settings = ClientSettings.load({"PERDURE_URL": "http://h:1", "PERDURE_KEY": "pdr_x"})
    assert settings.url == "http://h:1"
    assert settings.key is not None
    assert settings.key.get_secret_value() == "pdr_x"


def test_origins_are_exact() -> None:
    settings = GatewaySettings.load({"PERDURE_CORS_ORIGINS": "https://app.example,http://localhost:3000"})
    assert settings.cors_origins == ("https://app.example", "http://localhost:3000")
    for wrong in ("*", "null", "https://app.example/", "https://*.example", "app.example", "https://App.example"):
        with pytest.raises(Invalid):
            GatewaySettings.load({"PERDURE_CORS_ORIGINS": wrong})
