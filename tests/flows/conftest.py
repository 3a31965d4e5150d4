"""A real Prefect server in its own home, and the flows run as their users run them: as commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.desk import PREFECT, Desk, free_port, healthy, wait_until


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a client of a Prefect server that lives for this session."""
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DISCERN_"))},
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "NO_PROXY": "127.0.0.1",
    }
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [PREFECT, "server", "start", "--port", str(port)], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: healthy(port), 120, f"the Prefect server to answer (see {log.name})")
        yield environment
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture
def desk(server: dict[str, str], tmp_path: Path) -> Desk:
    """A user with an empty home."""
    return Desk({**server, "DISCERN_HOME": str(tmp_path / "runs")}, tmp_path / "runs")


@pytest.fixture(scope="session")
def finished(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A user who has run the tiny configuration once."""
    home = tmp_path_factory.mktemp("finished") / "runs"
    desk = Desk({**server, "DISCERN_HOME": str(home)}, home)
    done = desk.flow("--config", "tiny")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    desk.output = done.stdout + done.stderr
    return desk
