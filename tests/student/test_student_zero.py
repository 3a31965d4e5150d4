"""Hooks that are set aside do not run and come back as they were; sharded weights are in the tests of processes."""

from __future__ import annotations

import torch

from tasks.student.zero import _without_hooks, sharded_parameters, whole_weights


def test_hooks_set_aside_come_back_in_their_order() -> None:
    called: list[str] = []

    def note(name: str) -> None:
        called.append(name)

    inner = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(inner)
    aside = [
        inner.register_forward_pre_hook(lambda *_: note("before")),
        model.register_forward_hook(lambda *_: note("first")),
    ]
    model.register_forward_hook(lambda *_: note("kept"))
    aside.append(model.register_forward_hook(lambda *_: note("last")))
    with _without_hooks(aside):
        model(torch.zeros(1, 2))
    assert called == ["kept"]
    called.clear()
    model(torch.zeros(1, 2))
    assert called == ["before", "first", "kept", "last"]
    aside[1].remove()
    called.clear()
    model(torch.zeros(1, 2))
    assert called == ["before", "kept", "last"], "their handles still remove them"


def test_whole_weights_of_a_model_that_is_not_sharded_need_no_deepspeed() -> None:
    model = torch.nn.Linear(2, 2)
    assert sharded_parameters(model) == []
    with whole_weights(model):
        assert model(torch.zeros(1, 2)).shape == (1, 2)
