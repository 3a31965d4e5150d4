"""The data stages alone: media and annotations to training dialogues; no student is loaded.

python -m flows.build_dataset --config demo
"""

from __future__ import annotations

from typing import Any

from flows.run import main, open_run, pipeline_flow
from tasks.annotate.task import annotate
from tasks.compress.task import compress
from tasks.ingest.task import ingest


@pipeline_flow("build-dataset")
def build_dataset(config: str = "demo", overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ingest, annotate and compress; parameters and result as of ``full_pipeline``."""
    with open_run("build-dataset", config, overrides) as pipeline:
        run, settings = pipeline.run, pipeline.config
        samples = ingest(run, settings)
        annotations = annotate(run, settings, samples)
        dialogues = compress(run, settings, annotations)
        return pipeline.close(ingest=samples, annotate=annotations, compress=dialogues)


if __name__ == "__main__":
    main(build_dataset)
