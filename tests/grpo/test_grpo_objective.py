"""The clipped objective: by hand on one token, and against TRL's loss on the same tensors."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import torch

from tasks.grpo.objective import clipped_loss, normaliser, token_logprobs

LOW, HIGH, LIMIT = 0.2, 0.28, 9


def batch(seed: int = 0, rows: int = 6, length: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, length, generator=generator) * 3
    mask = (torch.arange(length) < torch.tensor([7, 3, 1, 5, 7, 2])[:rows].unsqueeze(1)).long()
    return {
        "logprobs": (old + torch.randn(rows, length, generator=generator) * 0.4).requires_grad_(),
        "old": old,
        "reference": old + torch.randn(rows, length, generator=generator) * 0.3,
        "advantages": torch.tensor([1.6, -0.5, 0.3, -1.2, 0.7, -0.9])[:rows],
        "mask": mask,
        "entropies": torch.rand(rows, length, generator=generator),
    }


def ours(b: dict[str, torch.Tensor], loss_per: str, beta: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return clipped_loss(
        b["logprobs"],
        b["old"],
        b["advantages"],
        b["mask"],
        clip_low=LOW,
        clip_high=HIGH,
        beta=beta,
        reference_logprobs_BC=b["reference"] if beta else None,
        loss_per=loss_per,
        divisor=normaliser(b["mask"], loss_per, LIMIT),
    )


def trls(b: dict[str, torch.Tensor], loss_type: str, beta: float) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """TRL's own `_compute_loss`, run on our tensors; only its model's forward is replaced by them."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (b["logprobs"], b["entropies"], None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        loss_type=loss_type,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
    )
    prompt = torch.ones(len(b["mask"]), 3, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones_like(b["mask"]),
        "completion_mask": b["mask"],
        "advantages": b["advantages"],
        "old_per_token_logps": b["old"],
        "ref_per_token_logps": b["reference"],
        "num_items_in_batch": b["mask"].sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs), trainer._metrics["train"]


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(("loss_per", "loss_type"), [("sample", "grpo"), ("token", "dapo"), ("constant", "dr_grpo")])
def test_loss_gradient_and_figures_are_trls(loss_per: str, loss_type: str, beta: float) -> None:
    mine, theirs = batch(), batch()
    loss, sums = ours(mine, loss_per, beta)
    expected, metrics = trls(theirs, loss_type, beta)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(mine["logprobs"].grad, theirs["logprobs"].grad)
    means = {name: float(value / sums["tokens"]) for name, value in sums.items()}
    assert means["clip_low"] == pytest.approx(metrics["clip_ratio/low_mean"][0])
    assert means["clip_high"] == pytest.approx(metrics["clip_ratio/high_mean"][0])
    assert means["clip_low"] > 0
    assert means["clip_high"] > 0
    if beta:
        assert means["reference_kl"] == pytest.approx(metrics["kl"][0])


@pytest.mark.parametrize("loss_per", ["sample", "token", "constant"])
def test_micro_batches_of_any_size_add_up_to_one_batch(loss_per: str) -> None:
    whole, parts = batch(), batch()
    loss, _ = ours(whole, loss_per, 0.04)
    loss.backward()
    divisor = normaliser(parts["mask"], loss_per, LIMIT)
    total = torch.zeros(())
    for rows in (slice(0, 1), slice(1, 5), slice(5, 6)):
        part, _ = clipped_loss(
            parts["logprobs"][rows],
            parts["old"][rows],
            parts["advantages"][rows],
            parts["mask"][rows],
            clip_low=LOW,
            clip_high=HIGH,
            beta=0.04,
            reference_logprobs_BC=parts["reference"][rows],
            loss_per=loss_per,
            divisor=divisor,
        )
        total = total + part
    total.backward()
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(parts["logprobs"].grad, whole["logprobs"].grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 1.0, -1.2, -1.2),  # between 1 + clip_low and 1 + clip_high: clip-higher lets it through
        (1.5, 1.0, -1.28, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    logprobs = torch.tensor([[ratio]]).log().requires_grad_()
    value, _ = clipped_loss(
        logprobs,
        torch.zeros(1, 1),
        torch.tensor([advantage]),
        torch.ones(1, 1),
        clip_low=LOW,
        clip_high=HIGH,
        divisor=1.0,
    )
    value.backward()
    assert float(value.detach()) == pytest.approx(loss)
    assert logprobs.grad is not None
    assert float(logprobs.grad) == pytest.approx(gradient)


def test_groups_without_variance_give_no_gradient() -> None:
    b = batch()
    b["advantages"] = torch.zeros(6)
    loss, _ = ours(b, "sample", 0.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not b["logprobs"].grad.any()  # type: ignore[union-attr]


def test_padding_does_not_matter_whatever_it_holds() -> None:
    clean, dirty = batch(), batch()
    dirty["logprobs"] = dirty["logprobs"].detach().masked_fill(dirty["mask"] == 0, -torch.inf).requires_grad_()
    loss, sums = ours(clean, "sample", 0.04)
    other, other_sums = ours(dirty, "sample", 0.04)
    torch.testing.assert_close(other, loss)
    assert {k: float(v) for k, v in sums.items()} == pytest.approx({k: float(v) for k, v in other_sums.items()})
    other.backward()
    assert dirty["logprobs"].grad.isfinite().all()  # type: ignore[union-attr]


def test_token_logprobs_are_those_of_the_sampling_distribution() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[0, 1, 2], [4, 3, 1]])
    expected = torch.log_softmax(logits / 0.7, -1)
    logprobs, entropies = token_logprobs(logits, ids, 0.7)
    torch.testing.assert_close(logprobs, expected.gather(-1, ids.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(entropies, torch.distributions.Categorical(logits=logits / 0.7).entropy())


def test_the_gradient_of_token_logprobs_is_that_of_the_softmax() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3)).requires_grad_()
    ids, weights = torch.tensor([[0, 1, 2], [4, 3, 1]]), torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    expected = torch.log_softmax(logits / 0.7, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    logprobs, entropies = token_logprobs(logits, ids, 0.7)
    assert not entropies.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad((logprobs * weights).sum(), logits), torch.autograd.grad((expected * weights).sum(), logits)
    )


def test_banned_tokens_have_no_mass_and_no_gradient() -> None:
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ids, banned = torch.tensor([[0, 1]]), torch.tensor([3, 4])
    logprobs, entropies = token_logprobs(logits, ids, 1.0, banned)
    allowed = logits.detach()[..., :3]
    expected = torch.log_softmax(allowed, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(logprobs.detach(), expected)
    torch.testing.assert_close(entropies, torch.distributions.Categorical(logits=allowed).entropy())
    logprobs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[..., 3:].any()
