"""The least that a service can do for the same answers: FastAPI, psycopg and Postgres, no checks, access or rules."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.api.client import HOST

SCHEMA = """
CREATE TABLE rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body json NOT NULL, score float
);
CREATE INDEX ON rows (id DESC) INCLUDE (score);
CREATE TABLE lines (row bigint, line int, body text NOT NULL, PRIMARY KEY (row, line));
"""
_CONNECTIONS = 10

Row = tuple[object, ...]


class _Pool:
    """Connections that are there from the start."""

    def __init__(self) -> None:
        self._idle: asyncio.LifoQueue[psycopg.AsyncConnection[Row]] = asyncio.LifoQueue()

    async def open(self, url: str) -> None:
        """Connect; each statement is its own transaction."""
        for _ in range(_CONNECTIONS):
            self._idle.put_nowait(await psycopg.AsyncConnection.connect(url, autocommit=True))

    async def close(self) -> None:
        """End all connections, which are idle by now."""
        while not self._idle.empty():
            await self._idle.get_nowait().close()

    async def rows(self, query: str, *parameters: object) -> list[Row]:
        """Execute a statement and return its rows."""
        connection = await self._idle.get()
        try:
            return await (await connection.execute(query.encode(), parameters)).fetchall()
        finally:
            self._idle.put_nowait(connection)


def create_app(url: str) -> FastAPI:
    """Return the application on the database at this libpq URL, which has the tables of SCHEMA."""
    pool = _Pool()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await pool.open(url)
        yield
        await pool.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/rows")
    async def insert(request: Request) -> Response:
        body = (await request.body()).decode()
        (row,) = await pool.rows("INSERT INTO rows (body) VALUES (%s) RETURNING id", body)
        return Response(f'{{"id":{row[0]}}}', 201, media_type="application/json")

    @app.get("/rows/{row}/lines")
    async def lines(row: int, request: Request, after: int = 0) -> Response:
        if (tag := request.headers.get("if-none-match")) is not None:
            (last,) = await pool.rows("SELECT max(line) FROM lines WHERE row = %s", row)
            if tag == f'"{last[0]}"':
                return Response(status_code=304, headers={"ETag": tag})
        (text,) = await pool.rows(
            "SELECT string_agg(body, ',' ORDER BY line) FROM lines WHERE row = %s AND line > %s", row, after
        )
        return _list(text)

    @app.get("/rows")
    async def newest(limit: int, score: float) -> Response:
        (text,) = await pool.rows(
            "SELECT string_agg(body, ',') FROM"
            " (SELECT body::text FROM rows WHERE score >= %s ORDER BY id DESC LIMIT %s) AS newest",
            score,
            limit,
        )
        return _list(text)

    return app


def _list(text: Row) -> Response:
    return Response(f'{{"items":[{text[0]}]}}', media_type="application/json")


if __name__ == "__main__":
    _, port, database_url = sys.argv
    uvicorn.run(
        create_app(database_url),
        host=HOST,
        port=int(port),
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
