"""Registers the challenger, holds it against the champion, and moves the alias or says why not.

The decision stands as tags on the version, in the ``alias`` file that the stage publishes and in the lineage.
"""

from __future__ import annotations

import json
from typing import Any

from data_contracts.refs import Ref
from pipeline_config.schema import PipelineConfig
from tasks.promote.gate import Decision, decide
from tasks.promote.registry import AGAINST_TAG, CHALLENGER, CHAMPION, PREVIOUS, Registry, Version

STUDENT = "grpo"  # the challenger's name in the evaluation
MAX_TAG_CHARACTERS = 5000


def promote_student(
    registry: Registry,
    config: PipelineConfig,
    evaluation: Ref,
    scores: Ref,
    student: Ref,
    run_id: str,
    mlflow_run_id: str,
) -> dict[str, Any]:
    """Register `student`, decide by `scores`, move aliases; the same again changes nothing.

    Returns ``model``, ``version``, ``alias``, ``decision`` ("promoted" or "refused"), ``reasons``, ``against``,
    ``student_digest``. Raises ConfigError on a threshold for a metric that was not measured.
    """
    measured = json.loads(scores.path.read_text())
    champion = registry.aliased(CHAMPION)
    version = registry.register(student, config.student, mlflow_run_id, {"run_id": run_id})
    decision = _judge(measured, champion, version, config)
    is_champion = champion is not None and champion.number == version.number
    against = _against(registry, measured["champion_digest"])
    if not is_champion:
        registry.set_alias(CHALLENGER, version)
        registry.set_tags(
            version,
            {
                "decision": "promoted" if decision.promote else "refused",
                "reasons": "; ".join(decision.reasons)[:MAX_TAG_CHARACTERS],
                "against": against,
                AGAINST_TAG: measured["champion_digest"] or "",
                "evaluation_digest": evaluation.digest,
                "scores_digest": scores.digest,
            },
        )
        if decision.promote:
            _crown(registry, version, champion)
    return {
        "model": registry.name,
        "version": version.number,
        "alias": CHAMPION if decision.promote else CHALLENGER,
        "decision": "promoted" if decision.promote else "refused",
        "reasons": list(decision.reasons),
        "against": against,
        "student_digest": student.digest,
    }


def _judge(scores: dict[str, Any], champion: Version | None, version: Version, config: PipelineConfig) -> Decision:
    if champion is not None and champion.number == version.number:
        return Decision(True, (f"version {version.number} is the champion already",))
    evaluated = scores["champion_digest"]
    if (champion.digest if champion else None) != evaluated:
        now = f"version {champion.number}" if champion else "none"
        return Decision(False, (f"the champion changed after the evaluation (now {now}); run the pipeline again",))
    return decide(scores["pairs"][f"{STUDENT} - {'champion' if evaluated else 'base'}"], config.promote)


def _crown(registry: Registry, version: Version, champion: Version | None) -> None:
    """The champion last: cut off before, a retry does it all again; after, it finds all of it done."""
    registry.remove_alias(CHALLENGER)
    if champion is not None:
        registry.set_alias(PREVIOUS, champion)
    registry.set_alias(CHAMPION, version)


def _against(registry: Registry, digest: str | None) -> str:
    if digest is None:
        return "the base"
    known = registry.version_of(digest)
    return f"version {known.number}" if known else f"the champion {digest}"
