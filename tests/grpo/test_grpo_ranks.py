"""Two ranks sample apart and train as one process would that was given the completions of both."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import torch

import tasks.grpo.trainer as trainer
from data_contracts.records import DIALOGUES
from tasks.grpo.train import run
from tasks.launcher.job import Job
from tasks.student.generate import Completion
from tasks.student.trainer import checkpoint_state_of

ROOT = Path(__file__).parents[2]


def rank_main(rank: int, port: int, job: dict[str, Any]) -> None:
    """One of two ranks; what it samples is written to the job's folder."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    conftest = importlib.import_module("tests.grpo.conftest")
    importlib.import_module("tasks.rewards.reward").reward("letters", judges="form", source="", departs="", formula="")(
        conftest.letters
    )
    real = trainer.generate

    def recording(*args: Any, **settings: Any) -> list[list[Completion]]:
        completions = real(*args, **settings)
        (Path(job["folder"]) / f"rank-{rank}.pickle").write_bytes(pickle.dumps(completions))
        return completions

    trainer.generate = recording
    run(Job.from_dict(job))


@pytest.fixture
def same_prompt(tables: dict[str, Path], tmp_path: Path) -> Path:
    """The dialogues, all with one prompt about one picture."""
    first, *others = pq.read_table(tables["dialogues"]).to_pylist()
    rows = [first, *({**row, **{key: first[key] for key in ("prompt", "media_path")}} for row in others)]
    pq.write_table(pa.Table.from_pylist(rows, schema=DIALOGUES), tmp_path / "dialogues.parquet")
    return tmp_path / "dialogues.parquet"


@pytest.mark.usefixtures("letters_reward")
def test_two_ranks_train_as_one_process(
    make_job: Callable[..., Job], same_prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **{"steps": 1, "save_steps": 1, "prompts_per_step": 4, "batch_size": 3, "max_new_tokens": 48},
        **{"loss_per": "token", "sampling": {"order": "curriculum"}},
    }
    two, one = make_job("two", config_student={"devices": 2}, **settings), make_job("one", **settings)
    for job in (two, one):
        job.inputs["dialogues"] = str(same_prompt)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.syspath_prepend(str(ROOT))
    torch.multiprocessing.spawn(rank_main, (port, two.to_dict()), nprocs=2)
    of_rank = [pickle.loads((two.folder / f"rank-{rank}.pickle").read_bytes()) for rank in (0, 1)]
    texts = [completion.text for groups in of_rank for group in groups for completion in group]
    assert len(set(texts)) == len(texts) == 16, "the same prompt, but other random numbers"
    lengths = [sum(len(c.token_ids) for group in groups for c in group) for groups in of_rank]
    assert lengths[0] != lengths[1], "ranks that would weigh a token differently"
    monkeypatch.setattr(trainer, "generate", lambda *args, **settings: [of_rank[p % 2][p // 2] for p in range(4)])
    run(one)
    (ours,), (theirs,) = (json.loads((job.out / "history.json").read_text())["steps"] for job in (two, one))
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert ours["grad_norm"] > 0
    states = [checkpoint_state_of(job.folder / "checkpoints" / "checkpoint-1") for job in (two, one)]
    guards = [state.pop("guard") for state in states]
    assert guards[0] == pytest.approx(guards[1])
    assert states[0] == states[1], "what every rank's rollouts taught the sampler"
