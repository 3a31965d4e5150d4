"""The annotate stage against the endpoint: what is asked, kept, put aside, and never asked again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_contracts.check import ContractError, check
from data_contracts.records import ANNOTATIONS
from pipeline_config.schema import AnnotateConfig, RewardsConfig
from tasks.annotate.annotate import Annotated, annotate_samples, make_teacher
from tasks.endpoint.journal import FILE
from tasks.endpoint.request import EndpointUnavailable
from tests.annotate.endpoint import RIGHT, Endpoint, complete, fail, question, sample, write_samples

KEY = "sk-very-secret-0123456789"
WRONG = "<think>It is dark.</think><answer>A</answer>"


def at_once(endpoint: Endpoint, num: int) -> dict[str, Any]:
    fields = {"model": "judge-1", "max_in_flight": num, "max_attempts": 2}
    return {"kind": "openai", "base_url": endpoint.base_url, **fields}


def run(
    folder: Path, samples: Path, endpoint: Endpoint, rewards: RewardsConfig | None = None, **fields: Any
) -> Annotated:
    teacher = {
        "kind": "openai",
        "base_url": endpoint.base_url,
        "model": "judge-1",
        "max_in_flight": 4,
        "max_attempts": 2,
    }
    config = AnnotateConfig.model_validate({"teacher": teacher, **fields})
    rewards = rewards or RewardsConfig()
    return asyncio.run(
        annotate_samples(samples, folder / "journal", config, rewards, make_teacher(config.teacher, KEY))
    )


def test_right_answers_are_kept_with_their_reasoning(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, 0, [question()])])
    annotated = run(tmp_path, samples, endpoint)
    assert annotated.table.schema == ANNOTATIONS
    [row] = annotated.table.to_pylist()
    assert (row["reasoning"], row["reward"], row["tries"], row["teacher"]) == (
        "Grain covers the sky.",
        1.0,
        1,
        "judge-1",
    )
    assert (row["prompt_tokens"], row["completion_tokens"]) == (1000, 50)
    assert len(row["request_key"]) == 32
    assert row["answer"] == "B"
    assert annotated.quarantine == []
    assert annotated.figures["accepted_share_choice"] == 1.0


def test_a_wrong_try_is_followed_by_another_and_counted(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, 0, [question()])])
    endpoint.script = [complete(WRONG), complete("no tags"), complete(RIGHT)]
    [row] = run(tmp_path, samples, endpoint, tries=3).table.to_pylist()
    assert (row["reasoning"], row["tries"], row["prompt_tokens"]) == ("Grain covers the sky.", 3, 3000)


@pytest.mark.parametrize("rejected", ["drop", "answer_only"])
def test_a_rejected_question_stands_in_quarantine_with_its_tries(
    endpoint: Endpoint, tmp_path: Path, rejected: str
) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()]) for n in range(2)])
    endpoint.script = [complete(RIGHT), complete(WRONG), complete("", refusal="I would rather not.")]
    annotated = run(tmp_path, samples, endpoint, tries=2, rejected=rejected, teacher=at_once(endpoint, 1))
    rows = annotated.table.to_pylist()
    assert [row["reasoning"] for row in rows] == ["Grain covers the sky.", None][: len(rows)]
    assert len(rows) == (2 if rejected == "answer_only" else 1)
    if rejected == "answer_only":
        assert (rows[1]["answer"], rows[1]["tries"], rows[1]["reward"], rows[1]["request_key"]) == ("B", 2, 0.0, None)
    [aside] = annotated.quarantine
    assert aside["answers"] == ["A", "I would rather not."]
    assert aside["reason"].startswith("kept without reasoning" if rejected == "answer_only" else "left out")
    assert "reward 0.00 does not exceed 0.6" in aside["reason"]
    assert annotated.figures["rejected"] == 1


def test_all_kinds_of_rows_meet_their_contract(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [sample(tmp_path, n, [question()], split) for n, split in enumerate(["train", "train", "test"])]
    endpoint.script = [complete(RIGHT)] + [complete(WRONG)] * 3
    one = {"teacher": at_once(endpoint, 1), "rejected": "answer_only"}
    annotated = run(tmp_path, write_samples(tmp_path, rows), endpoint, **one)
    assert annotated.table["reasoning"].null_count == 2
    findings = check("annotations", annotated.table)
    assert findings.ok, findings


def test_held_out_questions_are_not_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [sample(tmp_path, 0, [question()], split="test"), sample(tmp_path, 1, [question()])]
    annotated = run(tmp_path, write_samples(tmp_path, rows), endpoint)
    assert len(endpoint.requests) == 1
    held_out, trained = annotated.table.to_pylist()
    assert (held_out["split"], held_out["tries"], held_out["reasoning"], held_out["reward"]) == ("test", 0, None, None)
    assert trained["tries"] == 1


def test_the_gold_is_never_sent(endpoint: Endpoint, tmp_path: Path) -> None:
    scored = question("Please rate the image quality.", problem_type="mos", options=[], answer="3.42")
    described = question("What?", problem_type="free_form", options=[], answer="Severe edge ringing effect")
    row = {**sample(tmp_path, 0, [scored, described]), "mos": 3.42, "level": "good"}
    endpoint.text = "<think>So.</think><answer>3.40</answer>"
    run(tmp_path, write_samples(tmp_path, [row]), endpoint, rejected="answer_only")
    sent = json.dumps([request["body"] for request in endpoint.requests])
    assert "3.42" not in sent
    assert "Severe edge ringing effect" not in sent


def test_a_gold_that_cannot_score_is_put_aside_unasked(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [
        sample(tmp_path, 0, [question(answer="E"), question()]),
        sample(tmp_path, 1, [question(answer="E")], "test"),
    ]
    annotated = run(tmp_path, write_samples(tmp_path, rows), endpoint)
    assert len(endpoint.requests) == 1
    assert annotated.table.num_rows == 1
    assert [aside["reason"].startswith("unfit gold") for aside in annotated.quarantine] == [True, True]
    with pytest.raises(ContractError, match="no gold answer of 1 questions"):
        run(tmp_path, write_samples(tmp_path, [sample(tmp_path, 2, [question(answer="E")])]), endpoint)


def test_no_questions_and_no_right_answer_are_named(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="hold no questions"):
        run(tmp_path, write_samples(tmp_path, [sample(tmp_path, 0, [])]), endpoint)
    endpoint.text = WRONG
    with pytest.raises(ContractError, match=r"right on none of 1 training questions.*annotate\.rejected"):
        run(tmp_path, write_samples(tmp_path, [sample(tmp_path, 0, [question()])]), endpoint)


def test_a_second_run_and_a_changed_reward_ask_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    region = question("What?", problem_type="region", options=[], answer="Minor noise")
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question(), region]) for n in range(5)])
    endpoint.script = [complete(f"<think>Grain.</think><answer>{a}</answer>") for a in ("B", "Severe noise")] * 5
    one = {"teacher": at_once(endpoint, 1), "tries": 1, "rejected": "answer_only"}
    first = run(tmp_path, samples, endpoint, **one)
    assert len(endpoint.requests) == 10
    assert (first.figures["accepted"], first.figures["teacher_calls"], first.figures["journal_hits"]) == (5, 10, 0)
    again = run(tmp_path, samples, endpoint, **one)
    assert again.table.equals(first.table)
    assert (again.figures["teacher_calls"], again.figures["journal_hits"]) == (0, 10)
    lenient = RewardsConfig(rubrics={"region": {"distortion_q_insight": 1.0}})
    changed = run(tmp_path, samples, endpoint, lenient, tau=0.2, **one)
    assert changed.figures["accepted"] == 10
    assert len(endpoint.requests) == 10


def test_rows_stand_in_the_order_of_the_samples(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [sample(tmp_path, n, [question(f"Question {i}?") for i in range(3)]) for n in range(8)]
    draw = random.Random(0)
    endpoint.script = [complete(RIGHT, draw.uniform(0, 0.05)) for _ in range(24)]
    annotated = run(tmp_path, write_samples(tmp_path, rows), endpoint)
    asked = [q["question_id"] for row in rows for q in row["questions"]]
    assert annotated.table["question_id"].to_pylist() == asked


def test_no_more_requests_are_under_way_than_allowed(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()]) for n in range(24)])
    endpoint.script = [complete(seconds=0.1) for _ in range(24)]
    run(tmp_path, samples, endpoint, teacher=at_once(endpoint, 6))
    assert 3 <= endpoint.most_in_flight <= 6


def test_progress_counts_every_question(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()], "train" if n else "test") for n in range(4)])
    config = AnnotateConfig.model_validate({"teacher": at_once(endpoint, 1)})
    seen: list[tuple[int, int, float]] = []

    def on_progress(done: int, total: int, **figures: float) -> None:
        seen.append((done, total, figures["accepted"]))

    asyncio.run(
        annotate_samples(
            samples, tmp_path / "journal", config, RewardsConfig(), make_teacher(config.teacher, KEY), on_progress
        )
    )
    assert seen == [(1, 4, 0.0), (2, 4, 1.0), (3, 4, 1.0), (4, 4, 1.0)]


def test_answers_before_a_failure_are_not_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()]) for n in range(12)])
    one = {**at_once(endpoint, 1), "max_attempts": 1}
    endpoint.script = [complete() for _ in range(7)] + [fail(500)]
    with pytest.raises(EndpointUnavailable, match="HTTP 500"):
        run(tmp_path, samples, endpoint, teacher=one)
    asked = len(endpoint.requests)
    endpoint.script = []
    annotated = run(tmp_path, samples, endpoint, teacher=one)
    assert annotated.table.num_rows == 12
    assert annotated.figures["journal_hits"] >= 7
    assert len(endpoint.requests) - asked == 12 - annotated.figures["journal_hits"]


def test_the_key_is_not_written(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.text = f"<think>{KEY}</think><answer>B</answer>"
    annotated = run(tmp_path, write_samples(tmp_path, [sample(tmp_path, 0, [question()])]), endpoint)
    written = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
    assert b"judge-1" in written
    assert KEY.encode() not in written
    assert KEY not in str(annotated.table.to_pylist())


ANNOTATE = """
import asyncio, json, sys
from pathlib import Path
from pipeline_config.schema import AnnotateConfig, RewardsConfig
from tasks.annotate.annotate import annotate_samples, make_teacher
config = AnnotateConfig.model_validate(json.loads(sys.argv[3]))
teacher = make_teacher(config.teacher, "key")
done = asyncio.run(annotate_samples(Path(sys.argv[1]), Path(sys.argv[2]), config, RewardsConfig(), teacher))
print(done.table.num_rows)
"""


def test_kill_9_loses_no_answer_and_pays_only_for_what_was_under_way(endpoint: Endpoint, tmp_path: Path) -> None:
    in_flight, total = 8, 60
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()]) for n in range(total)])
    endpoint.script = [complete(seconds=0.05) for _ in range(3 * total)]
    config = json.dumps({"teacher": at_once(endpoint, in_flight)})
    command = [sys.executable, "-c", ANNOTATE, str(samples), str(tmp_path / "journal"), config]
    process = subprocess.Popen(command)
    while len(endpoint.requests) < total // 2:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == str(total)
    assert (tmp_path / "journal" / FILE).is_file()
    distinct = {request["body"]["messages"][-1]["content"][0]["image_url"]["url"] for request in endpoint.requests}
    assert len(distinct) == total
    assert total < len(endpoint.requests) <= total + in_flight
