"""The students in MLflow's model registry: versions by checkpoint digest, and the aliases that name them.

A version is a models-from-code pyfunc (`tasks/promote/student_model.py`) with the checkpoint and the source it needs
inside, so it loads without this repository. LoRA adapters bring their base along as it is: merged into weights of
bfloat16, much of what they learned would be rounded away. Aliases, never stages: ``challenger`` the last one registered
that was not promoted, ``champion``, ``previous`` the champion before. Everything goes through one client of the run's
own store; MLflow's global state is left alone.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.refs import Ref
from pipeline_config.schema import ConfigError, StudentConfig
from tasks.student.location import adapters_in, base_of, local_folder, packaged_base
from tasks.tracking.runs import Tracking

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
DIGEST_TAG = "student_digest"
CHECKPOINT_TAG = "checkpoint"
ARTIFACTS = "artifacts"  # where MLflow keeps what a pyfunc model loads, within its folder
AGAINST_TAG = "against_digest"  # of the champion a version was judged against; empty: the base
SOURCE = Path(__file__).resolve().parents[2]
# What the served model imports, with what these import in turn; only their Python files travel.
SERVED = ("tasks/__init__.py", "tasks/student", "tasks/rewards", "pipeline_config", "data_contracts")
UNSERVED = ("pretrain", "__pycache__")
LIBRARIES = (
    "accelerate", "cloudpickle", "mlflow", "numpy", "pandas", "peft", "pillow", "pyarrow", "pydantic", "pyyaml",
    "safetensors", "torch", "torchvision", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Version:
    """A registered version. digest: of its checkpoint, which stands at `checkpoint` within the version's artifacts.
    against: digest of the champion it was judged against, if any."""

    number: str
    digest: str
    checkpoint: str
    against: str | None


class Registry:
    """One registered model of one store."""

    def __init__(self, tracking: Tracking, name: str) -> None:
        self.tracking, self.name = tracking, name
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the stage has its own

    @property
    def client(self) -> Any:
        return self.tracking.client

    # ---------------------------------------------------------------------------------------------------------- reading
    def version_of(self, digest: str) -> Version | None:
        """The version that holds this checkpoint; the first if several do."""
        found = self.client.search_model_versions(f"name='{self.name}' and tags.{DIGEST_TAG}='{digest}'")
        return min(map(_version, found), key=lambda version: int(version.number), default=None)

    def aliased(self, alias: str) -> Version | None:
        """The version an alias names, None if there is no such alias or model."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            # The store says INVALID_PARAMETER_VALUE for a missing alias, a server RESOURCE_DOES_NOT_EXIST.
            if "not found" in str(error):
                return None
            raise

    def checkpoint(self, version: Version, folder: Path) -> Ref:
        """The checkpoint inside a version: where it stands on a local store, else downloaded to `folder`.

        Raises ConfigError if it is gone or is not what was registered.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        artifacts, _, name = version.checkpoint.rpartition("/")  # the base of adapters stands there too
        where = f"{self.client.get_model_version_download_uri(self.name, version.number)}/{artifacts}"
        try:
            local = where.startswith(("file:", "/"))
            path = download_artifacts(
                artifact_uri=where, dst_path=None if local else str(folder), tracking_uri=self.tracking.uri
            )
            ref = Ref("student", str(Path(path).absolute() / name), version.digest, 0)
            if ref.holds():
                return ref
        except (OSError, MlflowException):
            pass
        raise ConfigError(
            f"promote: version {version.number} of {self.name}: its checkpoint {where}/{name} is gone or was changed; "
            f"restore it, or move the alias {CHAMPION} to another version"
        )

    # ---------------------------------------------------------------------------------------------------------- writing
    def register(self, student: Ref, settings: StudentConfig, mlflow_run_id: str, tags: Mapping[str, str]) -> Version:
        """The version of this checkpoint: the one there is, else a new one of this MLflow run."""
        known = self.version_of(student.digest)
        if known is not None:
            return known
        self._create_model()
        client = self.client
        with tempfile.TemporaryDirectory() as folder:
            package_student(student.path, settings, Path(folder) / "model")
            experiment = client.get_run(mlflow_run_id).info.experiment_id
            logged = client.create_logged_model(experiment, name="student", source_run_id=mlflow_run_id)
            client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
            client.finalize_logged_model(logged.model_id, "READY")
        created = client.create_model_version(
            self.name,
            source=logged.artifact_location,  # of "models:/<id>" MLflow would ask its global store
            run_id=mlflow_run_id,
            model_id=logged.model_id,
            tags={DIGEST_TAG: student.digest, CHECKPOINT_TAG: f"{ARTIFACTS}/{student.path.name}", **tags},
        )
        return _version(created)

    def set_alias(self, alias: str, version: Version) -> None:
        self.client.set_registered_model_alias(self.name, alias, version.number)

    def remove_alias(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.name, alias)

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.number, key, value)

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(
                self.name, description="Students of the Discern pipeline; `champion` is the one to use."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def package_student(checkpoint: Path, settings: StudentConfig, target: Path) -> None:
    """Write an MLflow model folder around a checkpoint: model code, checkpoint, base of adapters, source it runs on.

    Raises ConfigError if the base is gone.
    """
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    adapters = adapters_in(checkpoint)
    base = local_folder(base_of(adapters)) if adapters else None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        source = copy_source(Path(folder))
        warnings.simplefilter("ignore", UserWarning)  # no example input: answering one would load the student
        save_model(
            str(target),
            python_model=str(Path(__file__).with_name("student_model.py")),
            artifacts={"checkpoint": str(checkpoint)},
            code_paths=[str(path) for path in source],
            model_config={"student": settings.model_dump(mode="json")},
            pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in LIBRARIES],
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, "image"), ColSpec(DataType.string, "question")]),
                outputs=Schema([ColSpec(DataType.string)]),
                params=ParamSchema(
                    [
                        ParamSpec("reasoning", DataType.boolean, False),
                        ParamSpec("max_new_tokens", DataType.integer, 256),
                        ParamSpec("batch_size", DataType.integer, 16),
                    ]
                ),
            ),
        )
    if base:
        # By our own copy: MLflow refuses links that lead out of a folder, such as those of the Hugging Face cache.
        shutil.copytree(base, packaged_base(target / ARTIFACTS / checkpoint.name))


def copy_source(folder: Path) -> list[Path]:
    """Copy the Python files the served model needs; returns the packages' folders."""
    for name in SERVED:
        source = SOURCE / name
        for path in [source] if source.is_file() else source.rglob("*.py"):
            if not set(UNSERVED) & set(path.parts):
                copy = folder / path.relative_to(SOURCE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _version(found: Any) -> Version:
    tags = found.tags
    return Version(
        str(found.version), tags.get(DIGEST_TAG, ""), tags.get(CHECKPOINT_TAG, ""), tags.get(AGAINST_TAG) or None
    )
