"""What the teacher's client and journal cost per request, beside a bare openai client, against the same server.

    python -m benchmarks.annotate --json annotate.json

A server in a process of its own answers after 200 ms; 256 requests are in flight. Ours asks through limits, journal
and verification-free reading; bare is `AsyncOpenAI` with its aiohttp transport and nothing else. Both run in turns, in
processes of their own; medians over the turns. Then `--memory-requests` go through ours, and the resident memory is
read at each tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

IN_FLIGHT = 256
LATENCY = 0.2  # seconds
PROMPT = "Which distortion affects the image most?\nA. Noise\nB. Motion blur\nC. Overexposure\nD. No distortion"


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def in_flight(work: Callable[[int], Awaitable[Any]], num_requests: int, on_tenth: Callable[[], None]) -> float:
    """Do all, IN_FLIGHT at a time; returns the seconds taken."""
    started = time.perf_counter()
    numbers = iter(range(num_requests))
    tenth = max(1, num_requests // 10)

    async def worker() -> None:
        for number in numbers:
            await work(number)
            if (number + 1) % tenth == 0:
                on_tenth()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - started


async def ours(base_url: str, num_requests: int, folder: Path) -> dict[str, Any]:
    from pipeline_config.schema import OpenAITeacher
    from tasks.endpoint.client import Endpoint
    from tasks.endpoint.journal import Journalled, open_journal
    from tasks.endpoint.request import Request

    config = OpenAITeacher(kind="openai", base_url=base_url, model="m", max_in_flight=IN_FLIGHT)
    endpoint = Endpoint(config, "key", section="annotate.teacher")
    sampling = json.dumps({"temperature": 1.0, "max_tokens": 64})
    memory: list[float] = []
    with open_journal(folder) as journal:
        journalled = Journalled(journal, IN_FLIGHT)

        async def ask(number: int) -> None:
            request = Request("m", "Judge the picture.", f"{number} {PROMPT}", "", sampling, 1)
            await journalled.reply(request, lambda: endpoint.ask(request))

        await in_flight(ask, 4 * IN_FLIGHT, lambda: None)  # the limit opens, connections are made
        before = time.process_time()
        seconds = await in_flight(
            lambda n: ask(n + 4 * IN_FLIGHT), num_requests, lambda: memory.append(resident_megabytes())
        )
        busy = time.process_time() - before
    await endpoint.close()
    return {"seconds": seconds, "processor_seconds": busy, "memory": memory}


async def bare(base_url: str, num_requests: int, folder: Path) -> dict[str, Any]:
    import openai

    client = openai.AsyncOpenAI(
        api_key="key", base_url=base_url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    )

    async def ask(number: int) -> None:
        messages: list[Any] = [
            {"role": "system", "content": "Judge the picture."},
            {"role": "user", "content": f"{number} {PROMPT}"},
        ]
        await client.chat.completions.create(model="m", messages=messages, temperature=1.0, max_tokens=64)

    await in_flight(ask, 4 * IN_FLIGHT, lambda: None)
    before = time.process_time()
    seconds = await in_flight(ask, num_requests, lambda: None)
    busy = time.process_time() - before
    await client.close()
    return {"seconds": seconds, "processor_seconds": busy, "memory": []}


CLIENTS = {"ours": ours, "bare": bare}


def turn(name: str, base_url: str, num_requests: int) -> dict[str, Any]:
    """One client in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.annotate", "--client", name, base_url, str(num_requests)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000, help="of one turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-requests", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--client", nargs=3, metavar=("NAME", "URL", "REQUESTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        name, base_url, num_requests = arguments.client
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(CLIENTS[name](base_url, int(num_requests), Path(folder)))))
        return
    command = [sys.executable, "-m", "benchmarks.model_server", "--latency", str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().strip()
            turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
            for _ in range(arguments.repeats):
                for name in CLIENTS:
                    turns[name].append(turn(name, base_url, arguments.requests))
            memory = turn("ours", base_url, arguments.memory_requests)["memory"] if arguments.memory_requests else []
        finally:
            server.kill()
    rates = {n: statistics.median(arguments.requests / t["seconds"] for t in ts) for n, ts in turns.items()}
    costs = {n: statistics.median(t["processor_seconds"] / arguments.requests for t in ts) for n, ts in turns.items()}
    bound = min(IN_FLIGHT / LATENCY, rates["bare"])
    print(f"{'client':8} {'requests/s':>10} {'ms of processor a request':>26}")
    for name in CLIENTS:
        print(f"{name:8} {rates[name]:10.0f} {1e3 * costs[name]:26.2f}")
    print(f"ours / min({IN_FLIGHT / LATENCY:.0f}, bare): {rates['ours'] / bound:.0%}")
    print("memory at each tenth, MB: " + ", ".join(f"{m:.0f}" for m in memory))
    if arguments.json:
        result = {"requests_per_second": rates, "processor_seconds": costs, "share": rates["ours"] / bound}
        arguments.json.write_text(json.dumps({**result, "memory_megabytes": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
