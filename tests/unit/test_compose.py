"""What docker-compose.yml, the Dockerfiles and .env.example promise, as far as it can be read without an engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from models.recipes import all_recipes
from models.settings import Settings
from worker import slots

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
BESIDE = (ROOT / "docker-compose.worker.yml").read_text()
HOSTS = (ROOT / "docker-compose.hosts.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
ONE_SHOT = {"preflight", "migrate"}
LONG_RUNNING = sorted(SERVICES.keys() - ONE_SHOT)
DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")
ENV_EXAMPLE = (ROOT / ".env.example").read_text()
EXAMPLE_VALUES = dict(line.split("=", 1) for line in ENV_EXAMPLE.splitlines() if re.match(r"\w+=", line))


def final_stage(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of the last stage as (name, arguments)."""
    text = re.sub(r"\\\n", " ", (ROOT / dockerfile).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    start = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines[start:])]


def copied(dockerfile: str) -> list[tuple[list[str], str]]:
    """Return what the last stage copies from the source tree: (sources, destination)."""
    copies = [arguments.split() for name, arguments in final_stage(dockerfile) if name == "COPY"]
    return [(paths[:-1], paths[-1]) for paths in copies]


def test_the_services_are_those_that_the_tests_know() -> None:
    assert LONG_RUNNING == ["api", "postgres", "redis", "scheduler", "worker", "worker-cpu"]
    assert SERVICES.keys() >= ONE_SHOT


def test_the_api_alone_publishes_a_port_and_on_the_loopback_address() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    assert SERVICES["api"]["ports"] == ["${TRAINYARD_BIND:-127.0.0.1}:${TRAINYARD_PORT:-8000}:8000"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_service_that_runs_on_has_a_health_check_a_restart_policy_and_bounded_logs(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_a_service_that_ends_is_not_restarted(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", ["api", "scheduler", "worker", "worker-cpu"])
def test_nothing_of_ours_starts_before_the_migrations_have_ended(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "postgres": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }


def test_the_password_is_checked_before_postgres_keeps_it() -> None:
    assert SERVICES["postgres"]["depends_on"] == {"preflight": {"condition": "service_completed_successfully"}}
    assert SERVICES["preflight"]["environment"] == SERVICES["api"]["environment"]


def test_the_gpu_worker_alone_reserves_gpus() -> None:
    assert [name for name, service in SERVICES.items() if "deploy" in service] == ["worker"]
    reservation = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert SERVICES["worker"]["deploy"] == {"resources": {"reservations": {"devices": [reservation]}}}


def test_each_worker_is_started_by_its_own_profile_and_nothing_else_by_any() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"worker": ["gpu"], "worker-cpu": ["cpu"]}


def test_the_workers_differ_in_profile_and_gpus_alone() -> None:
    differing = {"profiles", "deploy"}
    gpu, cpu = ({k: v for k, v in SERVICES[n].items() if k not in differing} for n in ("worker", "worker-cpu"))
    assert gpu == cpu


def test_a_worker_is_given_longer_to_stop_than_it_needs() -> None:
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= slots.STOP_SECONDS + 5


def test_a_worker_beside_the_main_host_differs_in_where_what_it_shares_is() -> None:
    beside = yaml.safe_load(BESIDE)["services"]
    assert beside.keys() == {"worker", "worker-cpu"}
    for name, service in beside.items():
        differing = {"depends_on", "environment", "healthcheck", "hostname", "volumes"}
        kept = [{k: v for k, v in one.items() if k not in differing} for one in (service, SERVICES[name])]
        assert kept[0] == kept[1]
        own, main = service["environment"], SERVICES[name]["environment"]
        assert {k: v for k, v in own.items() if not k.endswith("_URL")}.items() <= main.items()
        for url, host in {"DATABASE_URL": "postgres", "REDIS_URL": "redis"}.items():
            assert re.sub(r":\?[^}]*", "", own[url]) == re.sub(r":\?[^}]*", "", main[url]).replace(
                f"@{host}:", "@${TRAINYARD_MAIN_HOST}:"
            )
        artifacts, datasets = service["volumes"]
        assert re.fullmatch(r"\$\{TRAINYARD_ARTIFACTS:\?[^}]+\}:/data/artifacts", artifacts)
        assert datasets == SERVICES[name]["volumes"][1]


def test_database_and_broker_are_published_for_other_hosts_in_their_network_alone() -> None:
    published = {name: service["ports"] for name, service in yaml.safe_load(HOSTS)["services"].items()}
    assert published.keys() == {"postgres", "redis"}
    for (port,), number in zip(published.values(), (5432, 6379), strict=True):
        assert re.fullmatch(rf"\$\{{TRAINYARD_LAN_ADDRESS:\?[^}}]+\}}:{number}:{number}", port)


def test_what_must_last_is_in_named_volumes() -> None:
    assert yaml.safe_load(COMPOSE)["volumes"].keys() == {"artifacts", "database", "datasets"}
    assert SERVICES["postgres"]["volumes"] == ["database:/var/lib/postgresql"]
    artifacts = "${TRAINYARD_ARTIFACTS:-artifacts}:/data/artifacts"
    assert SERVICES["worker"]["volumes"] == [artifacts, "datasets:/data/datasets"]


def test_what_a_backup_reads_and_a_restore_fills_is_what_the_service_has_mounted() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert "docker run" not in page, "the name of a volume is not ours to know"
    uses = re.findall(r"docker compose (?:exec|run)(?: --?[\w-]+)* (\w+) tar -C (\S+) ", page)
    assert len(uses) == 2
    for service, folder in uses:
        assert "${TRAINYARD_ARTIFACTS:-artifacts}:" + folder in SERVICES[service]["volumes"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_can_gain_privileges(name: str) -> None:
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name].get("read_only", False) == (name != "postgres")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_no_image_of_ours_runs_as_root(dockerfile: str) -> None:
    users = [arguments for name, arguments in final_stage(dockerfile) if name == "USER"]
    assert users == ["trainyard"]
    assert "useradd --uid 10001" in (ROOT / dockerfile).read_text()


def test_the_image_of_the_api_installs_the_lock_without_torch() -> None:
    assert set(re.findall(r"requirements/(\w+)\.txt", (ROOT / "Dockerfile").read_text())) == {"uv", "api"}
    assert not re.search(r"^(torch|nvidia|scikit)", (ROOT / "requirements/api.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_are_built_from_the_lock_by_hash_and_name_no_package_host(dockerfile: str) -> None:
    text = (ROOT / dockerfile).read_text()
    assert text.count("--require-hashes") == text.count("pip install") == 2
    assert "://" not in text
    assert not text.startswith("# syntax=")


def said_in_image(dockerfile: str, program: str, folder: Path) -> str:
    """Run a program on nothing but the files that the image copies, and return what it prints."""
    for sources, destination in copied(dockerfile):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / destination)
            else:
                (folder / destination).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, folder / destination)
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("dockerfile", "modules"),
    [("Dockerfile", "api.__main__, migrations.__main__, worker.scheduler"), ("Dockerfile.gpu", "worker.start")],
)
def test_an_image_holds_every_module_that_its_services_import_and_no_torch(
    dockerfile: str, modules: str, tmp_path: Path
) -> None:
    program = f"import sys, worker, {modules}; assert 'torch' not in sys.modules; print(*worker.__path__)"
    assert said_in_image(dockerfile, program, tmp_path) == str(tmp_path / "worker")


def test_the_image_of_the_api_holds_every_recipe(tmp_path: Path) -> None:
    program = "from models.recipes import all_recipes; print(*all_recipes())"
    assert said_in_image("Dockerfile", program, tmp_path).split() == list(all_recipes())


def test_the_image_of_the_api_holds_only_what_the_scheduler_needs_of_the_worker(tmp_path: Path) -> None:
    program = "import sys, worker.scheduler; print(*(m for m in sys.modules if m.startswith('worker.')))"
    imported = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = {f"{module.replace('.', '/')}.py" for module in imported.stdout.split()} | {"worker/__init__.py"}
    sources = {source for sources, _ in copied("Dockerfile") for source in sources if "worker" in source}
    assert sources == {file for file in needed if not file.startswith("worker/sweeps")} | {"worker/sweeps"}


def test_the_build_context_is_the_copied_folders_and_nothing_else() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    folders = {source.split("/")[0] for file in DOCKERFILES for sources, _ in copied(file) for source in sources}
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern[0] == "!"} == folders | {"requirements"}


def test_the_example_gives_every_variable_that_compose_requires_and_names_every_other() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert required == {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert required <= EXAMPLE_VALUES.keys()
    optional = set(re.findall(r"\$\{(\w+):[-?]", COMPOSE + BESIDE + HOSTS)) - required
    assert optional == {name for name in optional if re.search(rf"^#{name}=", ENV_EXAMPLE, re.MULTILINE)}


@pytest.mark.parametrize(("environment", "accepted"), [("production", False), ("development", True)])
def test_the_example_passwords_are_refused_outside_development(
    environment: str, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(value: str) -> str:
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: EXAMPLE_VALUES[found[1]], value)

    monkeypatch.setenv("DATABASE_URL", filled(SERVICES["api"]["environment"]["DATABASE_URL"]))
    monkeypatch.setenv("REDIS_URL", filled(SERVICES["api"]["environment"]["REDIS_URL"]))
    monkeypatch.setenv("TRAINYARD_ENVIRONMENT", environment)
    if accepted:
        assert Settings().environment == "development"
    else:
        with pytest.raises(ValidationError, match="well-known default"):
            Settings()
