"""A user's desk: the environment, the home of the runs, and the commands they type."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PREFECT = Path(sys.executable).with_name("prefect")


@dataclass
class Desk:
    """Where a user sits: environment, home of the runs, and the commands they type. output: of the last one kept."""

    environment: dict[str, str]
    home: Path
    output: str = ""

    def run(self, *command: str, timeout: float = 300, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout, **kwargs
        )

    def start(self, *command: str, log: Path) -> subprocess.Popen[str]:
        with log.open("a") as stream:
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=stream, stderr=subprocess.STDOUT, text=True
            )

    def flow(self, *arguments: str, flow: str = "full_pipeline", **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", f"flows.{flow}", *arguments, **kwargs)

    def summary(self) -> dict[str, Any]:
        return json.loads((self.home / "summary.json").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_until(holds: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.25)
