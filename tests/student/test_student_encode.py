"""What the student sees: the processor's own tokens and pixels, loss on the assistant's tokens, nothing cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline_config.schema import StudentConfig
from tasks.student.checkpoint import Student, load_student
from tasks.student.encode import (
    END_OF_TURN,
    NO_LABEL,
    Prompt,
    TooLong,
    encode_dialogues,
    encode_prompts,
)

Picture = Callable[[int, int], str]
REGION = "What distortion affects this region <|box_start|>(0,0),(500,1000)<|box_end|>?"


def dialogue(
    media_path: str, prompt: str = REGION, response: str = "<think></think><answer>Severe noise</answer>"
) -> dict[str, Any]:
    return {"dialogue_id": "d1", "media_path": media_path, "prompt": prompt, "response": response}


@pytest.mark.parametrize("side", [112, 140, 168])
def test_the_processor_does_not_resample(side: int, picture: Picture) -> None:
    from PIL import Image

    tiny = load_student("builtin:tiny", StudentConfig(precision="float32"))
    seen = tiny.pictures.of(picture(side, side))
    processor = tiny.processor.image_processor
    raw = torch.tensor(list(Image.open(picture(side, side)).tobytes())).view(side, side, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(list(values)).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    first_patch = seen.pixel_values[0].view(3, 2, 14, 14)[:, 0]
    assert (seen.width, seen.height) == (side, side)
    torch.testing.assert_close(first_patch, ((raw - mean) / std)[:, :14, :14], atol=1e-5, rtol=0)


def test_a_prompt_is_what_the_processor_makes_of_it(
    student: Student, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(student, "kept_features", None)
    path = picture(140, 84)
    ours = encode_prompts(student, [Prompt("Which?", path)])
    text = student.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}],
        add_generation_prompt=True,
    )
    theirs = student.processor(images=[Image.open(path)], text=[text], return_tensors="pt")
    assert ours.keys() == theirs.keys()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key])


def test_prompts_are_padded_on_the_left(student: Student, picture: Picture) -> None:
    batch = encode_prompts(student, [Prompt("Which distortion?", picture(84, 56)), Prompt("B", picture(56, 56))])
    lengths = batch["attention_mask"].sum(1)
    assert lengths[0] > lengths[1]
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["image_grid_thw"].tolist() == [[1, 4, 6], [1, 4, 4]]
    assert batch["mm_token_type_ids"].sum(1).tolist() == [6, 4]
    assert (batch["mm_token_type_ids"].bool() == (batch["input_ids"] == student.processor.image_token_id)).all()


def test_labels_are_the_assistants_text(student: Student, picture: Picture) -> None:
    rows = [
        dialogue(picture(56, 56), response="<think></think><answer>1. B\n2. C</answer>"),
        dialogue(picture(112, 84), prompt="Q", response="é\n"),
    ]
    batch = encode_dialogues(student, rows, max_tokens=500)
    for row, labels, mask in zip(rows, batch["labels"], batch["attention_mask"], strict=True):
        labelled = labels != NO_LABEL
        assert student.tokenizer.decode(labels[labelled]) == row["response"] + END_OF_TURN
        ends = labelled.nonzero()[:, 0]
        assert ends.tolist() == list(range(int(ends[0]), int(mask.sum()))), "one stretch, up to the sequence's end"
        before = student.tokenizer.decode(
            batch["input_ids"][0][: int((batch["labels"][0] != NO_LABEL).nonzero()[0, 0])]
        )
        assert before.endswith("<|im_start|>assistant\n")


def test_boxes_are_pixels_of_the_resized_picture(student: Student, picture: Picture) -> None:
    answer = "<think></think><answer><|box_start|>(250,500),(1000,1000)<|box_end|></answer>"
    batch = encode_dialogues(student, [dialogue(picture(300, 450), response=answer)], max_tokens=500)
    height, width = (int(patches) * 14 for patches in batch["image_grid_thw"][0, 1:])
    text = student.tokenizer.decode(batch["input_ids"][0])
    assert (width, height) != (300, 450)
    assert width * height <= 224 * 224
    assert f"<|box_start|>(0,0),({width // 2},{height})<|box_end|>?" in text
    assert f"<|box_start|>({width // 4},{height // 2}),({width},{height})<|box_end|></answer>" in text


def test_a_dialogue_too_long_is_refused_whole(student: Student, picture: Picture) -> None:
    row = dialogue(picture(56, 56))
    length = encode_dialogues(student, [row], max_tokens=500)["input_ids"].shape[1]
    assert encode_dialogues(student, [row], max_tokens=length)["input_ids"].shape[1] == length
    with pytest.raises(TooLong, match=f"dialogue d1: {length} tokens"):
        encode_dialogues(student, [row], max_tokens=length - 1)


def test_a_text_with_a_pictures_placeholder_is_refused(student: Student, picture: Picture) -> None:
    with pytest.raises(ValueError, match=r"holds <\|image_pad\|>"):
        encode_prompts(student, [Prompt("<|image_pad|>", picture(56, 56))])


def test_what_is_no_picture_is_named(student: Student, tmp_path: Any) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png: no picture"):
        encode_prompts(student, [Prompt("Which?", str(tmp_path / "broken.png"))])


def test_pictures_are_kept_up_to_a_limit(student: Student, picture: Picture) -> None:
    from tasks.student.pictures import Pictures

    one = Pictures(student.processor.image_processor, kept_bytes=0, recent_bytes=2 * 64 * 1176 * 4)
    paths = [picture(112, 112), picture(112, 140), picture(140, 112)]
    first = one.of(paths[0])
    assert one.of(paths[0]) is first
    for path in paths[1:]:
        one.of(path)
    assert one.of(paths[0]) is not first, "the least recently used leaves"
