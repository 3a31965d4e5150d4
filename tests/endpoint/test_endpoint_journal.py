"""The journal: what was answered stays answered, whatever ends the process that asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.endpoint.journal import FILE, JournalDamaged, Journalled, open_journal
from tasks.endpoint.request import Reply, Request

WRITER = """
import asyncio, sys
from pathlib import Path
from tasks.endpoint.journal import open_journal
from tasks.endpoint.request import Reply, Request

async def main():
    with open_journal(Path(sys.argv[1])) as journal:
        async def put(number):
            request = Request("judge", "", f"question {number}", "picture", "{}", 1)
            await journal.put(request, Reply(f"answer {number}"))
            print(request.key, flush=True)
        for first in range(0, 100_000, 8):
            await asyncio.gather(*(put(first + i) for i in range(8)))

asyncio.run(main())
"""


def request(number: int, attempt: int = 1) -> Request:
    return Request("judge", "", f"question {number}", "picture", "{}", attempt)


def put_all(folder: Path, numbers: range) -> list[Reply]:
    async def putting() -> list[Reply]:
        with open_journal(folder) as journal:
            return await asyncio.gather(*(journal.put(request(n), Reply(f"answer {n}", cost=n)) for n in numbers))

    return asyncio.run(putting())


def test_a_later_run_finds_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    refused = Reply("", refusal="no", finish_reason="content_filter", prompt_tokens=3, completion_tokens=4, cost=0.5)

    async def putting() -> None:
        with open_journal(tmp_path / "journal") as journal:
            await journal.put(request(-1), refused)

    asyncio.run(putting())
    put_all(tmp_path / "journal", range(300))
    with open_journal(tmp_path / "journal") as journal:
        assert journal.get(request(-1).key) == refused
        assert all(journal.get(request(n).key) == Reply(f"answer {n}", cost=n) for n in range(300))
        assert journal.get(request(0, attempt=2).key) is None


def test_the_key_is_the_whole_content_of_the_request() -> None:
    keys = {
        Request(*fields).key
        for fields in [
            ("judge", "rules", "prompt", "picture", "{}", 1),
            ("other", "rules", "prompt", "picture", "{}", 1),
            ("judge", "other", "prompt", "picture", "{}", 1),
            ("judge", "rules", "another", "picture", "{}", 1),
            ("judge", "rules", "prompt", "another", "{}", 1),
            ("judge", "rules", "prompt", "picture", '{"top_p": 1}', 1),
            ("judge", "rules", "prompt", "picture", "{}", 2),
        ]
    }
    assert len(keys) == 7
    assert Request("judge", "rules", "prompt", "picture", "{}", 1).key in keys


def test_the_first_answer_of_several_processes_stands(tmp_path: Path) -> None:
    async def putting() -> list[Reply]:
        with open_journal(tmp_path) as one, open_journal(tmp_path) as other:
            first = await one.put(request(0), Reply("first"))
            return [first, await other.put(request(0), Reply("second")), *filter(None, [one.get(request(0).key)])]

    assert [reply.text for reply in asyncio.run(putting())] == ["first"] * 3


def test_an_answer_that_was_used_survives_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    used = [process.stdout.readline().strip() for _ in range(100)]
    os.kill(process.pid, signal.SIGKILL)
    used += [line.strip() for line in process.stdout if len(line) == 33]
    process.wait()
    with open_journal(tmp_path) as journal:
        assert len(used) >= 100
        assert all(journal.get(key) is not None for key in used)
    put_all(tmp_path, range(200_000, 200_003))


def test_a_half_written_commit_is_forgotten_and_the_others_stand(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    with open_journal(tmp_path / "whole") as journal:
        for number in range(3):
            asyncio.run(journal.put(request(number), Reply("answer")))
        shutil.copytree(tmp_path / "whole", crashed)  # as a crash would leave it: the log was not merged
    log = crashed / f"{FILE}-wal"
    with log.open("r+b") as stream:
        stream.truncate(log.stat().st_size - 100)
    with open_journal(crashed) as journal:
        assert [journal.get(request(n).key) is not None for n in range(3)] == [True, True, False]
        asyncio.run(journal.put(request(2), Reply("again")))
    with open_journal(crashed) as journal:
        assert [journal.get(request(n).key) is not None for n in range(3)] == [True, True, True]


def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with (
        pytest.raises(JournalDamaged, match=rf"{FILE}: file is not a database; move the file away"),
        open_journal(tmp_path),
    ):
        pass


def test_damage_in_the_middle_is_named_when_it_is_met(tmp_path: Path) -> None:
    put_all(tmp_path, range(500))
    with (tmp_path / FILE).open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 8 * 4096)
    with open_journal(tmp_path) as journal, pytest.raises(JournalDamaged, match="malformed; move the file away"):
        assert [journal.get(request(number).key) for number in range(500)]


def test_several_processes_write_one_journal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    used = []
    for process in processes:
        assert process.stdout is not None
        used += [process.stdout.readline().strip() for _ in range(40)]
    for process in processes:
        process.kill()
        process.wait()
    with open_journal(tmp_path) as journal:
        assert all(journal.get(key) is not None for key in used)


def test_equal_requests_are_asked_once_even_at_the_same_time(tmp_path: Path) -> None:
    async def asking() -> tuple[list[Reply], list[Request], Journalled]:
        asked: list[Request] = []

        async def ask(one: Request) -> Reply:
            asked.append(one)
            await asyncio.sleep(0.01)
            return Reply(f"answer {one.prompt} {one.attempt}", cost=2.0)

        with open_journal(tmp_path) as journal:
            journalled = Journalled(journal, 8)
            tries = [request(n % 5, 1 + n % 2) for n in range(40)]
            replies = await asyncio.gather(*(journalled.reply(one, lambda one=one: ask(one)) for one in tries))
            return replies, asked, journalled

    replies, asked, journalled = asyncio.run(asking())
    assert [reply.text for reply in replies] == [f"answer question {n % 5} {1 + n % 2}" for n in range(40)]
    assert len(asked) == len({one.key for one in asked}) == 10
    assert (journalled.num_calls, journalled.num_hits, journalled.cost) == (10, 30, 20.0)
    again, asked, journalled = asyncio.run(asking())
    assert again == replies
    assert asked == []
    assert (journalled.num_calls, journalled.num_hits, journalled.cost) == (0, 40, 0.0)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    from tasks.launcher.job import DiskFull

    async def putting() -> None:
        with open_journal(tmp_path) as journal:
            pages = sqlite3.connect(tmp_path / FILE).execute("PRAGMA page_count").fetchone()[0]
            journal._writing.execute(f"PRAGMA max_page_count = {pages}")  # the file may not grow
            await journal.put(request(0), Reply("x" * 1_000_000))

    with pytest.raises(DiskFull, match=r"no room for the models' replies"):
        asyncio.run(putting())
