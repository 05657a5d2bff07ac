"""A reader that waits for news: what happens while it reads the database is not lost."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from api.metrics import routes
from api.metrics.answers import Question
from api.metrics.negotiation import MediaType
from api.metrics.queries import NAMES, Standing
from api.news import News
from models.job import Status

JOB = UUID("01a1fc05-96f8-74b8-9c20-173cf1283400")
QUESTION = Question(JOB, after=0, names=NAMES, max_points=None, media_type=MediaType.JSON, gzip=False)


def test_news_that_comes_during_a_read_leads_to_another_read(monkeypatch: pytest.MonkeyPatch) -> None:
    news = News()
    statuses = [Status.QUEUED, Status.QUEUED, Status.CANCELLED]

    async def read(services: Any, caller: Any, job_id: UUID) -> Standing:
        status = statuses.pop(0)
        news.heard(str(JOB))  # the row changed after this read's snapshot was taken
        return Standing(JOB, owner=JOB, status=status, attempt=0, revision=0, last_epoch=None)

    async def still_allowed(request: Any) -> None:
        pass

    monkeypatch.setattr(routes, "_standing", read)
    monkeypatch.setattr(routes, "caller_now", still_allowed)
    services: Any = SimpleNamespace(news=news)
    nobody: Any = None
    standing = asyncio.run(routes._standing_when_new(nobody, services, nobody, QUESTION, wait=1))
    assert standing.status == Status.CANCELLED
    assert statuses == []
    assert not news._waiting, "nobody waits any more"
