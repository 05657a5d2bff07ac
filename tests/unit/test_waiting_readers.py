"""A reader that waits for news: what happens while it reads the database is not lost."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from api.jobs import routes
from api.jobs.schemas import MetricsView
from api.news import News
from models.job import Status

JOB = UUID("01a1fc05-96f8-74b8-9c20-173cf1283400")


def test_news_that_comes_during_a_read_leads_to_another_read(monkeypatch: pytest.MonkeyPatch) -> None:
    news = News("postgresql://nowhere")
    statuses = [Status.QUEUED, Status.QUEUED, Status.CANCELLED]

    async def read(services: Any, job_id: UUID, after: int) -> MetricsView:
        status = statuses.pop(0)
        news._tell(JOB)  # the row changed after this read's snapshot was taken
        return MetricsView(job_id=JOB, status=status, terminal=status == Status.CANCELLED, epochs=[], next=0)

    monkeypatch.setattr(routes, "_read_metrics", read)
    services: Any = SimpleNamespace(news=news)
    view = asyncio.run(routes._metrics_when_new(services, JOB, after=0, wait=1))
    assert view.status == Status.CANCELLED
    assert statuses == []
    assert not news._waiting, "nobody waits any more"
