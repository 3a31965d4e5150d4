"""Metrics beside the rewards, over the same readers.

mipi: the six MIPI metrics, their sum, opinion-score correlation, choice accuracy; bootstrap: intervals over photographs;
constant: the best blind answers; average_precision and correlation: the arithmetic.
"""

from tasks.rewards.metrics.bootstrap import bootstrap
from tasks.rewards.metrics.constant import Constant, best_constant
from tasks.rewards.metrics.correlation import correlations
from tasks.rewards.metrics.mipi import SIX, mipi

__all__ = ["SIX", "Constant", "best_constant", "bootstrap", "correlations", "mipi"]
