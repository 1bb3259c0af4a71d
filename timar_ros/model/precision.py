"""What a network's large products are computed in: float32, bfloat16, or int8 with scales found on the fly.

Only the linear layers and the attention of `reducible` modules change; norms, residual streams, what is small and
the diffusion head stay in float32. In what `auto` takes the relative error of the condition z stays under 3 %.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from timar_ros.errors import TimarError
from timar_ros.model.transformer import Block

FLOAT32, BFLOAT16, INT8, AUTO = "float32", "bfloat16", "int8", "auto"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16, INT8)
# A coarser precision must take at most this share of a finer one's time to be worth its error.
WORTHWHILE = 0.9


def set_precision(network: nn.Module, precision: str, device: torch.device) -> str:
    """Bring the blocks of `network.reducible` to a precision, in place; returns the one that `auto` stood for.

    Args:
        network: in float32, with an attribute `reducible`: the modules whose blocks may be reduced; each of their
            submodules with a `dtype` computes in that.

    Raises:
        TimarError: the precision is not known, does not exist on the device, or the network already has another.
    """
    if precision not in PRECISIONS:
        raise TimarError(f"precision is {precision!r}; {', '.join(PRECISIONS)} are allowed")
    if precision == INT8 and device.type != "cpu":
        raise TimarError("precision int8 is for the CPU; use bfloat16, float32 or auto on a CUDA device")
    already = getattr(network, "precision", None)
    if precision == AUTO:
        precision = already or _fastest(network, device)
    if already not in (None, precision):
        raise TimarError(f"this network was already brought to {already}; load the policy again for {precision}")
    if already is None and precision != FLOAT32:
        for module in network.reducible:
            _reduce(module, precision)
    if precision == BFLOAT16 and device.type == "cpu":
        for module in network.reducible:
            _pack(module)
    network.precision = precision
    return precision


def to_float32(network: nn.Module) -> None:
    """Undo bfloat16 (what was rounded stays rounded)."""
    for module in network.reducible:
        for part in module.modules():
            if hasattr(part, "dtype"):
                part.dtype = torch.float32
        module.float()
    network.precision = FLOAT32


def _reduce(module: nn.Module, precision: str) -> None:
    if precision == INT8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its successor, torchao, is a package of its own
            scheme = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            torch.ao.quantization.quantize_dynamic(module, scheme, dtype=torch.qint8, inplace=True)
        return
    for part in [part for part in module.modules() if hasattr(part, "dtype")]:
        part.dtype = torch.bfloat16
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                layer.to(torch.bfloat16)


class PackedLinear(nn.Linear):
    """A linear layer whose weight lies as oneDNN wants it; else each call would bring it there. The same bits."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.weight, self.bias = nn.Parameter(packed, requires_grad=False), layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.weight.is_mkldnn:
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def _unpacked(self) -> nn.Parameter:
        return nn.Parameter(self.weight.to_dense(), requires_grad=False) if self.weight.is_mkldnn else self.weight

    def _apply(self, function: Callable, recurse: bool = True) -> PackedLinear:
        """To another device or type it goes unpacked, as torch knows packed weights on the CPU only."""
        self.weight = self._unpacked()
        return super()._apply(function, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Copies are unpacked likewise."""
        return {**self.__dict__, "_parameters": {"weight": self._unpacked(), "bias": self.bias}}


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; CPUs that do not take thirty times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pack(module: nn.Module) -> None:
    """Pack the linear layers in bfloat16, where the CPU has that."""
    if not computes_bfloat16(torch.device("cpu")):
        return
    for part in list(module.modules()):
        for name, layer in part.named_children():
            if isinstance(layer, nn.Linear) and layer.weight.dtype == torch.bfloat16 and not layer.weight.is_mkldnn:
                setattr(part, name, PackedLinear(layer))


def _fastest(network: nn.Module, device: torch.device) -> str:
    """bfloat16 on CUDA that has it; on the CPU what this machine runs a block of the network's width fastest in."""
    if device.type != "cpu":
        return BFLOAT16 if computes_bfloat16(device) else FLOAT32
    return _fastest_on_cpu(network.config.width, network.config.heads, torch.get_num_threads())


@functools.cache
def _fastest_on_cpu(width: int, heads: int, threads: int) -> str:
    """Measured once in a process, so that equal policies in it compute equal bits.

    int8 is left to be asked for: in the published `large` size its error of z is 4 %.
    """
    worthwhile = _seconds(width, heads, BFLOAT16) < WORTHWHILE * _seconds(width, heads, FLOAT32)
    return BFLOAT16 if worthwhile else FLOAT32


@torch.inference_mode()
def _seconds(width: int, heads: int, precision: str, fresh: int = 60, kept: int = 800) -> float:
    """The time of a block over `fresh` tokens that see `kept` ones, too: a turn of half the longest length."""
    block = Block(width, heads)
    if precision != FLOAT32:
        _reduce(block, precision)
    x = torch.randn(1, fresh, width)
    cache = torch.zeros(2, 1, heads, kept + fresh, width // heads, dtype=block.dtype)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        block(x, cache=cache, at=kept)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
