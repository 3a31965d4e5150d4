"""Merge the questions of one picture into training prompts, and take them apart again.

    table = merge(Path("annotations.parquet"), config.compress, seed=0)     # rows of DIALOGUES
    pairs = unmerge(table)                                                  # question_id, question, answer

Several Q-A pairs of one picture become one dialogue: numbered questions in the user turn, one think block and the
numbered answers in the assistant turn. Bilibili's entry to MIPI 2025 publishes that 550,000 prompts became about
110,000 this way, and that training took two days instead of a week; the merge key, the caps, the numbering and what
becomes of the reasoning are not published, so they are ours:

- Pairs merge by ``(image, sub_task)`` or ``(image,)``, in an order drawn from the seed (so that a question's number
  tells nothing about its kind), first-fit into dialogues of at most ``max_pairs`` pairs and ``max_tokens`` tokens. A
  pair that exceeds ``max_tokens`` alone stands alone: nothing is dropped or cut here.
- The think block holds the accepted reasonings of the pairs in their order, sentence by sentence, each sentence
  once, until ``max_think_tokens`` is reached. Held-out questions were never shown to the teacher: theirs is empty.
- Tokens are estimated, ``characters_per_token`` characters each, the media not counted.

DuckDB reads the Parquet file, orders, packs and sorts; Arrow then nests the sorted pairs without copying them (DuckDB's
own `list` of structs took a second longer and twice the memory on 550,000 pairs). No row passes through Python.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_contracts.records import DIALOGUES, PAIR
from pipeline_config.schema import CompressConfig, ConfigError

THREADS = 2
MEMORY_LIMIT = "700MB"  # DuckDB's own; it spills to disk beyond
BATCH = 20_000  # dialogues nested at once
THINK, SAY, DONE = "<think>", "</think><answer>", "</answer>"
_OF_MEDIA = ("sample_id", "media_path", "source_photograph", "split")
_LOOKS_NUMBERED = r"\n *\p{Nd}+\. "

# One row per question: its group, its place in the seeded order of the group, and its length in characters.
_PLACED = """
CREATE TEMP TABLE placed AS
SELECT row, question_id, sub_task, grp, characters, think,
       row_number() OVER (PARTITION BY grp ORDER BY md5(question_id || ':' || $seed), row) AS place
FROM (
    SELECT file_row_number AS row, question_id, sub_task, {group} AS grp,
           length(question) + length(answer) + $numbering AS characters,
           coalesce(length(trim(reasoning)) + 1, 0) AS think
    FROM annotation
)
"""

# First-fit, one step per place: every group puts its next pair into the first of its bins that still has room.
_BINNED = """
CREATE TEMP TABLE binned AS
WITH RECURSIVE packing AS (
    SELECT row, question_id, sub_task, grp, place, 1::BIGINT AS bin,
           [{'pairs': 1::BIGINT, 'characters': characters, 'think': think}] AS bins
    FROM placed WHERE place = 1
    UNION ALL
    SELECT row, question_id, sub_task, grp, place, bin,
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
SELECT row, question_id, sub_task, min(row) OVER dialogue AS dialogue,
       row_number() OVER (dialogue ORDER BY place) AS number, count(*) OVER dialogue AS num_pairs
FROM packing WINDOW dialogue AS (PARTITION BY grp, bin)
"""

# The think block of each dialogue: sentences of its reasonings, each once, until the cap is reached.
_THOUGHT = """
CREATE TEMP TABLE thought AS
WITH sentence AS (
    SELECT dialogue, unnest(sentences) AS sentence,
           number * 1_000_000 + generate_subscripts(sentences, 1) AS place
    FROM (
        SELECT dialogue, number, string_split(replace(replace(replace(replace(trim(reasoning),
                   '. ', '.' || chr(31)), '! ', '!' || chr(31)), '? ', '?' || chr(31)), chr(10), chr(31)), chr(31)
               ) AS sentences
        FROM binned JOIN annotation ON file_row_number = row
        WHERE trim(reasoning) <> ''
    )
), said AS (
    SELECT dialogue, sentence, min(place) AS place FROM sentence WHERE sentence <> '' GROUP BY dialogue, sentence
), running AS (
    SELECT *, sum(length(sentence) + 1) OVER (PARTITION BY dialogue ORDER BY place) - 1 AS characters FROM said
)
SELECT dialogue, string_agg(sentence, ' ' ORDER BY place) AS think
FROM running WHERE characters <= $max_think GROUP BY dialogue
"""

# Dialogues in the order of their earliest question, and the rows of their pairs in the order of the numbers.
_DIALOGUES = """
SELECT dialogue, sha256(string_agg(question_id, ',' ORDER BY number))[:32] AS dialogue_id, count(*) AS num_pairs,
       CASE WHEN min(sub_task) = max(sub_task) THEN min(sub_task) ELSE 'mixed' END AS sub_task,
       coalesce(any_value(think), '') AS think
FROM (SELECT * FROM binned LEFT JOIN thought USING (dialogue)) GROUP BY dialogue ORDER BY dialogue
"""
_ROWS = "SELECT row FROM binned ORDER BY dialogue, number"
_ANNOTATIONS = f"SELECT {', '.join([*PAIR.names, *_OF_MEDIA])} FROM annotation"


def merge(annotations: Path, config: CompressConfig, seed: int = 0) -> pa.Table:
    """Dialogues (rows of DIALOGUES) of a Parquet file of annotations, train and test split alike.

    Rows stand in the order of their earliest question in the file. The same file, config and seed give the same
    rows. Raises ConfigError if the merge key does not hold the image.
    """
    group = _group(config)
    per_token = config.characters_per_token
    max_think = {"max_think": int(config.max_think_tokens * per_token)}
    max_characters = int(config.max_tokens * per_token) - len(THINK + SAY + DONE)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}; SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        connection.read_parquet(str(annotations), file_row_number=True).create_view("annotation")
        connection.execute(
            _PLACED.format(group=group), {"seed": str(seed), "numbering": 2 * len(f"{config.max_pairs}. \n")}
        )
        connection.execute(_BINNED, {**max_think, "max_pairs": config.max_pairs, "max_characters": max_characters})
        connection.execute(_THOUGHT, max_think)
        dialogues, rows, pairs = (connection.sql(query).to_arrow_table() for query in (_DIALOGUES, _ROWS, _ANNOTATIONS))
    return _nested(dialogues, pairs.combine_chunks(), rows["row"].to_numpy(), per_token)


def _group(config: CompressConfig) -> str:
    if config.merge_by is None:
        return "file_row_number"
    if "image" not in config.merge_by:
        raise ConfigError(
            f"compress.merge_by: {list(config.merge_by)} would put several pictures into one prompt; add 'image'"
        )
    return "sample_id || ' ' || sub_task" if "sub_task" in config.merge_by else "sample_id"


def _nested(dialogues: pa.Table, pairs: pa.Table, rows: NDArray[np.int64], characters_per_token: float) -> pa.Table:
    """Rows of DIALOGUES. rows: of the pairs, in the order of dialogues and numbers, as `dialogues` counts them."""
    starts = np.concatenate([[0], np.cumsum(dialogues["num_pairs"].to_numpy())])
    batches = [
        _nested_batch(dialogues.slice(begin, BATCH), pairs, rows, starts[begin : begin + BATCH + 1])
        for begin in range(0, dialogues.num_rows, BATCH)
    ]
    table = pa.concat_tables(batches) if batches else DIALOGUES.empty_table().drop_columns("num_tokens")
    characters = pc.add(pc.utf8_length(table["prompt"]), pc.utf8_length(table["response"]))
    num_tokens = pc.ceil(pc.divide(characters.cast(pa.float64()), characters_per_token))
    return table.append_column("num_tokens", num_tokens).select(DIALOGUES.names).cast(DIALOGUES)


def _nested_batch(dialogues: pa.Table, pairs: pa.Table, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> pa.Table:
    own = pairs.take(pa.array(rows[starts[0] : starts[-1]]))
    column = {name: own[name].combine_chunks() for name in own.column_names}
    offsets = pa.array(starts - starts[0], pa.int32())
    media = own.select(_OF_MEDIA).take(offsets[:-1])
    pair = pa.StructArray.from_arrays([column[name] for name in PAIR.names], fields=list(PAIR))
    nested = {
        **{name: dialogues[name] for name in ("dialogue_id", "sub_task", "num_pairs")},
        **{name: media[name] for name in _OF_MEDIA},
        "prompt": _numbered_lines(column["question"], offsets),
        "merged_from": pa.ListArray.from_arrays(offsets, column["question_id"]),
        "pairs": pa.ListArray.from_arrays(offsets, pair),
    }
    answers = _numbered_lines(column["answer"], offsets)
    nested["response"] = pc.binary_join_element_wise(THINK, dialogues["think"], SAY, answers, DONE, "")
    return pa.table(nested)


def _numbered_lines(items: pa.Array, offsets: pa.Array) -> pa.Array:
    """As `tasks.student.turns.merge_prompt` writes them; dialogue d owns the items offsets[d] to offsets[d + 1]."""
    sizes = np.diff(offsets.to_numpy())
    number = np.arange(len(items)) - np.repeat(offsets.to_numpy()[:-1], sizes) + 1
    alone = pa.array(np.repeat(sizes == 1, sizes))
    if pc.any(pc.match_substring_regex(items, _LOOKS_NUMBERED)).as_py():
        indented = pc.replace_substring_regex(items, rf"\n({_LOOKS_NUMBERED[2:]})", "\n \\1")
        items = pc.if_else(alone, items, indented)
    numeral = pc.if_else(alone, "", pc.binary_join_element_wise(pa.array(number).cast(pa.string()), "", ". "))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, pc.binary_join_element_wise(numeral, items, "")), "\n")


def unmerge(dialogues: pa.Table) -> pa.Table:
    """Inverse of `merge`: one row (question_id, question, answer) per pair, in the order of dialogues and numbers."""
    pairs = pc.list_flatten(dialogues["pairs"])
    names = ["question_id", "question", "answer"]
    return pa.table([pc.struct_field(pairs, name) for name in names], names)
