"""The stage merges with its configuration and the seed of the run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import ANNOTATIONS
from data_contracts.refs import Ref, Run
from pipeline_config.schema import PipelineConfig
from tasks.compress.task import compress


def test_seed_and_configuration_reach_the_merge(tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(ANNOTATIONS.names)
        | {
            **{"question_id": f"q{n}", "sub_task": "mcq", "kind": "type", "problem_type": "choice", "answer": "A"},
            **{"question": f"Question {n}?", "options": ["Noise", "Blur"], "sample_id": "s", "media_path": "/s.png"},
            **{"source_photograph": "p", "split": "train"},
        }
        for n in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS), tmp_path / "annotations.parquet")
    annotations = Ref("annotations", str(tmp_path / "annotations.parquet"), "digest", 12)

    def merged(run_id: str, seed: int, max_pairs: int) -> list[list[str]]:
        config = PipelineConfig.model_validate(
            {
                "name": "test",
                "seed": seed,
                "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
                "compress": {"max_pairs": max_pairs},
                "sft": {"optimiser": {"lr": 1e-3}},
                "grpo": {"optimiser": {"lr": 1e-3}},
            }
        )
        ref = compress.fn(Run(run_id, str(tmp_path), ""), config, annotations)
        return [row["merged_from"] for row in pq.read_table(ref.path).to_pylist()]

    first = merged("one", 0, 4)
    assert [len(ids) for ids in first] == [4, 4, 4]
    assert merged("two", 0, 4) == first
    assert merged("three", 1, 4) != first
    assert [len(ids) for ids in merged("four", 0, 6)] == [6, 6]
