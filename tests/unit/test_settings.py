"""The settings: which databases are refused outside development, and that nothing changes after the start."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from models.settings import Settings, read_settings
from worker.settings import WorkerSettings

GOOD = "postgresql+psycopg://trainyard:k8Qz-long-and-random@db:5432/trainyard"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "TRAINYARD_ENVIRONMENT", "TRAINYARD_HOST", "TRAINYARD_ALLOW_ANONYMOUS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("settings", [Settings, ApiSettings, WorkerSettings])
@pytest.mark.parametrize(
    "url",
    [
        None,
        "postgresql+psycopg://trainyard@db:5432/trainyard",
        "postgresql+psycopg://trainyard:@db/trainyard",
        "postgresql+psycopg://trainyard:trainyard@db/trainyard",
        "postgresql+psycopg://trainyard:postgres@db/trainyard",
        "postgresql+psycopg://trainyard:changeme@127.0.0.1/trainyard",
        "postgresql+psycopg://trainyard:change-me@[::1]:5432/trainyard",
        "postgresql+psycopg://trainyard:password@/trainyard?host=db",
        "postgresql+psycopg://trainyard@/trainyard?host=10.0.0.1&port=5432",
    ],
)
def test_production_refuses_an_empty_or_well_known_password_over_tcp(
    monkeypatch: pytest.MonkeyPatch, settings: type[Settings], url: str | None
) -> None:
    if url is not None:
        monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(ValidationError, match="the database password is empty or a well-known default"):
        settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_whoever_sends_no_token_is_let_in_where_only_this_machine_reaches(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD)
    assert ApiSettings().allow_anonymous is False, "nobody is, unless a setting says so"
    monkeypatch.setenv("TRAINYARD_HOST", host)
    monkeypatch.setenv("TRAINYARD_ALLOW_ANONYMOUS", "true")
    assert ApiSettings().allow_anonymous is True


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "lab.example.org", ""])
def test_an_api_that_others_reach_does_not_start_without_tokens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD)
    monkeypatch.setenv("TRAINYARD_HOST", host)
    monkeypatch.setenv("TRAINYARD_ALLOW_ANONYMOUS", "true")
    with pytest.raises(SystemExit) as refused:
        read_settings(ApiSettings)
    line = str(refused.value)
    assert line.startswith("settings: ")
    assert "TRAINYARD_ALLOW_ANONYMOUS" in line
    assert "\n" not in line


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"])
def test_an_api_does_not_start_without_the_certificates_that_it_is_to_trust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "lab.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("DATABASE_URL", GOOD)
    monkeypatch.setenv("TRAINYARD_WEBHOOK_CA_FILE", str(file))
    with pytest.raises(SystemExit) as refused:
        read_settings(ApiSettings)
    line = str(refused.value)
    assert "TRAINYARD_WEBHOOK_CA_FILE" in line
    assert str(file) in line
    assert "\n" not in line


def test_a_refusal_does_not_show_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://trainyard:changeme@db/trainyard")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "changeme" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        GOOD,
        "postgresql+psycopg://trainyard@/trainyard?host=/run/trainyard",
        "postgresql+psycopg://trainyard@/trainyard?host=/run/trainyard&port=5433",
        "postgresql+psycopg:///trainyard",
    ],
)
def test_production_accepts_a_password_of_its_own_or_a_socket_without_one(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    settings = Settings()
    assert settings.environment == "production"
    assert settings.database_url == url
    assert unquote(settings.libpq_url) == url.replace("+psycopg", "")


def test_development_accepts_the_default_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_ENVIRONMENT", "development")
    assert Settings().libpq_url == "postgresql://trainyard:trainyard@127.0.0.1:5432/trainyard"


def test_an_environment_of_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_ENVIRONMENT", "staging")
    with pytest.raises(ValidationError, match="environment"):
        Settings()


@pytest.mark.parametrize("settings", [Settings, ApiSettings, WorkerSettings])
def test_settings_do_not_change_after_they_are_read(monkeypatch: pytest.MonkeyPatch, settings: type[Settings]) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD)
    read = settings()
    with pytest.raises(ValidationError, match="frozen"):
        read.database_url = "postgresql+psycopg://elsewhere/"  # type: ignore[misc]
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://elsewhere/")
    assert read.database_url == GOOD


def test_every_setting_of_a_worker_has_a_variable_with_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD)
    for name, value in {
        "WORKER_NAME": "gpu-7",
        "QUEUES": '["default", "night"]',
        "SLOTS": "4",
        "LEASE_SECONDS": "12.5",
        "ARTIFACTS_DIR": "/srv/artifacts",
        "DOWNLOAD_DATASETS": "false",
    }.items():
        monkeypatch.setenv(f"TRAINYARD_{name}", value)
    read = WorkerSettings()
    assert (read.worker_name, read.queues, read.slots) == ("gpu-7", ["default", "night"], 4)
    assert (read.lease_seconds, str(read.artifacts_dir), read.download_datasets) == (12.5, "/srv/artifacts", False)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("value", ["hunter2", "postgresql+psycopg://user:p@ss:hunter2@host/name"])
def test_what_is_no_address_ends_the_process_with_a_line_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"settings: {name}: .*no address") as refused:
        read_settings(WorkerSettings)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLOTS", "0"),
        ("LEASE_SECONDS", "0"),
        ("QUEUES", "[]"),
        ("PORT", "65536"),
        ("JOBS_VISIBLE", "all"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("RATE_LIMIT_BURST", "0"),
        ("REQUEST_TIMEOUT_SECONDS", "0"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD)
    monkeypatch.setenv(f"TRAINYARD_{name}", value)
    settings = WorkerSettings if name in {"SLOTS", "LEASE_SECONDS", "QUEUES"} else ApiSettings
    with pytest.raises(ValidationError, match=name.lower()):
        settings()
