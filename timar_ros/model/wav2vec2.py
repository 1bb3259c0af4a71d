"""The speech encoder of the published network: wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), for inference.

The variant of `facebook/wav2vec2-large-960h-lv60-self`: layer norms after each convolution, pre-norm ("stable")
transformer layers. TIMAR interpolates the convolutional features along time to one a frame before the transformer.
Parameters carry Hugging Face's names, but for the positional convolution, whose weight norm is folded into a plain
weight when a checkpoint is converted (model/published_checkpoint.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, linear, scaled_dot_product_attention

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)


@dataclass(frozen=True)
class SpeechConfig:
    """Sizes; the defaults are those of wav2vec 2.0 large."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    conv_width: int = 512
    position_kernel: int = 128
    position_groups: int = 16


class ConvLayer(nn.Module):
    """A convolution as one product over windows of time: channels stay last, as the norm wants them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)
        self.layer_norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, inputs] -> [B, about T / stride, outputs]."""
        x = x.to(self.dtype).contiguous()
        batch, steps, channels = x.shape
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        count = (steps - kernel) // stride + 1
        windows = x.as_strided(
            (batch, count, kernel * channels), (steps * channels, stride * channels, 1), x.storage_offset()
        )
        y = linear(windows, self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias)
        return gelu(self.layer_norm(y.float()))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        y = scaled_dot_product_attention(split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)))
        return self.out_proj(y.transpose(1, 2).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, width: int, intermediate: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, intermediate)
        self.output_dense = nn.Linear(intermediate, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dense(gelu(self.intermediate_dense(x)))


class EncoderLayer(nn.Module):
    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.attention = SelfAttention(config.width, config.heads)
        self.layer_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.intermediate)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layer_norm(x).to(self.dtype))
        return x + self.feed_forward(self.final_layer_norm(x).to(self.dtype))


class PositionalConvolution(nn.Module):
    """Relative positions: a grouped convolution along time, its weight norm already folded in.

    Always in float32: it is cheap, and with few channels a group torch 2.13 computes nonsense in bfloat16 on the CPU.
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            config.width,
            config.width,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> the same."""
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return gelu(y[:, : x.shape[1]])  # an even kernel gives one step too many


class FeatureExtractor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(
            ConvLayer(1 if i == 0 else width, width, kernel, stride)
            for i, (kernel, stride) in enumerate(zip(CONV_KERNELS, CONV_STRIDES, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureProjection(nn.Module):
    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.layer_norm = nn.LayerNorm(config.conv_width)
        self.projection = nn.Linear(config.conv_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.layer_norm(x).to(self.dtype)).float()


class Encoder(nn.Module):
    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConvolution(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_conv_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class SpeechEncoder(nn.Module):
    """One second of a voice -> one vector a frame."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(config.conv_width)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)

    def forward(self, samples: Tensor, frames: int) -> Tensor:
        """samples [B, 16000], 16 kHz, of zero mean and unit variance -> [B, frames, width]."""
        features = self.feature_extractor(samples[..., None]).transpose(1, 2)
        features = interpolate(features, frames, mode="linear", align_corners=True)
        return self.encoder(self.feature_projection(features.transpose(1, 2)))
