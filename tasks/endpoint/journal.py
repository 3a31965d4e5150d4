"""What models answered, on disk: nothing is asked twice, in this run or in a later one.

    with open_journal(home() / "journal") as journal:
        journalled = Journalled(journal, max_in_flight=16)
        reply = await journalled.reply(request, lambda: endpoint.ask(request))

One SQLite file in write-ahead mode. An answer is on disk before it is used (``synchronous = FULL``), answers that
arrive together share one commit, a crash in the middle of a commit leaves the commits before it, and several processes
may write: the first answer to a request stays, so all of them use the same one (two processes that ask the same at the
same moment both pay). A request holds the model, the prompt, the picture's digest and the sampling, nothing secret.
SQLite's write-ahead mode needs a local file system. Ours, not of a paper.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from data_contracts.check import ContractError
from tasks.endpoint.request import Reply, Request
from tasks.launcher.job import DiskFull

FILE = "replies.sqlite"
_BUSY_SECONDS = 60.0

_TABLE = """
CREATE TABLE IF NOT EXISTS reply (
    request_key TEXT PRIMARY KEY,
    model TEXT NOT NULL, instruction TEXT NOT NULL, prompt TEXT NOT NULL, media TEXT NOT NULL, sampling TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    text TEXT NOT NULL, refusal TEXT, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL NOT NULL,
    answered_at TEXT NOT NULL
) WITHOUT ROWID
"""
_PUT = "INSERT INTO reply VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_key) DO NOTHING"
_GET = "SELECT text, refusal, finish_reason, prompt_tokens, completion_tokens, cost FROM reply WHERE request_key = ?"


class JournalDamaged(ContractError):
    """The journal's file is no database any more; the message names it and the cure. Never retried."""

    def __init__(self, path: Path, error: sqlite3.DatabaseError) -> None:
        super().__init__(
            f"{path}: {error}; move the file away to go on (the models are then asked again), or restore a copy of it"
        )


class Journal:
    """Made by `journal_in`. Reads from any one thread; writes go through one thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = _connect(path)
        self._writing = _connect(path)
        self._writer = ThreadPoolExecutor(1, "journal")
        self._waiting: list[tuple[object, ...]] = []
        self._num_put = self._num_durable = 0
        self._one_commit = asyncio.Lock()

    def get(self, request_key: str) -> Reply | None:
        """The reply to a request, or None if it was never answered. Raises JournalDamaged."""
        try:
            row = self._reading.execute(_GET, (request_key,)).fetchone()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise JournalDamaged(self.path, error) from error
        return None if row is None else Reply(*row)

    async def put(self, request: Request, reply: Reply) -> Reply:
        """Write a reply; returns, once it is durable, the reply that stands: another process may have been first."""
        key = request.key
        entry = (
            *(key, request.model, request.instruction, request.prompt),
            *(request.media, request.sampling, request.attempt),
            *(reply.text, reply.refusal, reply.finish_reason),
            *(reply.prompt_tokens, reply.completion_tokens, reply.cost),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._waiting.append(entry)
        self._num_put += 1
        ticket = self._num_put
        async with self._one_commit:  # whoever enters writes for all who wait
            if ticket > self._num_durable:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._commit)
        standing = self.get(key)
        assert standing is not None
        return standing

    def _commit(self) -> None:
        entries = self._waiting[:]
        try:
            with self._writing:  # BEGIN .. COMMIT, or ROLLBACK
                self._writing.executemany(_PUT, entries)
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise DiskFull(f"{self.path}: no room for the models' replies; free some and start again") from error
            raise
        del self._waiting[: len(entries)]
        self._num_durable += len(entries)

    def close(self) -> None:
        """Write what still waits and close."""
        self._writer.shutdown(wait=True)
        try:
            if self._waiting:
                self._commit()
        finally:
            self._reading.close()
            self._writing.close()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_TABLE)
        connection.commit()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise JournalDamaged(path, error) from error
    return connection


def journal_in(folder: Path) -> Journal:
    """The journal in this folder, made if missing. Raises JournalDamaged."""
    folder.mkdir(parents=True, exist_ok=True)
    return Journal(folder / FILE)


@contextlib.contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """`journal_in`, closed at the end."""
    journal = journal_in(folder)
    try:
        yield journal
    finally:
        journal.close()


class Journalled:
    """Asks only what the journal does not hold, at most `max_in_flight` requests at a time.

    num_calls: requests that were asked now. num_hits: answered from the journal. cost: of the calls made now.
    """

    def __init__(self, journal: Journal, max_in_flight: int) -> None:
        self.num_calls = 0
        self.num_hits = 0
        self.cost = 0.0
        self._journal = journal
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._slots = asyncio.Semaphore(max_in_flight)

    async def reply(
        self,
        request: Request,
        ask: Callable[[], Awaitable[Reply]],
        on_hit: Callable[[Reply], None] = lambda reply: None,
    ) -> Reply:
        """The reply to a request, from the journal if it holds it (`on_hit` is told). Raises as `ask` does."""
        key = request.key
        held = self._journal.get(key)
        if held is not None:
            self.num_hits += 1
            on_hit(held)
            return held
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._ask(request, ask))
            asking.add_done_callback(lambda _: self._asking.pop(key))
        else:
            self.num_hits += 1
        return await asking

    async def _ask(self, request: Request, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        async with self._slots:  # held until the reply is on disk: a crash loses no more replies than are in flight
            reply = await ask()
            self.num_calls += 1
            self.cost += reply.cost
            return await self._journal.put(request, reply)
