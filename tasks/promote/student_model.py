"""The registered student as MLflow serves it: a models-from-code pyfunc around `tasks.student`.

    model = mlflow.pyfunc.load_model("models:/discern-student@champion")
    model.predict(pandas.DataFrame({"image": ["photo.png"], "question": ["Please describe the image quality."]}))

``image`` is a path, or a PNG or JPEG in base64 (a data URI too). The answer is what stands in the student's answer
block, or all it said where there is none. Boxes are 0..1000. Params: ``reasoning`` (the whole turn instead),
``max_new_tokens``, ``batch_size``.
"""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

PARAMS: dict[str, Any] = {"reasoning": False, "max_new_tokens": 256, "batch_size": 16}
MAX_MEGAPIXELS = 64.0
MAX_PATH_CHARACTERS = 4096


class StudentModel(PythonModel):
    """Loads the checkpoint artifact once; answers greedily."""

    def load_context(self, context: Any) -> None:
        """Load the student named by the artifact ``checkpoint`` as the model's configuration says."""
        from pipeline_config.schema import StudentConfig
        from tasks.student.checkpoint import load_student

        # Served pictures are strangers': nothing of them stays on disk.
        settings = StudentConfig(**{**context.model_config["student"], "features_gigabytes": 0})
        self.student = load_student(context.artifacts["checkpoint"], settings)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Answers, in the order of the rows. Raises ValueError naming the row whose image cannot be read."""
        from tasks.rewards.answers.turn import read_turn
        from tasks.student.encode import Prompt
        from tasks.student.generate import generate

        params = {**PARAMS, **(params or {})}
        with tempfile.TemporaryDirectory() as folder:
            prompts = [
                Prompt(text=str(question), media_path=picture_path(str(image), row, Path(folder)))
                for row, (image, question) in enumerate(zip(model_input["image"], model_input["question"], strict=True))
            ]
            completions = generate(
                self.student,
                prompts,
                temperature=0.0,
                max_new_tokens=int(params["max_new_tokens"]),
                batch_size=int(params["batch_size"]),
                seed=0,
            )
        turns = [completion.text for (completion,) in completions]
        if params["reasoning"]:
            return turns
        return [turn.answer if turn.answer is not None else turn.text for turn in map(read_turn, turns)]


def picture_path(image: str, row: int, folder: Path) -> str:
    """Path of the picture that a row names or holds; what it holds is written to `folder`."""
    from PIL import Image

    data: Any = Path(image)
    if len(image) > MAX_PATH_CHARACTERS or not data.is_file():
        try:
            data = io.BytesIO(
                base64.b64decode(image.partition(",")[2] if image[:5] == "data:" else image, validate=True)
            )
        except binascii.Error as error:
            raise ValueError(f"row {row}: image {image[:60]!r} is neither a file here nor base64") from error
    try:
        with Image.open(data) as picture:
            if picture.width * picture.height > MAX_MEGAPIXELS * 1e6:
                raise ValueError(f"row {row}: the image has more than {MAX_MEGAPIXELS:g} megapixels")
            if isinstance(data, Path):
                return str(data)
            path = folder / f"{row}.png"
            picture.convert("RGB").save(path)
            return str(path)
    except OSError as error:
        raise ValueError(f"row {row}: image {image[:60]!r} cannot be read as a picture") from error


mlflow.models.set_model(StudentModel())
