"""Metrics beside the rewards, over the same readers.

challenge: the six MIPI metrics, their sum, opinion-score correlation, choice accuracy; documents: the official files;
official: what the official scorer reads of them; intervals: the bootstrap over photographs; constant: the best blind
answers; correlation and video: further metrics.
"""

from tasks.rewards.metrics.challenge import SIX, mipi, score_submission
from tasks.rewards.metrics.constant import Constant, best_constant
from tasks.rewards.metrics.correlation import correlations
from tasks.rewards.metrics.intervals import bootstrap

__all__ = ["SIX", "Constant", "best_constant", "bootstrap", "correlations", "mipi", "score_submission"]
