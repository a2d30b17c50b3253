"""Convolutions as products: the same numbers both ways, only where they are worth it, only where nothing is trained."""

from __future__ import annotations

import pytest
import torch
from pack.trainer.sdxl.convolution import MOST_POSITIONS, use_products
from torch import nn


def both_ways(layer: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of its squares' sum to the input."""
    seen = x.clone().requires_grad_()
    out = layer(seen)
    out.square().sum().backward()
    return out.detach(), seen.grad


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 6, 8, 8), (2, 6, 4, 5), (1, 6, 1, 3)])
def test_a_product_is_the_convolution_both_ways(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Conv2d(6, 4, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = both_ways(layer, x)
    use_products(nn.Sequential(layer), torch.float32)
    with torch.profiler.profile() as profile:
        given = both_ways(layer, x)
    assert not any("convolution" in event.key for event in profile.key_averages())
    for one, other in zip(given, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_large_images_strides_trained_layers_and_other_formats_stay_convolutions() -> None:
    layers = [
        nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False),
        nn.Conv2d(3, 3, 3, padding=1, stride=2).requires_grad_(False),
        nn.Conv2d(3, 3, 1).requires_grad_(False),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False).double(),
    ]
    use_products(nn.ModuleList(layers), torch.float32)
    large, small = torch.randn(1, 3, MOST_POSITIONS, 2), torch.randn(1, 3, 8, 8)
    for layer, x in zip(layers, (large, small, small, small, small.double()), strict=True):
        with torch.profiler.profile() as profile:
            layer(x)
        assert any("convolution" in event.key for event in profile.key_averages()), layer
