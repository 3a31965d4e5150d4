"""GRPO in real processes: killed with SIGKILL and started again, and shared by two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.launcher.child import run_child
from tasks.launcher.job import Job
from tasks.tracking.log import METRICS_MARK

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# The child as `tasks.grpo.train` starts it, with this folder's reward in the table and no tracking store.
CHILD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("grpo_conftest", {str(Path(__file__).with_name("conftest.py"))!r})
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
from tasks.rewards.reward import reward
reward("letters", judges="form", source="test", formula="letters / characters")(conftest.letters)
from tasks.grpo.train import run
from tasks.launcher.job import child_main
child_main(run)
"""


def start(job: Job, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    (job.folder / "child.py").write_text(CHILD)
    (job.folder / "job.json").write_text(json.dumps(job.to_dict()))
    return subprocess.Popen(
        [sys.executable, *launcher, str(job.folder / "child.py"), str(job.folder / "job.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def test_killed_at_some_moment_it_ends_as_if_it_had_not_been(make_job: Callable[..., Job]) -> None:
    settings = {"steps": 30, "save_steps": 5, "probe_prompts": 2, "batch_size": 8, "lr": 1e-2}
    whole, killed = make_job("whole", **settings), make_job("killed", **settings)
    undisturbed = start(whole)
    process = start(killed)
    seen = killed.folder / "rollouts" / "step-000012-rank-000.parquet"
    while not seen.exists():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not killed.out.exists()
    assert (killed.folder / "checkpoints" / "checkpoint-10" / "complete.json").is_file()
    finish(start(killed))
    finish(undisturbed)
    for name in ("out/model.safetensors", "out/history.json"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    rows = [pq.read_table(job.folder / "rollouts.parquet").to_pylist() for job in (killed, whole)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 30 * 2 * 4


def test_two_processes_share_the_prompts_of_a_step(make_job: Callable[..., Job]) -> None:
    job = make_job(
        steps=3, prompts_per_step=4, batch_size=3, probe_prompts=2, loss_per="token", config_student={"devices": 2}
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    finish(start(job, launch))
    rows = pq.read_table(job.folder / "rollouts.parquet").to_pylist()
    assert len({row["rollout_id"] for row in rows}) == len(rows) == 3 * 4 * 4
    for entry in json.loads((job.out / "history.json").read_text())["steps"]:
        of_step = [row for row in rows if row["step"] == entry["step"]]
        assert len({row["dialogue_id"] for row in of_step}) == 4
        assert entry["reward"] == pytest.approx(sum(row["reward"] for row in of_step) / 16), "over both processes"
        assert entry["grad_norm"] > 0
    facts = json.loads((job.folder / "result.json").read_text())
    assert facts["probe_after"] != facts["probe_before"]


def test_the_launcher_starts_it_and_hears_its_progress(make_job: Callable[..., Job]) -> None:
    job = make_job(steps=2, rubric="format")
    heard: list[dict[str, float]] = []
    facts = run_child("tasks.grpo.train", job.to_dict(), job.folder, on_progress=heard.append)
    assert facts == {"steps": 2, "num_prompts": 12, "num_filled_up": 0, "num_rollouts": 16}
    assert [(line["done"], line["total"]) for line in heard] == [(1, 2), (2, 2)]
    log = (job.folder / "child.log").read_text()
    sent = [json.loads(line.removeprefix(METRICS_MARK)) for line in log.splitlines() if line.startswith(METRICS_MARK)]
    assert [line["step"] for line in sent] == [1, 2]
    assert {"reward", "entropy", "zero_variance_share", "grad_norm"} <= set(sent[0]["metrics"])
