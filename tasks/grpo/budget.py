"""How many rollouts a run has made, and how far it is where they can end it before its steps do. Pure; ours."""

from __future__ import annotations


class RolloutBudget:
    """Counts the rollouts of a run over all ranks: ``spent`` so far."""

    def __init__(self, most: int | None, updates_per_step: int) -> None:
        """most: the run ends with the step that reaches as many; None = never. updates_per_step: of the policy, on one
        step's rollouts."""
        self.most, self._updates_per_step = most, updates_per_step
        self.go_on_from(0)

    def go_on_from(self, spent: int) -> None:
        """At the start or the end of a step."""
        self.spent = self._before = spent

    @property
    def is_spent(self) -> bool:
        return self.most is not None and self.spent >= self.most

    def add(self, num_rollouts: int) -> None:
        """A step has made so many, and its updates follow."""
        self._before = self.spent
        self.spent += num_rollouts

    def position(self, update: int, num_updates: int) -> float:
        """Where a schedule over ``num_updates`` stands when ``update`` of them are done.

        At the larger share, of the updates or of the rollouts, so that it reaches its end whichever ends the run. The
        rollouts of a step count as its updates are made: of steps that are equally large, each update is as far from
        the next as in a run of so many steps.
        """
        if self.most is None:
            return update
        done = update % self._updates_per_step / self._updates_per_step or 1.0
        spent = self._before + done * (self.spent - self._before)
        return max(update, num_updates * min(1.0, spent / self.most))
