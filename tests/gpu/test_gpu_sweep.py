"""Sweeps in a real ComfyUI on a CUDA device, which holds weights in a way of its own; elsewhere they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from host_graphs import picture, sweep, training
from host_server import Host
from PIL import Image

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device here.")

LORA = "for_gpu_sweeps.safetensors"
# half precision, and a LoRA that is merged with another rounding than it is computed beside the weights
MOST_APART = 2e-2


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("host")) as started:
        started.run(training(output_name=LORA.removesuffix(".safetensors"), steps=3))
        yield started
    assert not started.complaints()


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "dpmpp_sde_gpu", "dpmpp_2m_sde"])
def test_exact_cells_equal_a_plain_graph(host: Host, sampler: str) -> None:
    host.run(sweep(LORA, [("CFG scale", "1, 6.5"), ("LoRA weight", "0, 0.8")], sampler=sampler))
    cells = {tuple(cell["index"]): pixels(cell["path"]) for cell in host.newest_sweep()["cells"]}
    for index, cfg, weight in [((0, 0), 1.0, 0.0), ((0, 1), 1.0, 0.8), ((1, 1), 6.5, 0.8)]:
        (path,) = host.outputs(host.run(picture(lora=LORA, weight=weight, cfg=cfg, sampler_name=sampler)))
        assert np.array_equal(cells[index], pixels(path)), index


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde_gpu"])
@pytest.mark.parametrize("weights", ["1", "0, 0.5, 1"])
def test_fast_cells_are_the_exact_ones_but_for_rounding(host: Host, sampler: str, weights: str) -> None:
    axes = [("CFG scale", "2, 4, 8"), ("LoRA weight", weights)]
    host.run(sweep(LORA, axes, mode="fast", sampler=sampler, seed=77))
    manifest = host.newest_sweep()
    assert {cell["how"] for cell in manifest["cells"]} == {"fast"}
    assert 0 <= manifest["fast_check"]["relative_latent_error"] < MOST_APART
    seconds = manifest["seconds"]
    assert 0 < seconds["sampling_and_decoding"] < seconds["all"]
