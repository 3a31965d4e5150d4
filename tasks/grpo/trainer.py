"""GRPO on top of transformers' Trainer: what it adds is rollouts, rewards, advantages and the loss.

Loop, optimizer, schedule, DeepSpeed, checkpoint, resume and precision are the Trainer's. One GRPO step draws prompts,
samples G completions of each with the present policy, scores them, and updates the policy ``inner_updates`` times on
them. A Trainer step is one such update; its micro-batches are slices of the step's completions.

Departs from the paper (DeepSeekMath, Video-R1): clip-higher and no KL by default; dropout is off, so the ratio of the
first update is exactly 1 and its log-probs serve as the old ones of the updates that follow.
"""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.grpo.advantage import group_advantages, has_zero_variance
from tasks.grpo.figures import Figures, rollout_figures
from tasks.grpo.forward import Completions, pad_completions, training_forward
from tasks.grpo.objective import clipped_loss, normaliser
from tasks.grpo.reference import Reference
from tasks.grpo.rollouts import rollout_id, write_part
from tasks.grpo.sampler import ShuffledSampler
from tasks.grpo.scores import score_rollouts
from tasks.rewards.score import Score
from tasks.student.encode import Prompt, encode_prompts
from tasks.student.generate import Completion, banned_token_ids, generate
from tasks.student.trainer import StudentTrainer
from tasks.student.vision import KeptFeatures
from tasks.student.zero import whole_weights

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student


@dataclass
class StepBatch:
    """One step's rollouts on this rank, as its updates need them. divisor: of the loss of all micro-batches."""

    prompts: Mapping[str, Any]
    completions: Completions
    advantages: Tensor
    divisor: float
    old_logprobs: list[Tensor]  # per micro-batch, kept by the first update


class GrpoTrainer(StudentTrainer):
    """Trains ``student`` on ``dialogues`` in place; its `state.log_history` holds one entry of figures per step.

    dialogues: rows of the DIALOGUES table by id, those that ``sampler`` draws. folder: rollouts are written to
    ``folder/rollouts``. stage_run: part of the rollouts' ids.
    """

    loss_is_scaled_for_ga = True  # the divisor spans all micro-batches of an update

    def __init__(
        self,
        student: Student,
        dialogues: Mapping[str, Mapping[str, Any]],
        sampler: ShuffledSampler,
        config: PipelineConfig,
        args: TrainingArguments,
        *,
        folder: Path,
        stage_run: str,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.grpo, self.rewards = config.grpo, config.rewards
        self.sampling_batch = config.mine.batch_size
        self.dialogues, self.prompt_sampler = dialogues, sampler
        self.rollout_folder, self.stage_run = folder / "rollouts", stage_run
        self.train_vision = any(p.requires_grad for name, p in student.model.named_parameters() if "visual." in name)
        self.reference = Reference(student.model) if config.grpo.beta else None
        self.forward_logprobs = training_forward(config)
        if self.grpo.share_prompt and not self.train_vision:
            student.features = KeptFeatures(student)
        self.banned_ids = torch.tensor(banned_token_ids(student))
        self.figures = Figures()
        self._batch: StepBatch | None = None
        self._micro = 0
        disable_dropout(student.model)
        num_micros = micro_batches(config, sampler.num_prompts, args.world_size)
        assert args.gradient_accumulation_steps == num_micros, "an update is one pass over its step's completions"
        slots = _Slots(config.grpo.steps * config.grpo.inner_updates * num_micros * args.world_size)
        super().__init__(student, config.grpo.optimiser, args=args, train_dataset=slots, callbacks=list(callbacks))

    # ------------------------------------------------------------------------------------------------ the Trainer's
    def checkpoint_state(self) -> dict[str, Any]:
        """The sampler's state, which goes into each checkpoint."""
        return self.prompt_sampler.state_dict()

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
        size = self.grpo.batch_size
        rows = slice(self._micro * size, (self._micro + 1) * size)
        loss = self._micro_loss(model, self._batch, rows, first_update=update == 0)
        self._micro = (self._micro + 1) % self.args.gradient_accumulation_steps
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures gathered since the last entry, averaged over ranks."""
        logs.update(self.figures.drain(self.accelerator))
        super().log(logs, start_time)

    # -------------------------------------------------------------------------------------------------------- ours
    def _roll_out(self, step: int) -> StepBatch:
        """Sample, score and record this rank's share of a step."""
        rank, world = self.args.process_index, self.args.world_size
        dialogues = [self.dialogues[i] for i in self.prompt_sampler.draw()[rank::world]]
        prompts = [Prompt(text=row["prompt"], media_path=row["media_path"]) for row in dialogues]
        completions = generate(
            self.student,
            prompts,
            num_rollouts=self.grpo.num_rollouts,
            temperature=self.grpo.temperature,
            top_p=self.grpo.top_p,
            max_new_tokens=self.grpo.max_new_tokens,
            batch_size=self.sampling_batch,
            seed=derive_seed(self.args.seed, step, rank),
        )
        scores = score_rollouts(dialogues, completions, self.rewards)
        rewards = np.array([[s.total for s in group] for group in scores])
        advantages = group_advantages(rewards, scale_by_std=self.grpo.scale_by_std)
        self.figures.add(rollout_figures(completions, scores, rewards, has_zero_variance(rewards)))
        write_part(self.rollout_folder, step, rank, self._rows(step, dialogues, completions, scores, advantages))
        return self._step_batch(prompts, completions, advantages)

    def _step_batch(
        self, prompts: Sequence[Prompt], completions: list[list[Completion]], advantages: np.ndarray
    ) -> StepBatch:
        padding = self.student.tokenizer.pad_token_id
        sampled = pad_completions([[c.token_ids for c in group] for group in completions], padding, self.args.device)
        divisor = torch.tensor(
            normaliser(sampled.mask_BC, self.grpo.loss_per, self.grpo.max_new_tokens), device=self.args.device
        )
        encoded: dict[str, Any] = dict(encode_prompts(self.student, prompts))
        if self.student.features is not None:
            encoded["image_features"] = self.student.features.of([prompt.media_path for prompt in prompts])
        return StepBatch(
            prompts=encoded,
            completions=sampled,
            advantages=torch.tensor(advantages.reshape(-1), dtype=torch.float32, device=self.args.device),
            # Gradients are averaged over ranks, so each divides by the mean of what the ranks hold.
            divisor=float(self.accelerator.reduce(divisor, reduction="mean")),
            old_logprobs=[],
        )

    def _micro_loss(self, model: nn.Module, batch: StepBatch, rows: slice, *, first_update: bool) -> Tensor:
        completions = batch.completions.rows(rows)
        reference_logprobs = None
        if self.reference is not None:
            with self.reference.in_place():
                reference_logprobs, _ = self._logprobs(model, batch, completions)
        logprobs, entropies = self._logprobs(model, batch, completions)
        if first_update:
            batch.old_logprobs.append(logprobs.detach())
        loss, sums = clipped_loss(
            logprobs,
            batch.old_logprobs[self._micro],
            batch.advantages[rows],
            completions.mask_BC,
            clip_low=self.grpo.clip_low,
            clip_high=self.grpo.clip_high,
            beta=self.grpo.beta,
            reference_logprobs_BC=reference_logprobs,
            loss_per=self.grpo.loss_per,
            divisor=batch.divisor,
        )
        if not loss.isfinite():
            raise ValueError(
                f"grpo: the loss is {float(loss.detach())} after {self.state.global_step} updates; "
                "lower grpo.optimiser.lr or grpo.optimiser.max_grad_norm"
            )
        sums["entropy"] = (entropies * completions.mask_BC).sum()
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
                "num_tokens": len(completion.token_ids),
                "truncated": completion.truncated,
            }
            for p, row in enumerate(dialogues)
            for g, completion in enumerate(completions[p])
        ]


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
    if num_prompts % world_size:
        raise ConfigError(
            f"grpo.prompts_per_step: {num_prompts} prompts cannot be shared by {world_size} devices; "
            f"take a multiple of {world_size}"
        )
    return math.ceil(num_prompts // world_size * config.grpo.num_rollouts / config.grpo.batch_size)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout's probability to 0: the policy that is trained is the one that sampled."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def derive_seed(seed: int, *stream: int) -> int:
    """An independent 32-bit seed per stream (step, rank, ...)."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0])
