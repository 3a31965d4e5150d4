"""GRPO's clipped objective as a pure torch function of log-probs, and the log-probs and entropies it needs.

Shape suffixes: B completions, R rows that hold their logits, C completion tokens, V vocabulary. The loss is a sum
divided by a normaliser that the caller may give for a whole step, so a step cut into micro-batches of any sizes has
exactly the gradient of one batch.

Departs from the paper (DeepSeekMath): the upper bound of the ratio is its own parameter (clip-higher, DAPO), the KL
to a reference is off by default (GLM-4.1V-Thinking, DAPO).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOSS_PER = ("sample", "token", "constant")


def token_logprobs(
    logits_RCV: Tensor,
    token_ids_BC: Tensor,
    temperature: float,
    banned_ids: Tensor | None = None,
    rows_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token under softmax(logits / temperature), and the entropy there (detached). Both (B, C), nats.

    banned_ids: tokens that are never sampled; the distribution is over the others. rows_B: where a completion's logits
    are, no two in one place; None: in the completions' order. Works row by row and keeps for the backward nothing of
    the logits' size but the logits: at a vocabulary of 150k their float32 softmax would be the peak of a step.
    """
    if rows_B is None:
        rows_B = torch.arange(len(token_ids_BC))
    logprobs_BC, entropies_BC = _TokenLogprobs.apply(logits_RCV, token_ids_BC, temperature, banned_ids, rows_B.tolist())
    return logprobs_BC, entropies_BC


class _TokenLogprobs(torch.autograd.Function):
    """`token_logprobs` with its gradient: the chosen token's one-hot vector less the softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_RCV: Tensor,
        token_ids_BC: Tensor,
        temperature: float,
        banned_ids: Tensor | None,
        rows: list[int],
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies, logsumexps = [], [], []
        for row, token_ids_C in zip(rows, token_ids_BC, strict=True):
            scaled_CV = _scaled(logits_RCV[row], temperature, banned_ids)
            chosen_C = scaled_CV.gather(-1, token_ids_C.unsqueeze(-1)).squeeze(-1)
            highest_C = scaled_CV.amax(-1)
            weights_CV = scaled_CV.sub_(highest_C.unsqueeze(-1)).exp_()
            total_C = weights_CV.sum(-1)
            mean_C = torch.linalg.vecdot(weights_CV, logits_RCV[row].float()) / (total_C * temperature)
            logsumexps.append(highest_C + total_C.log())
            logprobs.append(chosen_C - logsumexps[-1])
            entropies.append(logsumexps[-1] - mean_C)
        entropies_BC = torch.stack(entropies)
        ctx.mark_non_differentiable(entropies_BC)
        ctx.save_for_backward(logits_RCV, token_ids_BC, banned_ids, torch.stack(logsumexps))
        ctx.temperature, ctx.rows = temperature, rows
        return torch.stack(logprobs), entropies_BC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits_RCV, token_ids_BC, banned_ids, logsumexps_BC = ctx.saved_tensors
        gradient_RCV = torch.zeros_like(logits_RCV)
        gradient_BC1 = gradients[0].unsqueeze(-1) / ctx.temperature
        for i, row in enumerate(ctx.rows):
            scaled_CV = _scaled(logits_RCV[row], ctx.temperature, banned_ids)
            probabilities_CV = scaled_CV.sub_(logsumexps_BC[i].unsqueeze(-1)).exp_()
            gradient_CV = probabilities_CV.mul_(-gradient_BC1[i])
            gradient_RCV[row] = gradient_CV.scatter_add_(-1, token_ids_BC[i].unsqueeze(-1), gradient_BC1[i])
        return gradient_RCV, None, None, None, None


def _scaled(logits_CV: Tensor, temperature: float, banned_ids: Tensor | None) -> Tensor:
    """A float32 copy, the banned tokens' at minus infinity."""
    scaled_CV = logits_CV.float() / temperature
    return scaled_CV if banned_ids is None else scaled_CV.index_fill_(-1, banned_ids, -torch.inf)


def normaliser(mask_BC: Tensor, loss_per: str, max_new_tokens: int) -> float:
    """What the summed loss is divided by.

    "sample": number of completions, each weighing the same whatever its length (GRPO). "token": number of tokens, each
    weighing the same (DAPO). "constant": completions times the token limit (Dr. GRPO).
    """
    assert loss_per in LOSS_PER, loss_per
    if loss_per == "token":
        return max(1.0, float(mask_BC.sum()))
    return float(mask_BC.shape[0] * (max_new_tokens if loss_per == "constant" else 1))


def clipped_loss(
    logprobs_BC: Tensor,
    old_logprobs_BC: Tensor,
    advantages_B: Tensor,
    mask_BC: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    beta: float = 0.0,
    reference_logprobs_BC: Tensor | None = None,
    loss_per: str = "sample",
    divisor: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss to minimise, and token sums for the metrics.

    Per token: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + beta (exp(d) - d - 1), with r the ratio of the new to
    the old probability and d = reference - new log-prob (DeepSeekMath eq. 3, 4; clip_high from DAPO). mask: 1 on the
    completion's own tokens, its end token included. divisor: `normaliser` of the whole step.

    The sums are over the masked tokens, 0-d and detached: "tokens", "clip_low" and "clip_high" (tokens whose gradient
    the clip took away), "approx_kl" (old to new policy, k3 estimate) and "reference_kl".
    """
    assert loss_per in LOSS_PER, loss_per
    mask_BC = mask_BC.to(logprobs_BC.dtype)
    advantages_B1 = advantages_B.to(logprobs_BC.dtype).unsqueeze(1)
    # Padding may hold any token, even one of probability 0: keep its infinities out of exp and of the gradient.
    log_ratio_BC = (logprobs_BC - old_logprobs_BC).masked_fill(mask_BC == 0, 0.0)
    ratio_BC = log_ratio_BC.exp()
    clipped_BC = ratio_BC.clamp(1 - clip_low, 1 + clip_high)
    loss_BC = -torch.minimum(ratio_BC * advantages_B1, clipped_BC * advantages_B1)
    reference_kl_BC = torch.zeros_like(loss_BC)
    if beta:
        assert reference_logprobs_BC is not None, "beta > 0 needs the reference's log-probs"
        difference_BC = (reference_logprobs_BC - logprobs_BC).masked_fill(mask_BC == 0, 0.0)
        reference_kl_BC = difference_BC.exp() - difference_BC - 1
        loss_BC = loss_BC + beta * reference_kl_BC
    weights_BC = mask_BC
    if loss_per == "sample":
        weights_BC = mask_BC / mask_BC.sum(-1, keepdim=True).clamp(min=1.0)
    loss = (loss_BC * weights_BC).sum() / divisor
    with torch.no_grad():
        sums = {
            "tokens": mask_BC.sum(),
            "clip_low": (((ratio_BC < 1 - clip_low) & (advantages_B1 < 0)) * mask_BC).sum(),
            "clip_high": (((ratio_BC > 1 + clip_high) & (advantages_B1 > 0)) * mask_BC).sum(),
            "approx_kl": ((ratio_BC - 1 - log_ratio_BC) * mask_BC).sum(),
            "reference_kl": (reference_kl_BC * mask_BC).sum(),
        }
    return loss, sums
