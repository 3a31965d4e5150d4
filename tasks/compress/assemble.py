"""Write the turns of dialogues whose pairs are known, a batch of dialogues at a time.

In Arrow and numpy, because DuckDB's lists of structs took a second longer and twice the memory on 550,000 pairs. No row
passes through Python but for its id. The form is that of `tasks.student.turns`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_contracts.records import DIALOGUES, PAIR
from data_contracts.refs import text_digest

BATCH = 20_000  # dialogues
THREADS = 2
OF_MEDIA = ("sample_id", "media_path", "source_photograph", "split")
_THINK, _SAY, _DONE = "<think>", "</think><answer>", "</answer>"
WRAPPING = len(_THINK + _SAY + _DONE)
_SENTENCE_ENDS = (". ", "! ", "? ")
_LOOKS_NUMBERED = r"\n( *\p{Nd}+\. )"

Rows = NDArray[np.int64]


def assemble(pairs: pa.Table, rows: Rows, starts: Rows, max_think: int, characters_per_token: float) -> pa.Table:
    """Rows of DIALOGUES.

    pairs: columns of PAIR and OF_MEDIA, and reasoning. rows: positions in pairs, dialogue after dialogue, in
    the order of the numbers. starts: where in rows each dialogue begins. max_think: characters of a think block.
    """
    bounds = np.append(starts, len(rows))

    def batch(first: int) -> pa.Table:
        part = bounds[first : first + BATCH + 1]
        return _dialogues(pairs.take(pa.array(rows[part[0] : part[-1]])), part - part[0], max_think)

    with ThreadPoolExecutor(THREADS) as threads:
        batches = list(threads.map(batch, range(0, len(starts), BATCH)))
    table = pa.concat_tables(batches) if batches else DIALOGUES.empty_table().drop_columns("num_tokens")
    characters = pc.add(pc.utf8_length(table["prompt"]), pc.utf8_length(table["response"]))
    num_tokens = pc.ceil(pc.divide(characters.cast(pa.float64()), characters_per_token))
    return table.append_column("num_tokens", num_tokens).select(DIALOGUES.names).cast(DIALOGUES)


def _dialogues(pairs: pa.Table, bounds: Rows, max_think: int) -> pa.Table:
    """Dialogue d holds the pairs bounds[d] to bounds[d + 1]."""
    column = {name: pairs[name].combine_chunks() for name in pairs.column_names}
    offsets = pa.array(bounds, pa.int32())
    firsts = offsets[:-1]
    ids = pa.ListArray.from_arrays(offsets, column["question_id"])
    pair = pa.StructArray.from_arrays([column[name] for name in PAIR.names], fields=list(PAIR))
    thought, answers = _thought(column["reasoning"], bounds, max_think), _numbered_lines(column["answer"], bounds)
    return pa.table(
        {
            "dialogue_id": [text_digest(joined) for joined in pc.binary_join(ids, ",").to_pylist()],
            **{name: column[name].take(firsts) for name in OF_MEDIA},
            "sub_task": _common(column["sub_task"], bounds),
            "prompt": _numbered_lines(column["question"], bounds),
            "response": pc.binary_join_element_wise(_THINK, thought, _SAY, answers, _DONE, ""),
            "merged_from": ids,
            "pairs": pa.ListArray.from_arrays(offsets, pair),
            "num_pairs": np.diff(bounds),
        }
    )


def _numbered_lines(items: pa.Array, bounds: Rows) -> pa.Array:
    """As `tasks.student.turns.merge_prompt`: numbered, later lines that look numbered indented; one item as it is."""
    sizes = np.diff(bounds)
    number = np.arange(len(items)) - np.repeat(bounds[:-1], sizes) + 1
    alone = pa.array(np.repeat(sizes == 1, sizes))
    if pc.any(pc.match_substring_regex(items, _LOOKS_NUMBERED)).as_py():
        items = pc.if_else(alone, items, pc.replace_substring_regex(items, _LOOKS_NUMBERED, "\n \\1"))
    numeral = pc.if_else(alone, "", pc.binary_join_element_wise(pa.array(number).cast(pa.string()), ". ", ""))
    return _joined(pc.binary_join_element_wise(numeral, items, ""), bounds, "\n")


def _thought(reasonings: pa.Array, bounds: Rows, max_think: int) -> pa.Array:
    """Sentences of each dialogue's reasonings, in order, each once, as many as fit."""
    for end in _SENTENCE_ENDS:
        reasonings = pc.replace_substring(reasonings, end, end.replace(" ", "\n"))
    sentences = pc.split_pattern(pc.utf8_trim_whitespace(reasonings), "\n")
    said = pc.list_flatten(sentences)
    dialogue = np.searchsorted(bounds, pc.list_parent_indices(sentences).to_numpy(), side="right") - 1
    words = said.dictionary_encode().indices.to_numpy().astype(np.int64)
    lengths = pc.utf8_length(said).to_numpy()
    _, once = np.unique(dialogue * (1 + words.max(initial=0)) + words, return_index=True)
    once = np.sort(once[lengths[once] > 0])
    dialogue, ends = dialogue[once], np.cumsum(lengths[once] + 1)
    begins = np.append(0, ends)[np.searchsorted(dialogue, dialogue)]
    fits = ends - begins - 1 <= max_think
    counts = np.bincount(dialogue[fits], minlength=len(bounds) - 1)
    return _joined(said.take(pa.array(once[fits])), np.append(0, np.cumsum(counts)), " ")


def _common(names: pa.Array, bounds: Rows) -> pa.Array:
    """The name that all items of a dialogue share, else "mixed"."""
    codes = names.dictionary_encode().indices.to_numpy()
    same = np.minimum.reduceat(codes, bounds[:-1]) == np.maximum.reduceat(codes, bounds[:-1])
    return pc.if_else(pa.array(same), names.take(pa.array(bounds[:-1])), "mixed")


def _joined(items: pa.Array, bounds: Rows, separator: str) -> pa.Array:
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), items), separator)
