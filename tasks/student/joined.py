"""Linear layers as a decoding step uses them: those over the same input joined, with the norm before them. Ours.

On a CPU a product over few rows is faster with the weights on the left, so rows are columns here: (width, rows).
Adapters, quantised layers, and all layers of a model too large to copy run as the modules they are.

Shape suffixes: N rows, I widths that go into linear layers, O those that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST_JOINED = 2**28  # bytes of weights that are copied to be joined
_FEW_ROWS = 11  # up to here a CPU multiplies rows that lie one after another up to four times as fast


class Product:
    """Linear layers over one input, as one, after a norm: (I, N) -> (sum of O, N).

    join: with weights of its own, which hold the norm's too.
    """

    def __init__(self, linears: Sequence[Any], join: bool, norm: Any = None) -> None:
        self._linears, self._norm = linears, norm
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        if join and all(type(linear) is torch.nn.Linear and not linear._forward_hooks for linear in linears):
            weights = [linear.weight for linear in linears]
            device = weights[0].device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
            weight = torch.cat(weights) if len(weights) > 1 else weights[0]
            if norm is not None:  # which divides by the root of the mean square, here by that of the sum
                weight = weight.float() * (norm.weight.float() * len(norm.weight) ** 0.5)
            self._weight = weight.to(dtype)
            if linears[0].bias is not None:
                self._bias = torch.cat([linear.bias for linear in linears]).to(dtype).unsqueeze(1)

    def __call__(self, x_IN: Tensor) -> Tensor:
        if self._weight is None:
            x_NI = x_IN.t().contiguous()
            x_NI = x_NI if self._norm is None else self._norm(x_NI)
            return torch.cat([linear(x_NI) for linear in self._linears], dim=1).t()
        if self._norm is not None:
            x_IN = x_IN.float()
            square_N = (x_IN * x_IN).sum(0, keepdim=True)
            x_IN = x_IN * square_N.add_(len(x_IN) * self._norm.variance_epsilon).rsqrt_()
        x_IN = _laid_out(x_IN.to(self._weight.dtype))
        return self._weight @ x_IN if self._bias is None else torch.addmm(self._bias, self._weight, x_IN)

    def added_to(self, sum_ON: Tensor, x_IN: Tensor) -> Tensor:
        """``sum_ON``, overwritten where that is faster, plus the product."""
        if self._weight is None or self._bias is not None or sum_ON.dtype != self._weight.dtype:
            return sum_ON + self(x_IN)
        return sum_ON.addmm_(self._weight, _laid_out(x_IN.to(self._weight.dtype)))


def _laid_out(x_IN: Tensor) -> Tensor:
    """Few rows one after another, many side by side."""
    return x_IN.t().contiguous().t() if x_IN.shape[1] <= _FEW_ROWS else x_IN


class LayerProducts:
    """Of a Qwen2-VL or Qwen2.5-VL decoder layer."""

    def __init__(self, layer: Any, join: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.activation = mlp.act_fn
        self.qkv = Product([attention.q_proj, attention.k_proj, attention.v_proj], join, layer.input_layernorm)
        self.out = Product([attention.o_proj], join)
        self.gate_up = Product([mlp.gate_proj, mlp.up_proj], join, layer.post_attention_layernorm)
        self.down = Product([mlp.down_proj], join)
