"""The training split of ``dialogues`` as the Trainer takes it: token ids at once, pictures when their batch comes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from pipeline_config.schema import ConfigError
from tasks.student.checkpoint import Student
from tasks.student.encode import NO_LABEL, Encoded, TooLong, collate, encode_dialogue, with_labels

COLUMNS = ["dialogue_id", "split", "sub_task", "prompt", "response", "media_path"]
# Batches per neighbourhood that is sorted by length: more pads less, fewer shuffles better.
_NEIGHBOURHOOD = 32


class TrainingDialogues(torch.utils.data.Dataset[Encoded]):
    """Encoded dialogues; ``quarantined`` names those longer than max_tokens, as ``{"id", "reason"}``.

    repeats: sub-task -> how many times an epoch sees its dialogues, if not once.
    Raises ConfigError if no dialogue is left, ValueError naming a picture that cannot be read.
    """

    def __init__(
        self, student: Student, path: Path, max_tokens: int, repeats: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.encoded: list[Encoded] = []
        self.quarantined: list[dict[str, str]] = []
        rows = pq.read_table(path, columns=COLUMNS, filters=[("split", "=", "train")]).to_pylist()
        for row in rows:
            try:
                encoded = encode_dialogue(student, row, max_tokens)
                # As an array: lists of a hundred thousand dialogues would fill a machine with eight ranks.
                encoded = replace(encoded, token_ids=array("i", encoded.token_ids))
                self.encoded += [encoded] * repeats.get(row["sub_task"], 1)
            except TooLong as error:
                self.quarantined.append({"id": row["dialogue_id"], "reason": str(error)})
        if not rows:
            raise ConfigError(f"{path}: holds no training dialogue; declare a source that is not split: test")
        if not self.encoded:
            raise ConfigError(f"{path}: all {len(rows)} dialogues exceed {max_tokens} tokens; raise sft.max_tokens")

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Encoded:
        return self.encoded[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each dialogue, vision included."""
        return [len(item.token_ids) for item in self.encoded]


def collate_training(student: Student, encoded: Sequence[Encoded]) -> dict[str, Any]:
    """A batch with labels and ``logits_to_keep``, which spares the vocabulary's logits where no label needs them.

    It has no attention mask: padding stands behind every token with a label, where causal attention never looks, and
    without a mask the attention kernels skip the upper triangle.
    """
    batch = with_labels(collate(student, encoded, padding="right"), encoded)
    needed = torch.zeros_like(batch["labels"], dtype=torch.bool)
    needed[:, :-1] = batch["labels"][:, 1:] != NO_LABEL
    del batch["attention_mask"]
    return {**batch, "logits_to_keep": needed}


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """All indices once per epoch, neighbours of like length in one batch, batches in random order.

    The order depends on seed and epoch alone, so a resumed run sees what the unbroken one would have seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        step = self.batch_size * _NEIGHBOURHOOD
        batches: list[np.ndarray] = []
        for start in range(0, len(order), step):
            near = order[start : start + step]
            near = near[np.argsort(-self.lengths[near], kind="stable")]
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        # Only the last batch may be short: the loader cuts the stream of indices every batch_size.
        whole, short = batches[:-1], batches[-1:]
        rng.shuffle(whole)
        return iter(np.concatenate(whole + short).tolist())
