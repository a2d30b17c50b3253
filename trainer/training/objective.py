"""What a run minimizes: from images and captions to the loss, with everything that is drawn on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from ..adapters.attention import LoraAttention
from ..adapters.texts import KeptTexts
from ..device import to_device
from ..sdxl.compiled import compile_blocks
from ..sdxl.convolution import use_products
from ..sdxl.frozen import compute_in
from ..sdxl.parts import Parts
from ..sdxl.precision import compute_dtype
from ..sdxl.tokens import Tokenize, caption_ids
from ..settings.training import TrainSettings
from .caption_variants import draw_caption
from .conditioning import Conditioner
from .data import Batch, Example, Plan, collate
from .inputs import Inputs
from .loss import draw_noise, draw_timesteps, error_per_value, huber_parameter, perturbed, weight_of_level
from .noise import add_noise, mse_per_image, step_generator, target


class Objective:
    """The loss of a run's settings over prepared examples. Every draw follows from the seed and the step alone.

    fused: whether every adapted layer computes in the settings' precision by itself.

    Raises:
        ValueError: the captions vary, and there is no tokenizer.
    """

    def __init__(
        self,
        parts: Parts,
        examples: Sequence[Example],
        settings: TrainSettings,
        device: torch.device,
        tokenize: Tokenize | None,
        *,
        fused: bool,
    ) -> None:
        if settings.captions.varies and tokenize is None:
            raise ValueError("Captions that vary need a tokenizer; pass tokenize.")
        self.parts, self.examples, self.settings = parts, examples, settings
        self.device, self.tokenize = device, tokenize
        self.dtype = compute_dtype(settings.precision, device)
        # every layer then computes in the dtype by itself: autocast would cast to and fro around each norm, and keep
        # each widened weight for the backward pass
        self._native = fused or self.dtype == torch.float32
        # of captions that change what is kept would hardly ever come again
        self.texts = KeptTexts(0) if settings.captions.varies else KeptTexts()
        self._prepare_networks()
        self.plan = Plan(examples, settings)
        self._alpha_bar = parts.alpha_bar.to(device)
        # images that go through the U-Net at once; None: all of a batch
        self.piece: int | None = None
        # shuffled captions hardly ever come again; those without change and the empty one do
        lasting = [example.tokens for example in examples]
        if tokenize is not None:
            lasting.append(caption_ids("", settings.captions, tokenize)[0])
        self.condition = Conditioner(parts, settings.captions, device, lasting, trained=settings.trains_text)

    def _prepare_networks(self) -> None:
        unet = self.parts.unet
        if self.device.type == "cpu":
            unet.set_attn_processor(LoraAttention(self.texts))
            if self.dtype == torch.bfloat16:
                use_products(unet, self.dtype)
        if self._native:
            for part in self.parts.modules():
                compute_in(part, self.dtype)
        if self.settings.compile_blocks:
            compile_blocks(unet)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Around whatever computes with the networks."""
        if self._native:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def draw(self, indices: Sequence[int], step: int, place: int) -> Batch:
        """A micro-batch: of each image a sample of its posterior, mirrored or not, with the words it is seen with."""
        seed, epoch = self.settings.seed, self.plan.epoch_of(step)
        chosen, latents, tokens = [], [], []
        for position, index in enumerate(indices):
            here = (step, place, position)
            example = self.examples[index]
            mirrored = example.mirrored is not None and torch.rand(1, generator=step_generator(seed, 3, *here)) < 0.5
            if mirrored and example.mirrored is not None:
                example = example.mirrored
            once = (5, index) if mirrored else (0, index)
            where = once if self.settings.latents == "sample_once" else (1, *here)
            latents.append(example.latents.sample(step_generator(seed, *where)))
            tokens.append(self._words(example, step_generator(seed, 4, *here), epoch))
            chosen.append(example)
        return collate(chosen, latents, tokens)

    def _words(self, example: Example, generator: torch.Generator, epoch: int) -> torch.Tensor:
        options = self.settings.captions
        if not options.varies or self.tokenize is None:
            return example.tokens
        return caption_ids(draw_caption(example.sample.caption, options, generator, epoch), options, self.tokenize)[0]

    def loss(self, batch: Batch, generator: torch.Generator, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        """What is minimized: the settings' loss at random timesteps, or at the given ones, (N,) int64."""
        return self.loss_of(self.inputs(batch, generator, timesteps))

    def inputs(self, batch: Batch, generator: torch.Generator, timesteps: torch.Tensor | None = None) -> Inputs:
        """Everything of a micro-batch that is drawn, on the device.

        Numbers are drawn for the whole batch; only this process's rows of it are computed.
        """
        options = self.settings.loss
        if timesteps is None:
            timesteps = draw_timesteps(len(batch.latents), len(self._alpha_bar), options, generator)
        x0 = to_device(batch.latents, self.device) * self.parts.latent_scale
        noise = draw_noise(x0, options, generator)
        seen = perturbed(noise, options, generator)
        x0, noise, seen, timesteps, batch = (*(t[batch.rows] for t in (x0, noise, seen, timesteps)), batch.own())
        return self._inputs(batch, x0, noise, seen, timesteps)

    def _inputs(
        self, batch: Batch, x0: torch.Tensor, noise: torch.Tensor, seen: torch.Tensor, timesteps: torch.Tensor
    ) -> Inputs:
        mask = None if batch.mask is None else to_device(batch.mask, self.device)
        timesteps, time_ids, prior = (
            to_device(tensor, self.device) for tensor in (timesteps, batch.time_ids, batch.prior)
        )  # fmt: skip
        with self.autocast():
            words = self.condition.words(batch.tokens)
        return Inputs(x0, noise, seen, timesteps, time_ids, words, mask, prior)

    def loss_of(self, inputs: Inputs) -> torch.Tensor:
        """The settings' loss, (), of what is on the device alone."""
        options = self.settings.loss
        alpha_bar = self._alpha_bar[inputs.timesteps]
        guess = self._predict(add_noise(inputs.x0, inputs.seen, alpha_bar), inputs)
        goal = target(inputs.x0, inputs.noise, alpha_bar, self.parts.prediction)
        c = None if options.kind == "l2" else huber_parameter(alpha_bar, inputs.timesteps, options)
        error = error_per_value(guess, goal, c, options)
        if inputs.mask is not None:
            error = error * inputs.mask
        weight = weight_of_level(alpha_bar, self.parts.prediction, options)
        weight = torch.where(inputs.prior, weight * options.prior_weight, weight)
        return (error.mean(dim=(1, 2, 3)) * weight).mean()

    def loss_per_image(self, batch: Batch, generator: torch.Generator, timesteps: torch.Tensor) -> torch.Tensor:
        """Plain squared error with plain noise at given timesteps, (N,) int64 to (N,): comparable between any runs."""
        x0 = to_device(batch.latents, self.device) * self.parts.latent_scale
        noise = to_device(torch.randn(batch.latents.shape, generator=generator), self.device)
        inputs = self._inputs(batch, x0, noise, noise, timesteps)
        alpha_bar = self._alpha_bar[inputs.timesteps]
        guess = self._predict(add_noise(x0, noise, alpha_bar), inputs)
        return mse_per_image(guess, target(x0, noise, alpha_bar, self.parts.prediction))

    def _predict(self, noisy: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """The U-Net's guess; where memory is short in pieces, each computed again in its backward pass."""
        given = noisy, inputs.timesteps, inputs.time_ids, *inputs.words
        if self.piece is None or len(noisy) <= self.piece or not torch.is_grad_enabled():
            return self._guess(*given)
        how = {"use_reentrant": False, "preserve_rng_state": self.settings.adapter.drops}
        pieces = zip(*(tensor.split(self.piece) for tensor in given), strict=True)
        return torch.cat([checkpoint(self._guess, *piece, **how) for piece in pieces])

    def _guess(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, time_ids: torch.Tensor, *words: torch.Tensor
    ) -> torch.Tensor:
        with self.autocast():
            context, pooled = self.condition.encoded(words)
            if self._native:
                noisy, context, pooled = (tensor.to(self.dtype) for tensor in (noisy, context, pooled))
            extra = {"text_embeds": pooled, "time_ids": time_ids}
            return self.parts.unet(
                noisy, timesteps, encoder_hidden_states=context, added_cond_kwargs=extra, return_dict=False
            )[0]
