"""The gate: every threshold must hold, on the mean and on the lower end, and each refusal says which did not."""

from __future__ import annotations

import pytest

from pipeline_config.schema import ConfigError, PromoteConfig
from tasks.promote.gate import decide

GAINS = {
    "composite": {"mean": 0.30, "low": 0.05, "high": 0.55},
    "perception_accuracy": {"mean": -0.02, "low": -0.06, "high": 0.02},
}


@pytest.mark.parametrize(
    ("min_gain", "min_low", "promoted"),
    [
        ({"composite": 0.0}, {}, True),
        ({"composite": 0.30}, {}, True),  # just reached
        ({"composite": 0.31}, {}, False),
        ({"composite": 0.0}, {"composite": 0.0}, True),
        ({"composite": 0.0}, {"composite": 0.1}, False),
        ({"composite": 0.0, "perception_accuracy": 0.0}, {}, False),
        ({"composite": 0.0, "perception_accuracy": -0.05}, {}, True),
        ({}, {}, True),
    ],
)
def test_all_thresholds_must_hold(min_gain: dict[str, float], min_low: dict[str, float], promoted: bool) -> None:
    assert decide(GAINS, PromoteConfig(min_gain=min_gain, min_low=min_low)).promote is promoted


def test_a_refusal_names_what_failed_and_only_that() -> None:
    decision = decide(GAINS, PromoteConfig(min_gain={"composite": 0.0, "perception_accuracy": 0.01}))
    assert decision.reasons == ("perception_accuracy: gain -0.0200 is below +0.0100",)


def test_a_promotion_says_what_held() -> None:
    decision = decide(GAINS, PromoteConfig(min_gain={"composite": 0.2}, min_low={"composite": 0.0}))
    assert decision.reasons == (
        "composite: gain +0.3000 is at least +0.2000",
        "composite: lower end of the gain +0.0500 is at least +0.0000",
    )


def test_a_threshold_for_no_metric_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match=r"promote\.min_low: no metric 'compsite' was measured; there are composite"):
        decide(GAINS, PromoteConfig(min_low={"compsite": 0.0}))
