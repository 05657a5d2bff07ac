"""The alert rules ask for what there is, and the page for admins says what to do about each."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.monitoring.monitor import Monitor
from models.reasons import REASONS
from models.worker import WorkerState
from worker import metrics

DOCS = Path(__file__).parents[2] / "docs"
(GROUP,) = yaml.safe_load((DOCS / "alerts.yml").read_text("utf-8"))["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
PROMETHEUS_OWN = {"up": {"job", "instance"}}  # what it keeps of every target
SELECTED = re.compile(r"\b(up|(?:trainyard|process)_\w+)(?:\{([^}]*(?:\{[^}]*\}[^}]*)*)\})?")
CONDITION = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')


def labels_of(registry: Any) -> dict[str, set[str]]:
    """Return the labels of every sample that a registry can tell, by the sample's name."""
    found = {}
    for name, collector in registry._names_to_collectors.items():
        told = [family for family in collector.describe() if name.startswith(family.name)]
        names = {label for one in (collector, *told) for label in getattr(one, "_labelnames", ())}
        found[name] = names | {"le"} if name.endswith("_bucket") else names
    return found


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    return PROMETHEUS_OWN | labels_of(Monitor()._registry) | labels_of(metrics._REGISTRY)


def selections(rule: dict[str, Any]) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Yield each metric that a rule asks for, with the labels and values that it wants."""
    for match in SELECTED.finditer(rule["expr"]):
        yield match[1], CONDITION.findall(match[2] or "")


@pytest.mark.parametrize("name", RULES)
def test_every_metric_and_label_of_an_alert_exists(name: str, samples: dict[str, set[str]]) -> None:
    asked = list(selections(RULES[name]))
    assert asked
    for metric, conditions in asked:
        assert metric in samples
        assert {label for label, _ in conditions} <= samples[metric]
        for label, wanted in conditions:
            if label == "state":
                assert wanted in {state.value for state in WorkerState}
            if label == "reason":
                assert set(wanted.split("|")) <= set(REASONS)


@pytest.mark.parametrize("name", RULES)
def test_labels_that_an_alert_shows_or_groups_by_are_its_metrics(name: str, samples: dict[str, set[str]]) -> None:
    rule = RULES[name]
    known = {"instance"}.union(*(samples[metric] for metric, _ in selections(rule)))
    grouped = re.findall(r"by \(([\w, ]+)\)", rule["expr"])
    shown = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    assert {part.strip() for group in grouped for part in group.split(",")} | set(shown) <= known


def test_what_an_alert_counts_is_told_before_it_happens() -> None:
    """Of a series that begins at 5, `increase` says 0."""
    told = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in Monitor()._registry.collect()
        for sample in family.samples
    }
    conditions = dict(next(iter(selections(RULES["TrainyardJobsFail"])))[1])
    for reason in conditions["reason"].split("|"):
        assert ("trainyard_jobs_finished_total", (("reason", reason), ("status", conditions["status"]))) in told
    assert {labels[0][1] for name, labels in told if name == "trainyard_retries_total"} >= {
        "runner_died",
        "worker_lost",
    }
    assert ("trainyard_lease_losses_total", ()) in told


def test_no_alert_shows_a_count_that_prometheus_extrapolated_with_its_digits() -> None:
    counts = {name for name, rule in RULES.items() if "increase(" in rule["expr"]}
    assert {"TrainyardLeaseLosses", "TrainyardRetries", "TrainyardJobsFail"} <= counts
    for name in counts:
        assert "{{ $value }}" not in RULES[name]["annotations"]["summary"]


@pytest.mark.parametrize("name", RULES)
def test_an_alert_is_complete(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_page_for_admins_has_a_heading_for_each_alert_and_for_no_other() -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    assert sorted(re.findall(r"^#+ (Trainyard\w+)$", page, re.MULTILINE)) == sorted(RULES)


def test_the_page_names_only_requests_that_the_api_has(application: Any) -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    named = set(re.findall(r"`(GET|POST|PATCH|PUT|DELETE)\s+(/[^\s`?]*)", page))
    known = {
        (method.upper(), re.sub(r"\{\w+\}", "<id>", path))
        for path, methods in application.openapi()["paths"].items()
        for method in methods
    }
    assert ("POST", "/workers/<id>/drain") in named
    assert named <= known | {("GET", "/metrics")}


def test_the_description_of_prometheus_names_only_metrics_that_exist(samples: dict[str, set[str]]) -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    named = set(re.findall(r"`(trainyard_\w+)`", page))
    assert {name for name in named if name not in samples and f"{name}_count" not in samples} == set()
