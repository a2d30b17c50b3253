"""Regional compilation: blocks that are alike share what was compiled, and nothing else is learnt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.errors import SettingsError
from pack.trainer.sdxl.compiled import compile_blocks
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.loop import Trainer
from tiny_parts import make_examples, make_settings


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def losses(settings: TrainSettings, backend: str = "") -> list[float]:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, settings)
    tiny_parts.randomize(adapters)
    trainer = Trainer(parts, adapters, make_examples(2), settings, tiny_parts.CPU)
    if backend:
        # instead of inductor, which takes minutes: what is captured is the same
        compile_blocks(parts.unet, backend)
    return [trainer.step()[0] for _ in range(2)]


def test_blocks_of_one_width_are_captured_once_and_whole_and_learn_the_same() -> None:
    compiled = losses(make_settings(train="unet", steps=2, compile_blocks=True), "aot_eager")
    stats = torch._dynamo.utils.counters
    # two widths of transformers
    assert stats["stats"]["unique_graphs"] == 2
    assert not stats["graph_break"]
    assert compiled == pytest.approx(losses(make_settings(train="unet", steps=2)), rel=1e-6)


def test_nothing_is_compiled_unless_it_is_asked_for() -> None:
    losses(make_settings(train="unet", steps=2))
    assert not torch._dynamo.utils.counters["stats"]


def test_a_machine_without_a_compiler_gets_one_sentence() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("No working C++ compiler found.")

    settings = make_settings(train="unet", steps=2, compile_blocks=True)
    parts = tiny_parts.make_parts()
    trainer = Trainer(parts, add_adapters(parts, settings), make_examples(2), settings, tiny_parts.CPU)
    compile_blocks(parts.unet, broken)
    with pytest.raises(SettingsError, match="torch.compile does not work here .*No working C.. compiler.*turn it off"):
        trainer.run(lambda step: None)
