"""The loss and its noise, against formulas written out here once more and values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.dataset.combine import combine
from pack.trainer.dataset.report import dataset_report
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError
from pack.trainer.sdxl.parts import scaled_linear_alpha_bar
from pack.trainer.settings.options import LossSettings
from pack.trainer.training.data import collate
from pack.trainer.training.inputs import Inputs
from pack.trainer.training.loop import Trainer
from pack.trainer.training.loss import (
    draw_noise,
    draw_timesteps,
    error_per_value,
    huber_parameter,
    perturbed,
    weight_of_level,
)
from pack.trainer.training.noise import step_generator
from tiny_parts import make_examples, make_settings, make_trainer

ALPHA_BAR = scaled_linear_alpha_bar()


def one(value: float) -> torch.Tensor:
    return torch.full((1, 4, 2, 2), value)


@pytest.mark.parametrize("d", [0.0, 0.05, 0.1, 3.0])
@pytest.mark.parametrize("c", [0.1, 0.7])
def test_the_losses_of_a_distance_are_the_formulas(d: float, c: float) -> None:
    def of(kind: str) -> float:
        return error_per_value(one(d), one(0.0), torch.tensor([c]), LossSettings(kind=kind)).mean().item()

    assert of("l2") == pytest.approx(d**2)
    assert of("huber") == pytest.approx(2 * c * (math.hypot(d, c) - c), abs=1e-6)
    assert of("smooth_l1") == pytest.approx(2 * (math.hypot(d, c) - c), abs=1e-6)


@pytest.mark.parametrize("t", [0, 250, 999])
def test_hubers_parameter_follows_its_schedule(t: int) -> None:
    steps, c = torch.tensor([t]), 0.1
    a = ALPHA_BAR[t].item()
    sigma = math.sqrt((1 - a) / a)
    expected = {
        "constant": c,
        "exponential": c ** (t / 1000),
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
    }
    for schedule, value in expected.items():
        found = huber_parameter(ALPHA_BAR[steps], steps, LossSettings(huber_schedule=schedule, huber_c=c))
        assert found.item() == pytest.approx(value, rel=1e-5)


# SNR, prediction, settings, weight worked out by hand
WEIGHTS = [
    (10.0, "epsilon", {}, 1.0),
    (10.0, "epsilon", {"min_snr_gamma": 5.0}, 0.5),
    (2.0, "epsilon", {"min_snr_gamma": 5.0}, 1.0),
    (10.0, "v_prediction", {"min_snr_gamma": 5.0}, 5 / 11),
    (2.0, "v_prediction", {"min_snr_gamma": 5.0}, 2 / 3),
    (4.0, "epsilon", {"debiased": True}, 0.5),
    (1e6, "epsilon", {"debiased": True}, 1 / math.sqrt(1000)),
    (4.0, "v_prediction", {"debiased": True}, 1 / 5),
    (4.0, "v_prediction", {"v_prediction_like_noise": True}, 4 / 5),
    (4.0, "epsilon", {"v_prediction_like_noise": True}, 1.0),
    (4.0, "epsilon", {"debiased": True, "min_snr_gamma": 1.0}, 0.5 * 0.25),
]


@pytest.mark.parametrize(("snr", "prediction", "changes", "weight"), WEIGHTS)
def test_what_a_noise_level_counts_for(snr: float, prediction: str, changes: dict, weight: float) -> None:
    alpha_bar = torch.tensor([snr / (1 + snr)], dtype=torch.float64)
    assert weight_of_level(alpha_bar, prediction, LossSettings(**changes)).item() == pytest.approx(weight, rel=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["l2", "huber", "smooth_l1"])
def test_zero_terminal_snr_gives_numbers_everywhere(prediction: str, kind: str) -> None:
    settings = LossSettings(kind=kind, min_snr_gamma=5, debiased=True, v_prediction_like_noise=True)
    trainer = make_trainer(make_settings(loss=settings))
    trainer.parts.prediction = prediction
    trainer._alpha_bar = torch.cat([trainer._alpha_bar[:-1], torch.zeros(1)])
    batch = collate(trainer.examples[:1], [trainer.examples[0].latents.mean])
    loss = trainer.loss(batch, step_generator(0), torch.tensor([999]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(w.grad).all() for w in trainer.adapters.parameters() if w.grad is not None)


def test_the_noise_offset_moves_each_channel_as_a_whole() -> None:
    x0 = torch.zeros(500, 4, 8, 8)
    settings = LossSettings(noise_offset=0.5)
    plain = torch.randn(x0.shape, generator=step_generator(0))
    moved = draw_noise(x0, settings, step_generator(0)) - plain
    assert moved.std(dim=(2, 3)).max() < 1e-5
    assert moved.mean(dim=(2, 3)).std().item() == pytest.approx(0.5, rel=0.05)
    random = draw_noise(x0, replace(settings, noise_offset_random=True), step_generator(0)) - plain
    assert 0 < random.mean(dim=(2, 3)).std().item() < 0.5


def test_the_adaptive_offset_grows_with_the_latents_own_mean() -> None:
    x0 = torch.full((400, 4, 4, 4), -2.0)
    plain = torch.randn(x0.shape, generator=step_generator(0))
    moved = draw_noise(x0, LossSettings(noise_offset=0.1, adaptive_noise_scale=0.2), step_generator(0)) - plain
    assert moved.mean(dim=(2, 3)).std().item() == pytest.approx(0.1 + 0.2 * 2, rel=0.05)


def correlation(noise: torch.Tensor) -> float:
    """Of neighbours in a row."""
    return (noise[..., 1:] * noise[..., :-1]).mean().item()


def test_pyramid_noise_has_low_frequencies_and_a_deviation_of_one() -> None:
    x0 = torch.zeros(64, 4, 32, 32)
    plain = draw_noise(x0, LossSettings(), step_generator(0))
    for discount, at_least in ((0.3, 0.02), (0.8, 0.2)):
        noise = draw_noise(x0, LossSettings(pyramid_iterations=6, pyramid_discount=discount), step_generator(0))
        assert noise.std().item() == pytest.approx(1, abs=1e-5)
        assert correlation(noise) > at_least > abs(correlation(plain))
    # one level is white noise of twice the variance, scaled back
    assert abs(correlation(draw_noise(x0, LossSettings(pyramid_iterations=1), step_generator(0)))) < 0.02


def test_the_input_is_perturbed_and_the_noise_that_is_asked_for_is_not() -> None:
    noise = torch.zeros(200, 4, 8, 8)
    settings = LossSettings(input_perturbation=0.1)
    assert perturbed(noise, settings, step_generator(0)).std().item() == pytest.approx(0.1, rel=0.01)
    assert perturbed(noise, LossSettings(), step_generator(0)) is noise
    random = perturbed(noise, replace(settings, input_perturbation_random=True), step_generator(0))
    assert 0 < random.std().item() < 0.1
    losses = [loss_of(LossSettings(input_perturbation=strength)) for strength in (0.0, 0.1)]
    assert losses[0] != losses[1]


def test_only_the_levels_asked_for_are_drawn() -> None:
    drawn = draw_timesteps(4000, 1000, LossSettings(min_timestep=200, max_timestep=300), step_generator(0))
    assert (drawn.min(), drawn.max()) == (200, 299)
    assert draw_timesteps(4000, 1000, LossSettings(), step_generator(0)).max() > 990


def loss_of(options: LossSettings, trainer_prediction: str = "epsilon", **changes: object) -> float:
    """The loss of one batch at fixed noise and timesteps."""
    trainer = make_trainer(make_settings(loss=options))
    trainer.parts.prediction = trainer_prediction
    batch = collate(trainer.examples[:2], [example.latents.mean for example in trainer.examples[:2]])
    return trainer.loss(replace(batch, **changes), step_generator(0), torch.tensor([150, 600])).item()


# every option that changes a number in the loop itself, and so would show if it were not passed on
IN_THE_LOOP = [
    {"kind": "huber"},
    {"kind": "smooth_l1"},
    {"kind": "huber", "huber_c": 0.5},
    {"kind": "huber", "huber_schedule": "constant"},
    {"kind": "huber", "huber_schedule": "exponential"},
    {"min_snr_gamma": 1.0},
    {"debiased": True},
    {"noise_offset": 0.1},
    {"noise_offset": 0.1, "noise_offset_random": True},
    {"adaptive_noise_scale": 0.5},
    {"pyramid_iterations": 6},
    {"pyramid_iterations": 6, "pyramid_discount": 0.9},
    {"input_perturbation": 0.1},
    {"input_perturbation": 0.1, "input_perturbation_random": True},
]


def test_every_option_of_the_loss_reaches_the_loop() -> None:
    losses = [loss_of(LossSettings(**changes)) for changes in ({}, *IN_THE_LOOP)]
    assert len(set(losses)) == len(losses)
    assert all(math.isfinite(loss) for loss in losses)


def test_v_prediction_counts_like_noise_where_asked() -> None:
    plain = loss_of(LossSettings(), "v_prediction")
    assert loss_of(LossSettings(v_prediction_like_noise=True), "v_prediction") < plain


def test_timesteps_outside_the_range_are_never_trained() -> None:
    class Seen(Trainer):
        def _predict(self, noisy: torch.Tensor, inputs: Inputs) -> torch.Tensor:
            self.seen = inputs.timesteps
            return super()._predict(noisy, inputs)

    trainer = make_trainer(make_settings(loss=LossSettings(min_timestep=700, max_timestep=701)))
    trainer.__class__ = Seen
    trainer.step()
    assert trainer.seen.tolist() == [700]


def test_the_loss_counts_where_the_mask_is_white() -> None:
    half = torch.zeros(2, 1, 8, 8)
    half[..., :4] = 1
    options = LossSettings()
    black = loss_of(options, mask=torch.zeros(2, 1, 8, 8))
    left, right, everything = loss_of(options, mask=half), loss_of(options, mask=1 - half), loss_of(options)
    assert black == 0 < min(left, right)
    assert left + right == pytest.approx(everything, rel=1e-5)


def test_regularisation_images_count_by_the_prior_weight() -> None:
    prior = torch.tensor([False, True])
    first, both = (loss_of(LossSettings(prior_weight=w), prior=prior) for w in (0.0, 1.0))
    assert loss_of(LossSettings(prior_weight=0.25), prior=prior) == pytest.approx(first + 0.25 * (both - first))
    assert 0 < first < both == loss_of(LossSettings())


def test_datasets_are_combined_and_an_epoch_shows_as_many_regularisation_images(tmp_path: Path) -> None:
    first = scan_folder(tiny_parts.write_images(tmp_path / "a" / "first", 2), repeats=3)
    second = scan_folder(tiny_parts.write_images(tmp_path / "second", 1))
    prior = scan_folder(tiny_parts.write_images(tmp_path / "prior", 3))
    both = combine([first, second], prior)
    assert [both.name_of(s) for s in both.samples[:3]] == ["a/first/disc_0.png", "a/first/disc_1.png",
                                                           "second/disc_0.png"]  # fmt: skip
    assert [s.regularisation for s in both.samples] == [False] * 3 + [True] * 3
    assert [s.repeats for s in both.samples] == [3, 3, 1, 3, 2, 2]
    assert "Of these for regularisation: 3 (7 with repeats)" in dataset_report(both)
    assert both.content_hash != combine([first, second, prior]).content_hash
    # more than an epoch shows: the first ones are taken
    assert [s.repeats for s in combine([second], prior).samples] == [1, 1]
    with pytest.raises(DatasetError, match="no dataset to combine"):
        combine([])


def test_regularisation_images_are_never_held_out(tmp_path: Path) -> None:
    ours = scan_folder(tiny_parts.write_images(tmp_path / "ours", 2))
    prior = scan_folder(tiny_parts.write_images(tmp_path / "prior", 4))
    training, held_out = combine([ours], replace(prior, samples=prior.samples[2:])).split(1, seed=0)
    assert [s.regularisation for s in held_out.samples] == [False]
    assert sum(s.regularisation for s in training.samples) == 2


def test_regularisation_reaches_the_loss_of_a_run() -> None:
    examples = [replace(e, sample=replace(e.sample, regularisation=True)) for e in make_examples(2)]
    plain, none = (make_trainer(make_settings(loss=LossSettings(prior_weight=w)), examples) for w in (1.0, 0.0))
    assert plain.step()[0] > 0
    assert none.step()[0] == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "MSE"),
        ({"noise_offset": 0.1}, "MSE"),
        ({"kind": "huber", "min_snr_gamma": 5.0}, "huber, min-SNR 5"),
        ({"kind": "smooth_l1", "debiased": True, "mask": "alpha"}, "smooth l1, debiased, masked"),
        ({"v_prediction_like_noise": True}, "MSE, v-prediction like noise"),
    ],
)
def test_a_loss_has_a_name_that_tells_it_from_a_plain_one(given: dict[str, object], told: str) -> None:
    assert LossSettings(**given).measure == told
