"""Make the tiny base.

    python -m tasks.student.pretrain --photos tasks/media/photographs --photos MORE --work WORK --out tasks/student/tiny

The first folder holds the catalogue that names the held-out photographs. Interrupted, the same command continues:
the pool, the stages' checkpoints and the log are kept in WORK. `--set name=value` changes a number of settings.py.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import itertools
import logging
from pathlib import Path

from tasks.student import torchvision_operators as _torchvision_operators  # noqa: F401  before transformers

import numpy as np  # isort: skip
import torch
from transformers import Qwen2Tokenizer

from tasks.student.pretrain.architecture import new_model
from tasks.student.pretrain.photographs import collect, held_out_files
from tasks.student.pretrain.pool import Pool, make_pool
from tasks.student.pretrain.publish import publish
from tasks.student.pretrain.questions import dialogue
from tasks.student.pretrain.settings import Settings
from tasks.student.pretrain.text_stage import hand_over, make_yardstick, measured_crops, train_reading, train_text
from tasks.student.pretrain.tokenizer import make_processor, phrases, special_ids, train_tokenizer
from tasks.student.pretrain.vision_stage import train_vision

_WORDING_CROPS = 2_000
_PHRASE_WEIGHT = 300


def learn_tokenizer(pool: Pool, settings: Settings, folder: Path) -> Qwen2Tokenizer:
    """The tokenizer of the questions that will be asked and of the pipeline's words, kept in a folder."""
    if folder.exists():
        return Qwen2Tokenizer.from_pretrained(folder)
    rng = np.random.default_rng([settings.seed, 4])
    yardstick = make_yardstick(pool, settings)
    crops = itertools.chain.from_iterable(
        measured_crops(pool.shard(index), pool.names(), yardstick) for index in range(pool.num_shards)
    )
    turns = [dialogue(crop, 3, rng) for crop in itertools.islice(crops, _WORDING_CROPS)]
    tokenizer = train_tokenizer(["\n".join(turn) for turn in turns] + phrases() * _PHRASE_WEIGHT, settings)
    tokenizer.save_pretrained(folder)
    return tokenizer


def pretrain(folders: list[Path], work: Path, out: Path, settings: Settings) -> None:
    """All of it: photographs, pool, tokenizer, vision stage, text stage, the folder `out`."""
    photographs = collect(folders, held_out_files(folders[0]))
    logging.info("%d photographs", len(photographs))
    pool, makers = make_pool([pixels for _, pixels in photographs], settings, work / "pool")
    tokenizer = learn_tokenizer(pool, settings, work / "tokenizer")
    settings = dataclasses.replace(settings, vocabulary=len(tokenizer))
    model = new_model(settings, special_ids(tokenizer))
    model.set_attn_implementation("eager")  # short rows: faster than the fused kernel on a CPU
    logging.info("%d tokens, %.2f M parameters", len(tokenizer), sum(p.numel() for p in model.parameters()) / 1e6)
    train_vision(model, pool, settings, work / "vision.pt")
    hand_over(model, settings)
    train_reading(model, tokenizer, settings, work / "reading.pt")
    train_text(model, tokenizer, pool, settings, work / "text.pt")
    for maker in makers:
        maker.join()
    publish(model, make_processor(tokenizer, settings), [photograph for photograph, _ in photographs], out)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, action="append", required=True, help="folder; the first has a catalogue")
    parser.add_argument("--work", type=Path, required=True, help="folder of pool, checkpoints and log")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(arguments.work / "pretrain.log")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    torch.set_num_threads(arguments.threads)
    changes = dict(change.split("=", 1) for change in arguments.set)
    settings = dataclasses.replace(Settings(), **{name: ast.literal_eval(value) for name, value in changes.items()})
    pretrain(arguments.photos, arguments.work, arguments.out, settings)


if __name__ == "__main__":
    main()
