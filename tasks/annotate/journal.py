"""What teachers answered, on disk: nothing is asked twice, in this run or in a later one.

    with open_journal(home() / "journal") as journal:
        teacher = JournalledTeacher(OpenAITeacher(...), journal)
        answer = await teacher.answer(question, sample, attempt=1)

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from data_contracts.check import ContractError
from tasks.annotate.teacher import Reply, Request, Row, Teacher, TeacherAnswer, read_reply
from tasks.launcher.job import DiskFull

FILE = "teacher.sqlite"
_BUSY_SECONDS = 60.0

_TABLE = """
CREATE TABLE IF NOT EXISTS answer (
    request_key TEXT PRIMARY KEY,
    teacher TEXT NOT NULL, prompt TEXT NOT NULL, media TEXT NOT NULL, sampling TEXT NOT NULL, attempt INTEGER NOT NULL,
    text TEXT NOT NULL, refusal TEXT, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL NOT NULL,
    answered_at TEXT NOT NULL
) WITHOUT ROWID
"""
_PUT = "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_key) DO NOTHING"
_GET = "SELECT text, refusal, finish_reason, prompt_tokens, completion_tokens, cost FROM answer WHERE request_key = ?"


class JournalDamaged(ContractError):
    """The journal's file is no database any more; the message names it and the cure. Never retried."""

    def __init__(self, path: Path, error: sqlite3.DatabaseError) -> None:
        super().__init__(
            f"{path}: {error}; move the file away to go on (the teacher is then asked again), or restore a copy of it"
        )


class Journal:
    """Made by `open_journal`. Reads from any one thread; writes go through one thread of its own."""

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
            *(key, request.teacher, request.prompt, request.media, request.sampling, request.attempt),
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
                raise DiskFull(f"{self.path}: no room for the teacher's answers; free some and start again") from error
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


@contextlib.contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """The journal in this folder, made if missing; closed at the end. Raises JournalDamaged."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / FILE)
    try:
        yield journal
    finally:
        journal.close()


class JournalledTeacher:
    """A teacher that asks only what its journal does not hold, at most `max_in_flight` requests at a time.

    num_calls: requests that were asked now. num_hits: answered from the journal. cost: of the calls made now.
    """

    def __init__(self, teacher: Teacher, journal: Journal) -> None:
        self.name = teacher.name
        self.max_in_flight = teacher.max_in_flight
        self.num_calls = 0
        self.num_hits = 0
        self.cost = 0.0
        self._teacher = teacher
        self._journal = journal
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._slots = asyncio.Semaphore(teacher.max_in_flight)

    async def answer(self, question: Row, sample: Row, attempt: int) -> TeacherAnswer:
        """One try at a question, from the journal if it holds it. Raises as `Teacher.ask` does."""
        request = self._teacher.request(question, sample, attempt)
        key = request.key
        reply = self._journal.get(key)
        if reply is not None:
            self.num_hits += 1
            return read_reply(key, reply)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._ask(request, question, sample))
            asking.add_done_callback(lambda _: self._asking.pop(key))
        else:
            self.num_hits += 1
        return read_reply(key, await asking)

    async def _ask(self, request: Request, question: Row, sample: Row) -> Reply:
        async with self._slots:  # held until the answer is on disk: a crash loses no more answers than are in flight
            reply = await self._teacher.ask(request, question, sample)
            self.num_calls += 1
            self.cost += reply.cost
            return await self._journal.put(request, reply)
