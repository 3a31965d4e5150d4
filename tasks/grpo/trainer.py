"""GRPO on top of transformers' Trainer: what it adds is rollouts, rewards, advantages and the loss.

Loop, optimizer, schedule, DeepSpeed, checkpoint, resume and precision are the Trainer's. One GRPO step draws prompts,
samples G completions of each with the present policy, scores them, keeps the groups with most to learn from, and
updates the policy ``inner_updates`` times on them. A Trainer step is one such update. Its micro-batches are whole
groups, so each prompt is computed once, and of a group only the completions that have a part in the loss: an advantage
of 0 without a KL has no gradient.

Departs from the paper (DeepSeekMath, Video-R1): clip-higher and no KL by default; dropout is off, so the ratio of the
first update is exactly 1 and its log-probs serve as the old ones of the updates that follow.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.grpo.advantage import group_advantages, has_zero_variance
from tasks.grpo.budget import RolloutBudget
from tasks.grpo.expansion import Expansion, balanced_groups
from tasks.grpo.figures import Figures, rollout_figures
from tasks.grpo.forward import Completions, pad_completions, training_forward
from tasks.grpo.guard import SpikeGuard
from tasks.grpo.objective import clipped_loss, normaliser
from tasks.grpo.reference import Reference
from tasks.grpo.rollouts import rollout_id, write_part
from tasks.grpo.sampler import PromptSampler
from tasks.grpo.scores import score_rollouts
from tasks.rewards.score import Score
from tasks.student.encode import Prompt, encode_prompts
from tasks.student.generate import Completion, banned_token_ids, generate
from tasks.student.startable import share_refusals
from tasks.student.trainer import StudentTrainer
from tasks.student.vision import StepFeatures
from tasks.student.zero import guard_updates, whole_weights

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student


@dataclass
class StepBatch:
    """What this rank trains on of one step's rollouts. divisor: of the loss of all micro-batches."""

    prompts: Mapping[str, Any]
    completions: Completions
    advantages: Tensor
    divisor: float
    old_logprobs: list[Tensor]  # per micro-batch, kept by the first update


class GrpoTrainer(StudentTrainer):
    """Trains ``student`` on ``dialogues`` in place; its `state.log_history` holds one entry of figures per step.

    dialogues: rows of the DIALOGUES table by id, those that ``sampler`` draws. num_prompts: trained on per step, over
    all ranks. folder: rollouts are written to ``folder/rollouts``. stage_run: part of the rollouts' ids.
    """

    loss_is_scaled_for_ga = True  # the divisor spans all micro-batches of an update

    def __init__(
        self,
        student: Student,
        dialogues: Mapping[str, Mapping[str, Any]],
        sampler: PromptSampler,
        config: PipelineConfig,
        args: TrainingArguments,
        *,
        num_prompts: int,
        folder: Path,
        stage_run: str,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.config, self.grpo = config, config.grpo
        self.dialogues, self.prompt_sampler, self.num_prompts = dialogues, sampler, num_prompts
        self.expansion = Expansion(config.grpo.sampling.max_expansion)
        self.guard = SpikeGuard(config.grpo.spike_factor)
        self.rollout_budget = RolloutBudget(config.grpo.max_rollouts, config.grpo.inner_updates)
        self.rollout_folder, self.stage_run = folder / "rollouts", stage_run
        self.train_vision = any(p.requires_grad for name, p in student.model.named_parameters() if "visual." in name)
        self.reference = Reference(student.model) if config.grpo.beta else None
        # A step of one forward with the rollouts' weights can take over the graph of the rollouts' features.
        self.one_forward = (
            args.gradient_accumulation_steps == self.grpo.inner_updates == 1
            and self.reference is None
            and not self.grpo.deepspeed
        )
        self.forward_logprobs = training_forward(config)
        self.banned_ids = torch.tensor(banned_token_ids(student))
        self.figures = Figures()
        self._batch: StepBatch | None = None
        self._micro = 0
        self._grad_norm = math.nan  # of the last update that was asked for
        disable_dropout(student.model)
        num_micros = micro_batches(config, num_prompts, args.world_size)
        assert args.gradient_accumulation_steps == num_micros, "an update is one pass over its step's completions"
        slots = _Slots(args.max_steps * num_micros * args.world_size)
        super().__init__(student, config.grpo.optimiser, args=args, train_dataset=slots, callbacks=list(callbacks))
        self.add_callback(_EndAfterRollouts(self))
        if self.is_deepspeed_enabled:
            self.add_callback(_GuardEngine(self))

    # ------------------------------------------------------------------------------------------------ the Trainer's
    def checkpoint_state(self) -> dict[str, Any]:
        """What later steps depend on beside the Trainer's own state. A checkpoint ends a step: no rollouts wait."""
        return {
            "sampler": self.prompt_sampler.state_dict(),
            "expansion": self.expansion.state_dict(),
            "guard": self.guard.state_dict(),
            "num_rollouts": self.rollout_budget.spent,
        }

    def load_checkpoint_state(self, state: Mapping[str, Any]) -> None:
        """Go on after a checkpoint with this state."""
        self.prompt_sampler.load_state_dict(state["sampler"])
        self.expansion.load_state_dict(state["expansion"])
        self.guard.load_state_dict(state["guard"])
        self.rollout_budget.go_on_from(int(state["num_rollouts"]))

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The Trainer's, but where it stands follows the rollouts too (`RolloutBudget.position`)."""
        is_new = self.lr_scheduler is None
        schedule: Any = super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            budget = self.rollout_budget  # DeepSpeed's integration makes the schedule of a copy of this trainer
            schedule.lr_lambdas = [
                lambda update, rate=rate: rate(budget.position(update, num_training_steps))
                for rate in schedule.lr_lambdas
            ]
        return schedule

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Loss of the next micro-batch. ``inputs`` are empty slots: the data are this policy's own rollouts."""
        step, update = divmod(self.state.global_step, self.grpo.inner_updates)
        if update == 0 and self._micro == 0:
            with whole_weights(self.student.model, self.deepspeed):
                self._batch = self._roll_out(step + 1)
        assert self._batch is not None, "an update follows its step's rollouts"
        num_micros = self.args.gradient_accumulation_steps
        rows = whole_groups(self._batch.completions.prompt_B, self._micro, num_micros)
        loss = self._micro_loss(model, self._batch, rows, first_update=update == 0)
        self._micro = (self._micro + 1) % num_micros
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The Trainer's; an update that the guard does not admit loses its gradients, and so changes nothing."""
        if self.is_deepspeed_enabled:  # whose engine has made the update by then, and asked before (`_GuardEngine`)
            return self._grad_norm
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.admits(float(grad_norm)):
            model.zero_grad(set_to_none=True)
        return grad_norm

    def admits(self, grad_norm: float) -> bool:
        """Whether to make an update with a gradient of this norm, over all ranks: asked once an update, on each."""
        self._grad_norm = grad_norm
        admitted = self.guard.admits(grad_norm)
        self.figures.add({"skipped_updates": (float(not admitted), 1.0)})
        return admitted

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures gathered since the last entry, averaged over ranks, and the number of rollouts so far."""
        logs.update(self.figures.drain(self.accelerator))
        if "reward" in logs:
            logs["num_rollouts"] = self.rollout_budget.spent
        super().log(logs, start_time)

    # -------------------------------------------------------------------------------------------------------- ours
    def _roll_out(self, step: int) -> StepBatch:
        """Sample, score and record this rank's share of a step, and keep the groups to train on."""
        rank, world = self.args.process_index, self.args.world_size
        num_drawn = self.expansion.num_to_draw(self.num_prompts, multiple_of=world)
        drawn = self.prompt_sampler.draw(min(num_drawn, len(self.dialogues) // world * world))
        dialogues = [self.dialogues[i] for i in drawn[rank::world]]
        prompts = [Prompt(text=row["prompt"], media_path=row["media_path"]) for row in dialogues]
        with self._pictures_once(prompts):
            with self.accelerator.autocast():
                completions = generate(
                    self.student,
                    prompts,
                    num_rollouts=self.grpo.num_rollouts,
                    temperature=self.grpo.temperature,
                    top_p=self.grpo.top_p,
                    max_new_tokens=self.grpo.max_new_tokens,
                    max_think_tokens=self.grpo.max_think_tokens,
                    batch_size=self.config.mine.batch_size,
                    seed=derive_seed(self.args.seed, step, rank),
                )
            scores = score_rollouts(dialogues, completions, self.config)
            rewards = np.array([[s.total for s in group] for group in scores])
            advantages = group_advantages(rewards, scale_by_std=self.grpo.scale_by_std)
            kept = balanced_groups(rewards, self.num_prompts // world)
            batch, trained = self._step_batch(
                [prompts[i] for i in kept], [completions[i] for i in kept], advantages[kept]
            )
        equal = has_zero_variance(rewards)
        self.figures.add(rollout_figures(completions, scores, rewards, equal, self.config.mine.right_above))
        part_in_loss = np.zeros_like(rewards, dtype=bool)
        part_in_loss[kept] = trained
        rows = self._rows(step, dialogues, completions, scores, advantages, part_in_loss)
        write_part(self.rollout_folder, step, rank, rows)
        self._note_outcomes(dialogues, scores, equal)
        return batch

    @contextlib.contextmanager
    def _pictures_once(self, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Inside, sampling and the batch that is made share one computation per picture, of a tower that trains too."""
        if self.one_forward and self.student.features is None:
            with self.accelerator.autocast():
                self.student.step_features = StepFeatures(self.student, [prompt.media_path for prompt in prompts])
        try:
            yield
        finally:
            self.student.step_features = None

    def _note_outcomes(
        self, dialogues: Sequence[Mapping[str, Any]], scores: list[list[Score]], equal: np.ndarray
    ) -> None:
        """Tell sampler and expansion how a step's rollouts went: on every rank those of all ranks."""
        self.figures.add({name: (value, 1.0) for name, value in self.prompt_sampler.figures().items()})
        self.figures.add({"expansion": (self.expansion.factor, 1.0)})
        outcomes = [
            (row["dialogue_id"], [s.accuracy for s in group], bool(same))
            for row, group, same in zip(dialogues, scores, equal, strict=True)
        ]
        if self.args.world_size > 1:
            outcomes = gather_object(outcomes)
        self.prompt_sampler.update({dialogue_id: accuracies for dialogue_id, accuracies, _ in outcomes})
        self.expansion.update(len(outcomes), sum(same for _, _, same in outcomes))
        self.rollout_budget.add(sum(len(accuracies) for _, accuracies, _ in outcomes))

    def _step_batch(
        self, prompts: Sequence[Prompt], completions: list[list[Completion]], advantages: np.ndarray
    ) -> tuple[StepBatch, np.ndarray]:
        """The batch of the kept groups, and which (prompt, rollout) have a part in the loss."""
        padding = self.student.tokenizer.pad_token_id
        sampled = pad_completions(completions, padding, self.args.device, mask_truncated=self.grpo.overlong.mask)
        divisor = torch.tensor(
            normaliser(sampled.in_loss_BC, self.grpo.loss_per, self.grpo.max_new_tokens), device=self.args.device
        )
        advantages_B = torch.tensor(advantages.reshape(-1), dtype=torch.float32, device=self.args.device)
        in_loss_B = sampled.in_loss_BC.any(-1) & ((advantages_B != 0) | bool(self.grpo.beta))
        # Every rank makes as many forward passes: an empty micro-batch is filled with a row that adds nothing.
        groups_PG = in_loss_B.view(len(prompts), -1)
        fillers = groups_PG.any(-1).logical_not().nonzero()[:, 0] * groups_PG.shape[1]
        num_missing = max(0, self.args.gradient_accumulation_steps - int(groups_PG.any(-1).sum()))
        rows = torch.cat([in_loss_B.nonzero()[:, 0], fillers[:num_missing]]).sort().values
        batch = StepBatch(
            prompts=dict(encode_prompts(self.student, prompts)),
            completions=sampled.rows(rows),
            advantages=advantages_B[rows],
            # Gradients are averaged over ranks, so each divides by the mean of what the ranks hold.
            divisor=float(self.accelerator.reduce(divisor, reduction="mean")),
            old_logprobs=[],
        )
        return batch, groups_PG.cpu().numpy()

    def _micro_loss(self, model: nn.Module, batch: StepBatch, rows: slice, *, first_update: bool) -> Tensor:
        completions = batch.completions.rows(rows)
        reference_logprobs = None
        if self.reference is not None:
            with self.reference.in_place():
                reference_logprobs, _ = self._logprobs(model, batch, completions)
        logprobs, entropies = self._logprobs(model, batch, completions)
        in_loss_BC = completions.in_loss_BC
        if first_update:
            batch.old_logprobs.append(logprobs.detach())
            gaps = (logprobs.detach() - completions.sampled_logprobs_BC)[in_loss_BC.bool()].abs()
            self.figures.add({"logprob_gap": (float(gaps.sum()), float(len(gaps)))})
        loss, sums = clipped_loss(
            logprobs,
            batch.old_logprobs[self._micro],
            batch.advantages[rows],
            in_loss_BC,
            clip_low=self.grpo.clip_low,
            clip_high=self.grpo.clip_high,
            beta=self.grpo.beta,
            reference_logprobs_BC=reference_logprobs,
            loss_per=self.grpo.loss_per,
            divisor=batch.divisor,
        )
        if not loss.isfinite():
            # The graph stays, since ZeRO-3 gathers weights along it; the gradient of all ranks is no number, and the
            # guard drops it.
            return loss * math.nan
        sums["entropy"] = (entropies * in_loss_BC).sum()
        num_tokens = float(sums.pop("tokens"))
        if self.reference is None:
            del sums["reference_kl"]
        self.figures.add({name: (float(value), num_tokens) for name, value in sums.items()})
        return loss

    def _logprobs(self, model: nn.Module, batch: StepBatch, completions: Completions) -> tuple[Tensor, Tensor]:
        # The model's forward is wrapped for mixed precision, its vision tower, called apart, is not.
        with self.accelerator.autocast():
            return self.forward_logprobs(
                model,
                batch.prompts,
                completions,
                network=self.student.model,
                train_vision=self.train_vision,
                temperature=self.grpo.temperature,
                banned_ids=self.banned_ids.to(self.args.device),
            )

    def _rows(
        self,
        step: int,
        dialogues: Sequence[Mapping[str, Any]],
        completions: list[list[Completion]],
        scores: list[list[Score]],
        advantages: np.ndarray,
        trained: np.ndarray,
    ) -> list[dict[str, Any]]:
        """Rows of the ROLLOUTS table."""
        return [
            {
                "rollout_id": rollout_id(self.stage_run, step, row["dialogue_id"], g),
                "step": step,
                "dialogue_id": row["dialogue_id"],
                "rollout": g,
                "prompt": row["prompt"],
                "completion": completion.text,
                "reward": scores[p][g].total,
                "parts": scores[p][g].parts,
                "advantage": float(advantages[p, g]),
                "trained": bool(trained[p, g]),
                "num_tokens": len(completion.token_ids),
                "truncated": completion.truncated,
            }
            for p, row in enumerate(dialogues)
            for g, completion in enumerate(completions[p])
        ]


class _EndAfterRollouts(TrainerCallback):
    """Ends training with the step that reaches ``grpo.max_rollouts``."""

    def __init__(self, trainer: GrpoTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        ends_step = state.global_step % self._trainer.grpo.inner_updates == 0
        if self._trainer.rollout_budget.is_spent and ends_step:
            control.should_save = control.should_training_stop = True
        return control


class _GuardEngine(TrainerCallback):
    """Puts the trainer's guard into DeepSpeed's engine. The schedule goes by updates, those skipped too."""

    def __init__(self, trainer: GrpoTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        guard_updates(self._trainer.deepspeed, self._trainer.admits)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        schedule = self._trainer.lr_scheduler
        if schedule is not None and self._trainer.accelerator.optimizer_step_was_skipped:
            schedule.step()


class _Slots(torch.utils.data.Dataset[dict[str, int]]):
    """As many empty items as there are micro-batches: the Trainer counts them, the rollouts fill them."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots

    def __len__(self) -> int:
        return self.num_slots

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"slot": index}


def micro_batches(config: PipelineConfig, num_prompts: int, world_size: int) -> int:
    """Micro-batches per update and rank. Raises ConfigError if the ranks cannot share the prompts evenly."""
    for refusal in share_refusals(num_prompts, world_size):
        raise ConfigError(refusal)
    return math.ceil(num_prompts // world_size / config.grpo.batch_size)


def whole_groups(prompt_B: Tensor, micro: int, num_micros: int) -> slice:
    """The rows of a micro-batch: the groups of a batch, in its order, are spread evenly over the micro-batches.

    prompt_B: each row's prompt, ascending; at least ``num_micros`` different ones.
    """
    _, counts = torch.unique_consecutive(prompt_B, return_counts=True)
    starts = [0, *counts.cumsum(0).tolist()]
    return slice(starts[len(counts) * micro // num_micros], starts[len(counts) * (micro + 1) // num_micros])


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout's probability to 0, in modules of its own and in attributes such as attention's: the policy
    that is trained is the one that sampled."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)


def derive_seed(seed: int, *stream: int) -> int:
    """An independent 32-bit seed per stream (step, rank, ...)."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0])
