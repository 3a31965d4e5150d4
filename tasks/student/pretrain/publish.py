"""Write the folder that transformers loads: bfloat16 weights, configuration, processor, list of photographs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from tasks.student.pretrain.photographs import Photograph, as_rows

PHOTOGRAPHS = "photographs.json"


def publish(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    photographs: list[Photograph],
    folder: Path,
) -> None:
    """Write everything but CARD.md. Weights are stored in bfloat16; the configuration makes them load as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = processor.tokenizer
    ends = [tokens.convert_tokens_to_ids("<|im_end|>"), tokens.convert_tokens_to_ids("<|endoftext|>")]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokens.pad_token_id, bos_token_id=ends[1], do_sample=False
    )
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embeddings
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    rows = json.dumps(as_rows(photographs), indent=1, ensure_ascii=False)
    (folder / PHOTOGRAPHS).write_text(rows + "\n", encoding="utf-8")
