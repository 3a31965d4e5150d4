"""The sources that a config can name, by its ``kind``."""

from __future__ import annotations

from pipeline_config.schema import DegradeSource, IngestConfig, TableSource, VidaSource
from tasks.ingest.sources.protocol import Source


def open_sources(config: IngestConfig, seed: int) -> list[Source]:
    """One reader per configured source, in the config's order; nothing is read yet."""
    sources: list[Source] = []
    for number, source in enumerate(config.sources):
        if isinstance(source, VidaSource):
            from tasks.ingest.sources.vida import VidaFolder

            sources.append(VidaFolder(source))
        elif isinstance(source, TableSource):
            from tasks.ingest.sources.table import ScoreTable

            sources.append(ScoreTable(source))
        else:
            assert isinstance(source, DegradeSource)
            from tasks.ingest.sources.degrade import DegradedPhotographs

            sources.append(DegradedPhotographs(source, seed=(seed, number)))
    return sources
