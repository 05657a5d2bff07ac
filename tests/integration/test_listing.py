"""Lists of jobs over HTTP: filtered before the limit, sorted, in pages that stay stable while jobs arrive, in part."""

import json
import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, select

from api.jobs.filters import conditions
from api.jobs.schemas import JobView
from harness.jobs import DIGITS_MLP
from models.job import Job
from models.scores import Scores
from models.spec import JobSpec

JOBS = 400
NO_ONE = "01a1fc05-96f8-74b8-9c20-173cf12834b1"


def spec(number: int) -> dict[str, Any]:
    tags = [f"t{number % 7}", *(["rare"] if number % 50 == 0 else []), *(["50%_off"] if number == 77 else [])]
    chosen = {
        "name": f"Job {number % 40:02}" if number % 5 else None,
        "dataset": {"name": "digits" if number % 3 else "cifar10"},
        "network": {"name": "mlp" if number % 2 else "lenet"},
        "tags": tags,
        "metadata": {"group": f"g{number % 4}", "odd": str(number % 2)} if number % 3 else {},
        "training": {"seed": number, "replicas": 1},
    }
    return JobSpec.model_validate(chosen).as_json() | {"recipe": "lenet" if number % 10 == 0 else None}


class Lab:
    """A database with hundreds of jobs, and what is known of each of them."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.http = service.http
        service.new_user("ada")
        users = {row["name"]: row["id"] for row in service.rows("SELECT id, name FROM users")}
        chance = random.Random(11)
        self.jobs = [self._job(number, users, chance) for number in range(JOBS)]

    def _job(self, number: int, users: dict[str, UUID], chance: random.Random) -> dict[str, Any]:
        status = ("queued", "running", "succeeded", "failed")[number % 4]
        user = "ada" if number % 6 == 0 else "admin"
        body = spec(number)
        id_ = str(UUID(int=(0x01A1FC05_96F8_7000_8000_000000000000) + (number << 66)))
        self.service.rows(
            "INSERT INTO jobs (id, user_id, name, queue, status, message, spec, epochs, attempt, retries, created_at,"
            " priority, device, gpus, exclusive, likeness, unmet)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 10, 1, 0, now() - make_interval(mins => %s),"
            " 0, 'auto', 1, false, '', 0)",
            id_, users[user], body["name"], "gpu" if number % 8 == 0 else "default", status,
            "Out of cheese." if number % 100 == 9 else "Waits.", json.dumps(body), JOBS - number,
        )  # fmt: skip
        self.service.rows("INSERT INTO transitions (job_id, to_status, attempt) VALUES (%s, 'queued', 0)", id_)
        best, loss = None, None
        if status != "queued":
            best, loss = chance.choice([0.2, 0.4, 0.6, 0.8]), chance.random()
            self.service.rows(
                "INSERT INTO scores (job_id, revision, last_epoch, last_train_loss, best_epoch,"
                " best_validation_accuracy, test_accuracy, test_loss) VALUES (%s, 10, 10, %s, 7, %s, %s, %s)",
                id_, loss, best, best if status == "succeeded" else None, loss if status == "succeeded" else None,
            )  # fmt: skip
        return {
            "id": id_, "number": number, "status": status, "user": user, "best": best, "loss": loss, "spec": body,
            "queue": "gpu" if number % 8 == 0 else "default",
        }  # fmt: skip

    def ids(self, query: str, limit: int = 37) -> list[str]:
        """Return the ids of all pages of a list, whose query is sent as it stands."""
        found: list[str] = []
        after = ""
        while after is not None:
            path = f"/jobs?{query}&limit={limit}" + (f"&after={after}" if after else "")
            page = self.http.get(path.replace("?&", "?"))
            assert page.status_code == 200, page.text
            found += [job["id"] for job in page.json()["items"]]
            after = page.json()["next"]
        return found

    def expected(self, holds: Any) -> list[str]:
        """Return the ids of the jobs of which this holds, newest first."""
        return [job["id"] for job in reversed(self.jobs) if holds(job)]


@pytest.fixture(scope="module")
def lab(start_service: Any) -> Lab:
    service = start_service(workers=0)
    service.stack.kill_child("scheduler")
    return Lab(service)


FILTERS: list[tuple[str, Any]] = [
    ("", lambda job: True),
    ("status=failed", lambda job: job["status"] == "failed"),
    ("status=failed&status=queued", lambda job: job["status"] in ("failed", "queued")),
    ("user=ada", lambda job: job["user"] == "ada"),
    ("user=nobody", lambda job: False),
    ("tag=t3", lambda job: "t3" in job["spec"]["tags"]),
    ("tag=t3&tag=rare", lambda job: {"t3", "rare"} <= set(job["spec"]["tags"])),
    ("tag=t", lambda job: False),
    ("dataset=cifar10", lambda job: job["number"] % 3 == 0),
    ("network=lenet", lambda job: job["number"] % 2 == 0),
    ("recipe=lenet", lambda job: job["number"] % 10 == 0),
    ("queue=gpu", lambda job: job["queue"] == "gpu"),
    (f"sweep={NO_ONE}", lambda job: False),
    ("metadata[group]=g2", lambda job: job["spec"]["metadata"].get("group") == "g2"),
    ("metadata[group]=g2&metadata[odd]=1", lambda job: False),
    ("metadata%5Bodd%5D=1", lambda job: job["spec"]["metadata"].get("odd") == "1"),
    ("best.validation_accuracy>=0.6", lambda job: job["best"] is not None and job["best"] >= 0.6),
    ("best.validation_accuracy>0.6", lambda job: job["best"] is not None and job["best"] > 0.6),
    ("best.validation_accuracy%3E%3D0.6", lambda job: job["best"] is not None and job["best"] >= 0.6),
    ("best.validation_accuracy%3E=0.6", lambda job: job["best"] is not None and job["best"] >= 0.6),
    ("best.validation_accuracy<=0.4", lambda job: job["best"] is not None and job["best"] <= 0.4),
    ("best.validation_accuracy<0.4", lambda job: job["best"] is not None and job["best"] < 0.4),
    ("best.validation_accuracy=0.4", lambda job: job["best"] == 0.4),
    (
        "best.validation_accuracy>0.2&best.validation_accuracy<0.8&last.train_loss<0.5",
        lambda job: job["best"] in (0.4, 0.6) and job["loss"] < 0.5,
    ),
    ("test.accuracy>=0.8", lambda job: job["status"] == "succeeded" and job["best"] >= 0.8),
    ("last.epoch>=10.5", lambda job: False),
    ("text=job%2007", lambda job: job["spec"]["name"] == "Job 07"),
    ("text=RARE", lambda job: "rare" in job["spec"]["tags"]),
    ("text=of%20CHEESE", lambda job: job["number"] % 100 == 9),
    ("text=LeNet", lambda job: job["number"] % 10 == 0),
    ("text=%25", lambda job: job["number"] == 77),
    ("text=0%25_o", lambda job: job["number"] == 77),
    ("text=_", lambda job: job["number"] == 77),
    ("text=%5C", lambda job: False),
    (
        "status=succeeded&user=ada&dataset=cifar10&tag=t4",
        lambda job: job["number"] % 12 == 6 and job["number"] % 7 == 4,
    ),
]


@pytest.mark.parametrize(("query", "holds"), FILTERS, ids=[query for query, _ in FILTERS])
def test_a_filter_holds_for_all_that_are_listed_and_for_no_other(lab: Lab, query: str, holds: Any) -> None:
    assert lab.ids(query) == lab.expected(holds)


def test_a_range_of_times_includes_its_beginning_and_not_its_end(lab: Lab) -> None:
    created = lab.http.get(f"/jobs/{lab.jobs[200]['id']}").json()["created_at"]
    later = (datetime.fromisoformat(created) + timedelta(minutes=30)).isoformat().replace("+00:00", "Z")
    found = lab.ids(f"created_after={created}&created_before={later}")
    assert found == lab.expected(lambda job: 200 <= job["number"] < 230)
    assert lab.ids(f"created_before={created}") == lab.expected(lambda job: job["number"] < 200)


def sorted_by(lab: Lab, key: str, *, descending: bool) -> list[str]:
    """Return the ids by a value, those without one last, of equals the newest first."""
    newest_first = sorted(lab.jobs, key=lambda job: -job["number"])
    with_value = [job for job in newest_first if job[key] is not None]
    with_value.sort(key=lambda job: job[key], reverse=descending)
    if descending:  # reverse keeps the order of equals
        assert with_value[0][key] == max(job[key] for job in with_value)
    return [job["id"] for job in with_value + [job for job in newest_first if job[key] is None]]


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize(
    ("name", "key"), [("best.validation_accuracy", "best"), ("last.train_loss", "loss"), ("status", "status")]
)
@pytest.mark.parametrize("sign", ["", "-"])
def test_the_pages_of_a_sorted_list_are_the_whole_list(lab: Lab, sign: str, name: str, key: str, limit: int) -> None:
    if limit == 1:  # a page each of some is enough
        expected = [
            id_ for id_ in sorted_by(lab, key, descending=sign == "-") if lab.jobs[_number(id_)]["user"] == "ada"
        ]
        assert lab.ids(f"sort={sign}{name}&user=ada", limit) == expected
    else:
        assert lab.ids(f"sort={sign}{name}", limit) == sorted_by(lab, key, descending=sign == "-")


def _number(id_: str) -> int:
    return (UUID(id_).int - 0x01A1FC05_96F8_7000_8000_000000000000) >> 66


@pytest.mark.parametrize(
    "sort", ["name", "-name", "created_at", "-created_at", "test.loss", "-best.epoch", "last.seconds"]
)
def test_every_order_lists_each_job_once(lab: Lab, sort: str) -> None:
    found = lab.ids(f"sort={sort}")
    assert sorted(found) == sorted(job["id"] for job in lab.jobs)
    if "created" in sort:
        assert found == [job["id"] for job in (lab.jobs if sort == "created_at" else lab.jobs[::-1])]
    if sort.endswith("name"):
        names = [lab.jobs[_number(id_)]["spec"]["name"] for id_ in found]
        named = [name for name in names if name is not None]
        assert names == sorted(named, reverse=sort == "-name") + [None] * (JOBS - len(named))


@pytest.mark.parametrize("query", ["", "sort=-best.validation_accuracy", "sort=created_at", "sort=-created_at"])
def test_pages_stay_stable_while_jobs_arrive(lab: Lab, query: str) -> None:
    before = lab.ids(query, 100)
    seen: list[str] = []
    after: str | None = ""
    arrived = []
    try:
        while after is not None:
            page = lab.http.get(
                "/jobs", params=dict(_pairs(query)) | {"limit": 60} | ({"after": after} if after else {})
            )
            seen += [job["id"] for job in page.json()["items"]]
            after = page.json()["next"]
            arrived.append(lab.service.submit(DIGITS_MLP))
            lab.service.rows(
                "INSERT INTO scores (job_id, revision, last_epoch, best_epoch, best_validation_accuracy)"
                " VALUES (%s, 1, 1, 1, 0.6)",
                arrived[-1],
            )
        assert len(seen) == len(set(seen)), "nothing twice"
        assert [id_ for id_ in seen if id_ not in arrived] == before, "nothing left out"
    finally:
        lab.service.rows("DELETE FROM jobs WHERE id = ANY(%s)", arrived)


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (part.partition("=") for part in query.split("&") if part)]


def test_an_id_of_a_job_is_a_cursor_of_the_newest_first(lab: Lab) -> None:
    page = lab.http.get("/jobs", params={"after": lab.jobs[300]["id"], "limit": 2}).json()
    assert [job["id"] for job in page["items"]] == [lab.jobs[299]["id"], lab.jobs[298]["id"]]
    assert page["next"] == lab.jobs[298]["id"]


def test_a_cursor_works_for_no_other_order(lab: Lab) -> None:
    cursor = lab.http.get("/jobs?sort=-best.validation_accuracy&limit=5").json()["next"]
    for query in ("sort=best.validation_accuracy", "sort=name", ""):
        answer = lab.http.get(f"/jobs?{query}&after={cursor}".replace("?&", "?"))
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "invalid_cursor")
        assert answer.json()["errors"][0]["loc"] == "after"


def test_a_page_holds_what_the_schema_says(lab: Lab) -> None:
    page = lab.http.get("/jobs?limit=100&status=succeeded&status=queued").json()
    assert list(page) == ["items", "next"]
    for job in page["items"]:
        assert list(job) == list(JobView.model_fields)
        view = JobView.model_validate_json(json.dumps(job), strict=True)
        assert json.loads(view.model_dump_json(exclude_none=False)) | {"created_at": None, "transitions": None} == {
            **job, "created_at": None, "transitions": None,
        }  # fmt: skip
        alone = lab.http.get(f"/jobs/{job['id']}").json()
        assert alone | {"queue": {"name": alone["queue"]["name"]}} == job
        if job["status"] == "succeeded":
            assert job["test"]["accuracy"] == job["best"]["validation_accuracy"]
        else:
            assert (job["test"], job["best"], job["last"]) == (None, None, None)


def test_whatever_changes_of_a_job_shows_in_the_next_list(lab: Lab) -> None:
    job_id = lab.service.submit({"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "name": "Changing"})

    def listed() -> dict[str, Any]:
        for fields in ("", "&fields=message,best.epoch,transitions"):
            page = lab.http.get(f"/jobs?text=changing{fields}").json()
            whole: dict[str, Any] = lab.http.get(f"/jobs/{job_id}").json() | {"queue": {"name": "default"}}
            part = {"message": whole["message"], "best": whole["best"], "transitions": whole["transitions"]}
            part["best"] = part["best"] and {"epoch": part["best"]["epoch"]}
            assert page == {"items": [part if fields else whole], "next": None}
        return whole

    try:
        seen = [listed()]
        lab.service.rows("UPDATE jobs SET message = 'Reads the data.' WHERE id = %s", job_id)
        seen.append(listed())
        for epoch in (1, 2):
            lab.service.rows(
                "INSERT INTO scores (job_id, last_epoch, best_epoch) VALUES (%s, %s, %s)"
                " ON CONFLICT (job_id) DO UPDATE SET best_epoch = excluded.best_epoch",
                job_id, epoch, epoch,
            )  # fmt: skip
            seen.append(listed())
        lab.http.post(f"/jobs/{job_id}/cancel")
        seen.append(listed())
        assert all(before != after for before, after in pairwise(seen))
        assert (seen[-1]["status"], len(seen[-1]["transitions"])) == ("cancelled", 2)
    finally:
        lab.service.rows("DELETE FROM jobs WHERE id = %s", job_id)


def test_only_the_fields_asked_for_are_shown(lab: Lab) -> None:
    number = next(job["number"] for job in lab.jobs[::-1] if job["status"] == "succeeded")
    asked = "id,status,best.validation_accuracy,spec.training.seed,spec.tags,test,progress.epoch"
    job = lab.http.get(f"/jobs?status=succeeded&limit=1&fields={asked}").json()["items"][0]
    known = lab.jobs[number]
    assert job == {
        "id": known["id"],
        "status": "succeeded",
        "best": {"validation_accuracy": known["best"]},
        "spec": {"training": {"seed": number}, "tags": known["spec"]["tags"]},
        "test": {"accuracy": known["best"], "loss": known["loss"]},
        "progress": {"epoch": 10},
    }
    part = lab.http.get("/jobs?status=queued&limit=1&fields=best.epoch,last,spec.network.nothing").json()["items"][0]
    assert part == {"best": None, "last": None, "spec": {"network": {"nothing": None}}}


def test_a_hundred_fields_are_shown_in_their_order(lab: Lab) -> None:
    asked = ["id", *(f"spec.training.a{number}" for number in range(97)), "spec.training.seed", "test"]
    part = lab.http.get("/jobs", params={"limit": 1, "fields": ",".join(asked)}).json()["items"][0]
    nothing = {f"a{number}": None for number in range(97)}
    assert part["spec"]["training"] == nothing | {"seed": JOBS - 1}
    assert list(part["spec"]["training"]) == [*nothing, "seed"]
    assert list(part) == ["id", "spec", "test"]


def test_the_metadata_are_shown_by_any_key_that_they_may_have(lab: Lab) -> None:
    metadata = {"Course": "cs231n", "a.b": "dotted", "a": "plain", "x-y": "dash", "null": "none", "0": "zero"}
    job_id = lab.service.submit({"dataset": {"name": "digits"}, "network": {"name": "mlp"}, "metadata": metadata})
    try:
        asked = ",".join(f"spec.metadata.{key}" for key in (*metadata, "COURSE"))
        part = lab.http.get("/jobs", params={"metadata[Course]": "cs231n", "fields": asked}).json()["items"]
        assert part == [{"spec": {"metadata": metadata | {"COURSE": None}}}]
    finally:
        lab.service.rows("DELETE FROM jobs WHERE id = %s", job_id)


def test_a_whole_field_holds_what_is_within_it(lab: Lab) -> None:
    part = lab.http.get("/jobs?limit=1&fields=spec.training.seed,spec,progress,progress.epoch").json()["items"][0]
    assert part == {"spec": lab.jobs[-1]["spec"], "progress": {"epoch": 10, "epochs": 10}}


@pytest.mark.parametrize(
    ("query", "loc", "code"),
    [
        ("foo=1", "foo", "unknown_filter"),
        ("sort=foo", "sort", "unknown_sort"),
        ("sort=--name", "sort", "unknown_sort"),
        ("sort=", "sort", "unknown_sort"),
        ("sort=name&sort=-name", "sort", "repeated"),
        ("fields=id,foo", "fields", "unknown_field"),
        ("fields=", "fields", "unknown_field"),
        ("fields=spec.%27%7D", "fields", "unknown_field"),
        (f"fields={'id,' * 100}id", "fields", "too_many_fields"),
        ("limit=0", "limit", "greater_than_equal"),
        ("limit=101", "limit", "less_than_equal"),
        ("limit=ten", "limit", "int_parsing"),
        ("after=yesterday", "after", "invalid_cursor"),
        ("best.validation_accuracy>=high", "best.validation_accuracy>", "float_parsing"),
        ("best.validation_accuracy", "best.validation_accuracy", "not_compared"),
        ("status=queued&status=done", "status", "enum"),
        ("user=ada&user=admin", "user", "repeated"),
        ("metadata[a%00]=1", "metadata[a\x00]", "string_pattern_mismatch"),
        ("text=%00", "text", "unprintable_text"),
        ("created_after=2026-11-21T00:00:00", "created_after", "datetime_format"),
        ("&".join(["tag=a"] * 51), "query", "too_many_conditions"),
    ],
)
def test_a_bad_question_is_refused_by_name(lab: Lab, query: str, loc: str, code: str) -> None:
    answer = lab.http.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [(error["loc"], error["code"]) for error in answer.json()["errors"]] == [(loc, code)]


def test_a_member_who_sees_their_own_lists_only_these(lab: Lab) -> None:
    with lab.service.another_api(jobs_visible="own") as api, api.client(_token(lab, "ada")) as ada:
        page = ada.get("/jobs", params={"limit": 100, "sort": "-best.validation_accuracy"}).json()
    assert {job["user"] for job in page["items"]} == {"ada"}
    assert len(page["items"]) == len(lab.expected(lambda job: job["user"] == "ada"))


def _token(lab: Lab, user: str) -> str:
    answer = lab.http.post("/tokens", json={"name": "test", "user": user, "scopes": ["read"]})
    return str(answer.json()["token"])


@pytest.mark.parametrize(
    ("pair", "index"),
    [
        (("tag", "rare"), "ix_jobs_tags"),
        (("metadata[group]", "g1"), "ix_jobs_metadata"),
        (("dataset", "cifar10"), "ix_jobs_dataset_id"),
        (("network", "mlp"), "ix_jobs_network_id"),
        (("created_before", "2020-01-01T00:00:00Z"), "ix_jobs_created_at_id"),
        (("sweep", NO_ONE), "ix_jobs_sweep_id_id"),
        (("status", "failed"), "ix_jobs_status_id"),
        (("best.validation_accuracy>", "0.99"), "ix_scores_best_validation_accuracy"),
    ],
)
def test_what_people_ask_for_most_has_an_index(lab: Lab, pair: tuple[str, str], index: str) -> None:
    query = select(Job.id).outerjoin(Scores, Scores.job_id == Job.id).where(*conditions([pair]))
    options = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    engine = create_engine(lab.service.stack.database_url, connect_args={"options": options})
    try:
        with engine.connect() as connection:
            compiled = query.compile(engine, compile_kwargs={"render_postcompile": True})
            values = {name: Jsonb(it) if isinstance(it, list | dict) else it for name, it in compiled.params.items()}
            plan = connection.exec_driver_sql(f"EXPLAIN {compiled}", values).scalars().all()
    finally:
        engine.dispose()
    assert index in str(plan)
