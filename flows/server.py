"""Prefect's temporary server, made to end with the flow that started it, however the flow ends. Ours.

Prefect starts a server where none is configured, and stops it when the interpreter exits. This one stands in a session
of its own, so Ctrl-C in a terminal reaches the flow alone, which then still tells the server how it ended; and it reads
its stdin, whose other end only the flow holds, so it also ends when the flow is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from prefect.server.api.server import SubprocessASGIServer, create_app
from prefect.settings import get_current_settings

from tasks.launcher.child import REPOSITORY
from tasks.launcher.job import LIFELINE_VARIABLE, end_with_parent


class EmbeddedServer(SubprocessASGIServer):
    """Once made, it is the instance that Prefect starts on demand: there is one per process."""

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        environment = {
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            LIFELINE_VARIABLE: "stdin",
        }
        command = [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(REPOSITORY), "--factory", "flows.server:application"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"),
        ]
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def application() -> Any:
    """What uvicorn serves: Prefect's application, in a process that ends with its parent."""
    end_with_parent()
    return create_app()
