"""Whether a challenger may become champion: thresholds on its paired differences. Pure, ours.

A metric passes on the mean (``promote.min_gain``) and, where the configuration says so, on the lower end of the 95 %
interval (``promote.min_low``). All of them must pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline_config.schema import ConfigError, PromoteConfig

Differences = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Decision:
    """promote: every threshold held. reasons: one line per threshold, kept or not, for people."""

    promote: bool
    reasons: tuple[str, ...]


def decide(differences: Differences, thresholds: PromoteConfig) -> Decision:
    """Hold the thresholds against the differences challenger - champion (with no champion: - base).

    differences: metric -> {"mean", "low", "high"}. Raises ConfigError if a threshold names a metric that was not
    measured.
    """
    verdicts: list[tuple[bool, str]] = []
    for section, key, what in (("min_gain", "mean", "gain"), ("min_low", "low", "lower end of the gain")):
        for metric, least in sorted(getattr(thresholds, section).items()):
            if metric not in differences:
                raise ConfigError(
                    f"promote.{section}: no metric {metric!r} was measured; there are {', '.join(sorted(differences))}"
                )
            value = differences[metric][key]
            relation = "is at least" if value >= least else "is below"
            verdicts.append((value >= least, f"{metric}: {what} {value:+.4f} {relation} {least:+.4f}"))
    if not verdicts:
        return Decision(True, ("no threshold is configured",))
    refused = tuple(reason for held, reason in verdicts if not held)
    return Decision(not refused, refused or tuple(reason for _, reason in verdicts))
