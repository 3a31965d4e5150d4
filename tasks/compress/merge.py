"""Merge the questions of one picture into training prompts, and take them apart again.

    table = merge(Path("annotations.parquet"), config.compress, seed=0)     # rows of DIALOGUES
    pairs = unmerge(table)                                                  # question_id, question, answer

Several Q-A pairs of one picture become one dialogue: numbered questions in the user turn, one think block and the
numbered answers in the assistant turn. Bilibili's entry to MIPI 2025 publishes that 550,000 prompts became about
110,000 this way, and that training took two days instead of a week; the merge key, the caps, the numbering and what
becomes of the reasoning are not published, so they are ours:

- Pairs merge by ``(image, sub_task)`` or ``(image,)``, in an order drawn from the seed (so that a question's number
  tells nothing about its kind) or in that of the file, first-fit into dialogues of at most ``max_pairs`` pairs and
  ``max_tokens`` tokens. A pair that exceeds ``max_tokens`` alone stands alone: nothing is dropped or cut here.
- The think block holds the accepted reasonings of the pairs in their order, sentence by sentence, each sentence
  once, until ``max_think_tokens`` is reached. Held-out questions were never shown to the teacher: theirs is empty.
- Tokens are estimated, ``characters_per_token`` characters each, the media not counted.

DuckDB reads the Parquet file, orders and packs; `assemble.py` writes the turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.records import PAIR
from pipeline_config.schema import CompressConfig, ConfigError
from tasks.compress.assemble import OF_MEDIA, THREADS, WRAPPING, assemble

MEMORY_LIMIT = "700MB"  # DuckDB's own; it spills to disk beyond

_READ = f"SELECT {', '.join([*PAIR.names, *OF_MEDIA, 'reasoning'])} FROM read_parquet($path)"

# One row per question: its group, its place in the order of the group, and its length in characters.
_PLACED = """
CREATE TEMP TABLE placed AS
SELECT row, grp, characters, think,
       row_number() OVER (PARTITION BY grp ORDER BY if($drawn, md5(question_id || ':' || $seed), ''), row) AS place
FROM pair
"""

# First-fit, one step per place: every group puts its next pair into the first of its bins that still has room.
_PACKED = """
WITH RECURSIVE packing AS (
    SELECT row, grp, place, 1::BIGINT AS bin,
           [{'pairs': 1::BIGINT, 'characters': characters, 'think': think}] AS bins
    FROM placed WHERE place = 1
    UNION ALL
    SELECT row, grp, place, bin,
           CASE WHEN bin > len(bins)
                THEN list_append(bins, {'pairs': 1::BIGINT, 'characters': characters, 'think': think})
                ELSE list_transform(bins, lambda b, i: CASE WHEN i = bin THEN {
                    'pairs': b.pairs + 1, 'characters': b.characters + characters, 'think': b.think + think
                } ELSE b END)
           END
    FROM (
        SELECT next.*, packing.bins,
               coalesce(list_position(list_transform(packing.bins, lambda b:
                   b.pairs < $max_pairs
                   AND b.characters + next.characters + least(b.think + next.think, $max_think) <= $max_characters
               ), true), len(packing.bins) + 1) AS bin
        FROM packing JOIN placed AS next ON next.grp = packing.grp AND next.place = packing.place + 1
    )
)
SELECT row, min(row) OVER (PARTITION BY grp, bin) AS dialogue FROM packing ORDER BY dialogue, place
"""


def merge(annotations: Path, config: CompressConfig, seed: int = 0) -> pa.Table:
    """Dialogues (rows of DIALOGUES) of a Parquet file of annotations, train and test split alike.

    Rows stand in the order of their earliest question in the file. The same file, config and seed give the same
    rows. Raises ConfigError if the merge key does not hold the image.
    """
    if config.merge_by is not None and "image" not in config.merge_by:
        raise ConfigError(
            f"compress.merge_by: {list(config.merge_by)} would put several pictures into one prompt; add 'image'"
        )
    per_token = config.characters_per_token
    max_think = int(config.max_think_tokens * per_token)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}; SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        pairs = connection.sql(_READ, params={"path": str(annotations)}).to_arrow_table().combine_chunks()
        connection.register("pair", _sized(pairs, config))
        connection.execute(_PLACED, {"seed": str(seed), "drawn": config.order == "drawn"})
        caps = {"max_pairs": config.max_pairs, "max_characters": int(config.max_tokens * per_token) - WRAPPING}
        packed = connection.sql(_PACKED, params={**caps, "max_think": max_think}).to_arrow_table()
    starts = np.flatnonzero(np.diff(packed["dialogue"].to_numpy(), prepend=-1))
    return assemble(pairs, packed["row"].to_numpy(), starts, max_think, per_token)


def _sized(pairs: pa.Table, config: CompressConfig) -> pa.Table:
    """What the packing looks at: each pair's row, group, id, and characters in the turns and in the think block."""
    row = np.arange(pairs.num_rows)
    group = row
    if config.merge_by is not None:
        group = _codes(pairs["sample_id"])
        if "sub_task" in config.merge_by:
            of_sub_task = _codes(pairs["sub_task"])
            group = group * (1 + of_sub_task.max(initial=0)) + of_sub_task
    text = pc.add(pc.utf8_length(pairs["question"]), pc.utf8_length(pairs["answer"])).cast(pa.int64())
    thought = pc.fill_null(pc.utf8_length(pairs["reasoning"]), -1).cast(pa.int64())
    numbering = 2 * len(f"{config.max_pairs}. \n")
    return pa.table(
        {
            "row": row,
            "grp": group,
            "question_id": pairs["question_id"],
            "characters": pc.add(text, numbering),
            "think": pc.add(thought, 1),
        }
    )


def _codes(names: pa.ChunkedArray) -> np.ndarray:
    """A number for each distinct name."""
    encoded = names.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def unmerge(dialogues: pa.Table) -> pa.Table:
    """Inverse of `merge`: one row (question_id, question, answer) per pair, in the order of dialogues and numbers."""
    pairs = pc.list_flatten(dialogues["pairs"])
    names = ["question_id", "question", "answer"]
    return pa.table([pc.struct_field(pairs, name) for name in names], names)
