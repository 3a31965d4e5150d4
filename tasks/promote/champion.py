"""The present champion as an input of evaluation: the registry says which it is, the checkpoint inside it is a ref."""

from __future__ import annotations

from data_contracts.refs import Ref
from pipeline_config.home import home
from pipeline_config.schema import PipelineConfig
from tasks.promote.registry import CHAMPION, Registry, Version
from tasks.tracking.runs import DATABASE, Tracking


def present_champion(config: PipelineConfig, challenger: Ref) -> Ref | None:
    """What `challenger` has to be measured against besides the base, None if there is nothing.

    That is the version with the alias ``champion``; where the challenger itself is the champion already, it is the one
    it was measured against when it became that, so that the same run again finds its evaluation in the cache. MLflow is
    imported only where a store exists. Raises ConfigError if the champion's checkpoint is gone.
    """
    folder = home()
    if config.tracking.uri is None and not (folder / DATABASE).exists():
        return None
    registry = Registry(Tracking(folder, config.tracking), config.promote.registered_model)
    champion: Version | None = registry.aliased(CHAMPION)
    if champion is not None and champion.digest == challenger.digest:
        champion = registry.version_of(champion.against) if champion.against else None
    return registry.checkpoint(champion, folder / "champions" / champion.digest) if champion else None
