"""AdamW over joined weights: what torch's own does to each of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.narrow import NarrowPair, NarrowWeights
from pack.trainer.training.adamw import JoinedAdamW
from pack.trainer.training.state import _apart
from tiny_parts import make_settings
from torch import nn


@dataclass
class Rig:
    """Three small layers under the joined optimizer, and copies of their weights under torch's."""

    narrow: NarrowWeights
    pairs: list[NarrowPair]
    joined: JoinedAdamW
    copies: list[nn.Parameter]
    plain: torch.optim.AdamW

    def step_alike(
        self, *, reached: int = 3, foreign: bool = False, found_inf: bool = False, scale: float | None = None
    ) -> None:
        """One of each by the same gradients, to the same end; foreign: the first weight's come from elsewhere."""
        with self.narrow.in_use():
            for pair in self.pairs[:reached]:
                rows, inner, through, grad = (torch.randn(5, size).bfloat16() for size in (3, 2, 2, 4))
                pair.add_gradients(rows, inner, through, [grad])
        self.narrow.widen()
        self.narrow.collect()
        if foreign:
            self.narrow.weights[0].grad = torch.randn_like(self.narrow.weights[0])
        for weight, own in zip(self.narrow.weights, self.copies, strict=True):
            own.grad = None if weight.grad is None else weight.grad.clone()
        for optimizer in (self.joined, self.plain):
            if found_inf or scale is not None:
                optimizer.found_inf = torch.tensor(float(found_inf))
                optimizer.grad_scale = None if scale is None else torch.tensor(scale)
            optimizer.step()
            optimizer.zero_grad()
            for name in ("found_inf", "grad_scale"):
                if hasattr(optimizer, name):
                    delattr(optimizer, name)
        self._check()

    def _check(self) -> None:
        """Weights and states are the same but for what the last values of a tensor, computed one by one, round off."""
        for weight, own in zip(self.narrow.weights, self.copies, strict=True):
            torch.testing.assert_close(weight, own, rtol=1e-5, atol=1e-7)
            ours, theirs = self.joined.state[weight], self.plain.state[own]
            for name in ("exp_avg", "exp_avg_sq", "step"):
                expected = theirs.get(name, torch.zeros_like(ours[name]))
                torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-9)


def make_rig(**arguments: Any) -> Rig:
    torch.manual_seed(3)
    weights = [(nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 2))) for _ in range(3)]
    copies = [nn.Parameter(pair[side].detach().clone()) for side in (0, 1) for pair in weights]
    pairs = [NarrowPair(*pair, 1.0, torch.bfloat16) for pair in weights]
    narrow = NarrowWeights(pairs, accumulates=False)

    def groups(of: list[nn.Parameter]) -> list[dict[str, Any]]:
        # the last group lies in two places
        return [{"params": of[:2] + of[3:4], "lr": 0.1}, {"params": [of[2], *of[4:]], "lr": 0.01}]

    arguments = {"lr": 0.1, "weight_decay": 0.03, "fused": True} | arguments
    joined = JoinedAdamW(groups(narrow.weights), narrow, **arguments)
    return Rig(narrow, pairs, joined, copies, torch.optim.AdamW(groups(copies), **arguments))


@pytest.mark.parametrize("arguments", [{}, {"betas": (0.5, 0.7), "eps": 1e-3}, {"maximize": True}, {"weight_decay": 0}])
def test_steps_are_torchs_own(arguments: dict[str, Any]) -> None:
    rig = make_rig(**arguments)
    before = rig.narrow.trained.whole.clone()
    for _ in range(4):
        rig.step_alike()
    assert not torch.equal(rig.narrow.trained.whole, before)
    assert rig.joined.state[rig.narrow.weights[0]]["exp_avg"]._is_view()


@pytest.mark.parametrize("arguments", [{"amsgrad": True}, {"fused": None, "foreach": True}])
def test_what_is_not_joined_is_done_as_ever(arguments: dict[str, Any]) -> None:
    rig = make_rig(**arguments)
    for _ in range(2):
        rig.step_alike()
    assert not rig.joined.state[rig.narrow.weights[0]]["exp_avg"]._is_view()


def test_weights_without_a_gradient_stay_and_fall_behind() -> None:
    rig = make_rig()
    for reached in (3, 2, 3, 3):
        rig.step_alike(reached=reached)
    assert [int(rig.joined.state[weight]["step"]) for weight in rig.narrow.weights] == [4, 4, 3, 4, 4, 3]


def test_a_weight_may_come_late() -> None:
    rig = make_rig()
    rig.step_alike(reached=2)
    rig.step_alike()
    assert int(rig.joined.state[rig.narrow.weights[2]]["step"]) == 1


def test_what_is_not_finite_moves_nothing_and_counts_for_nothing() -> None:
    rig = make_rig()
    rig.step_alike()
    rig.step_alike(found_inf=True)
    assert int(rig.joined.state[rig.narrow.weights[0]]["step"]) == 1
    rig.step_alike(scale=8.0)


def test_a_saved_state_goes_on() -> None:
    rig = make_rig()
    rig.step_alike()
    held = copy.deepcopy(rig.joined.state_dict())
    again = make_rig()
    # a state of its own that is to be forgotten
    again.step_alike()
    again.joined.load_state_dict(held)
    with torch.no_grad():
        for old, new in ((rig.narrow.weights, again.narrow.weights), (rig.copies, again.copies)):
            for ours, theirs in zip(old, new, strict=True):
                theirs.copy_(ours)
    again.plain.load_state_dict(rig.plain.state_dict())
    again.step_alike()
    assert int(again.joined.state[again.narrow.weights[0]]["step"]) == 2


def test_a_state_of_torchs_own_goes_on() -> None:
    rig = make_rig()
    rig.step_alike()
    rig.step_alike(reached=2)
    rig.joined.load_state_dict(copy.deepcopy(rig.plain.state_dict()))
    rig.step_alike()


def test_other_gradients_than_the_joined_ones_are_stepped_by() -> None:
    rig = make_rig()
    rig.step_alike()
    rig.step_alike(foreign=True)
    rig.step_alike()


def test_joined_tensors_are_saved_without_a_copy_and_shared_ones_with() -> None:
    whole = torch.arange(9.0)
    first, second, third = whole.split(3)
    given = {"third": third, "first": first, "second": second, "again": first, "across": whole[5:7], "all": whole}
    apart = _apart(given)
    kept = [name for name, tensor in apart.items() if tensor.data_ptr() == given[name].data_ptr()]
    assert kept == ["third", "first", "second"]
    for name, tensor in given.items():
        assert torch.equal(apart[name], tensor)


def test_a_run_in_bf16_uses_it_and_one_in_fp32_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # any CPU can; on one that is slow at it such a run computes in fp32
    monkeypatch.setattr("pack.trainer.sdxl.precision.cpu_multiplies", lambda precision: True)
    for precision, joined in (("bf16", True), ("fp32", False)):
        trainer = tiny_parts.make_trainer(make_settings(precision=precision, optimizer="adamw", steps=2))
        assert (type(trainer.optimizer) is JoinedAdamW) == joined
        trainer.run(lambda step: None)
        weight = trainer.adapters.parameters()[0]
        assert trainer.optimizer.state[weight]["exp_avg"]._is_view() == joined
