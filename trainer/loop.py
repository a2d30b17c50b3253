"""The training loop: what happens in one optimizer step, and nothing about files, hosts or screens."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.utils.checkpoint import checkpoint

from .adapter import Adapters
from .attention import DirectAttention
from .bands import Validation
from .caption_variants import draw_caption
from .compiled import NO_COMPILER, compile_blocks, is_compilers
from .conditioning import Conditioner
from .convolution import use_products
from .data import Batch, Example, Plan, collate
from .device import to_device
from .ema import RunningMean
from .errors import NonFiniteLoss, SettingsError
from .frozen import compute_in
from .graphs import Graphs
from .inputs import Inputs
from .loss import draw_noise, draw_timesteps, error_per_value, huber_parameter, perturbed, weight_of_level
from .noise import add_noise, mse_per_image, step_generator, target
from .optim import effective_rates, gradient_norm, make_optimizer, make_schedule
from .precision import compute_dtype
from .processes import ALONE, Processes
from .sdxl import Parts
from .settings import TrainSettings
from .tokens import Tokenize, caption_ids

# rates of this many tensors a group are averaged for display: reading all 1972 would cost a step's time on a GPU
_SHOWN_RATES = 16


@dataclass(frozen=True)
class Step:
    """One finished optimizer step. ``step`` counts from 1; ``rates`` are effective learning rates by group."""

    step: int
    steps: int
    loss: float
    gradient_norm: float
    rates: dict[str, float]
    seconds_per_step: float
    taken: bool

    @property
    def eta(self) -> float:
        """Seconds to the end of the run."""
        return (self.steps - self.step) * self.seconds_per_step


@dataclass
class Progress:
    """Where a run stands: everything besides weights and optimizer that a resumed run needs."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    validations: list[Validation] = field(default_factory=list)


class Trainer:
    """One run over prepared examples. ``device`` is where the parts' weights lie.

    tokenize: needed where the settings let captions vary. say: takes what the user should know of, in sentences.
    """

    def __init__(
        self,
        parts: Parts,
        adapters: Adapters,
        examples: Sequence[Example],
        settings: TrainSettings,
        device: torch.device,
        tokenize: Tokenize | None = None,
        processes: Processes = ALONE,
        say: Callable[[str], None] = print,
    ) -> None:
        if settings.captions.varies and tokenize is None:
            raise ValueError("Captions that vary need a tokenizer; pass tokenize.")
        self.tokenize = tokenize
        self.parts, self.adapters, self.examples = parts, adapters, examples
        self.settings, self.device, self.processes = settings, device, processes
        self.dtype = compute_dtype(settings.precision, device)
        if device.type == "cpu":
            parts.unet.set_attn_processor(DirectAttention())
            if self.dtype == torch.bfloat16:
                use_products(parts.unet, self.dtype)
        self._narrow = adapters.narrow(accumulates=settings.gradient_accumulation > 1)
        # every layer then computes in the dtype by itself: autocast would cast to and fro around each norm, and keep
        # each widened weight for the backward pass
        self._native = self.dtype == torch.float32 or self._narrow is not None
        if self._native:
            for part in parts.modules():
                compute_in(part, self.dtype)
        if settings.compile_blocks:
            compile_blocks(parts.unet)
        self.plan = Plan(examples, settings)
        self.optimizer = make_optimizer(adapters, settings)
        self.schedule = make_schedule(self.optimizer, settings)
        # torch's fused ones leave the weights alone where a flag on the device says so: nobody needs to look first
        self._looks_itself = bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))
        # schedule-free optimizers hold other weights while they train than those that are the result
        self._averages = hasattr(self.optimizer, "train") and hasattr(self.optimizer, "eval")
        if self._averages:
            self.optimizer.train()
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.progress = Progress()
        self.rates: dict[str, float] = {}
        # seconds a step, smoothed
        self.pace = 0.0
        self._weights = adapters.parameters()
        # on only while a step lets them drop something, also where checkpointing wants everything in training mode
        adapters.train(False)
        self.mean = RunningMean(self._weights, settings.ema.decay) if settings.ema.decay else None
        self._alpha_bar = parts.alpha_bar.to(device)
        self._ahead: tuple[tuple[int, int], Inputs] | None = None
        # which of checkpointing.LEVELS is on
        self.checkpointing = "nothing"
        # images that go through the U-Net at once; None: all of a batch
        self.piece: int | None = None
        # whether a step that failed may be tried again: no weight has been touched
        self.retryable = False
        # shuffled captions hardly ever come again; those without change and the empty one do
        lasting = [example.tokens for example in examples]
        if tokenize is not None:
            lasting.append(caption_ids("", settings.captions, tokenize)[0])
        self.condition = Conditioner(parts, settings.captions, device, lasting, trained=settings.trains_text)
        self._graphs: Graphs | None = None
        if self._narrow is not None and device.type == "cuda" and settings.cuda_graphs and not settings.compile_blocks:
            self._narrow.allocate()
            self._graphs = Graphs(self._learn_narrow, say)

    def forget_graphs(self) -> None:
        """After what changes how a step is computed: how memory is spared."""
        if self._graphs is not None:
            self._graphs.clear()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._native:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The weights as the run's file holds them: around saving, validating and sampling.

        Afterwards training goes on with the very same bits as if nothing had been looked at.
        """
        # whoever turns checkpointing on puts everything into training mode
        self.adapters.train(False)
        own = None if self.mean is None or self.settings.ema.file == "beside" else self.mean.values
        with self._showing(own):
            yield

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The running mean of the weights, for the file beside; needs ``mean``."""
        with self._showing(self.mean.values if self.mean is not None else None):
            yield

    @contextlib.contextmanager
    def _showing(self, values: Sequence[torch.Tensor] | None) -> Iterator[None]:
        if values is None and not self._averages:
            yield
            return
        held = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            if self._averages:
                self.optimizer.eval()
            if values is not None:
                torch._foreach_copy_(self._weights, list(values))
        try:
            yield
        finally:
            with torch.no_grad():
                if self._averages:
                    self.optimizer.train()
                torch._foreach_copy_(self._weights, held)

    @contextlib.contextmanager
    def _dropping(self, *place: int) -> Iterator[None]:
        """Lets the adapters leave out what they are told to, by draws that follow from the seed and the place."""
        if not self.settings.adapter.drops:
            yield
            return
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            seed = step_generator(self.settings.seed, 6, *place).initial_seed()
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            self.adapters.train(True)
            try:
                yield
            finally:
                self.adapters.train(False)

    def run(self, on_step: Callable[[Step], None]) -> None:
        """Train to the settings' last step; whatever ``on_step`` raises ends the run after that step.

        Raises:
            NonFiniteLoss: the loss or the gradient is NaN or infinite; weights are those of the last good step.
            SettingsError: blocks are to be compiled, and torch.compile does not work here.
        """
        first = self.progress.step
        while self.progress.step < self.settings.steps:
            began = time.perf_counter()
            try:
                loss, norm, taken = self.step()
            except Exception as error:
                if is_compilers(error):
                    raise SettingsError(NO_COMPILER.format(error=" ".join(str(error).splitlines()[:2]))) from error
                raise
            seconds = time.perf_counter() - began
            # the first step pays for warming up; it must not spoil the estimate
            warm = self.progress.step > first + 2
            self.pace = 0.9 * self.pace + 0.1 * seconds if warm else seconds
            on_step(Step(self.progress.step, self.settings.steps, loss, norm, self.rates, self.pace, taken))

    def step(self) -> tuple[float, float, bool]:
        """One optimizer step: mean loss, gradient norm before clipping, and whether fp16 let it be taken."""
        number = self.progress.step
        micro = self.plan.micro_batches(number)
        total = torch.zeros((), device=self.device)
        # one process cannot try again by itself what all of them add up
        self.retryable = self.processes.count == 1
        try:
            for place, indices in enumerate(micro):
                rows = self.processes.rows(len(indices))
                if (own := rows.stop - rows.start) == 0:
                    continue
                inputs = self._drawn(indices, number, place)
                with self._dropping(number, place):
                    total += self._learn(inputs, own / len(indices) / len(micro))
            total = self.processes.add(total)
            self.processes.add_gradients(self._weights)
            self.retryable = False
            loss, norm, taken = self._update(number, total)
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.losses.append(loss)
        self.progress.skipped += not taken
        return loss, norm, taken

    def _learn(self, inputs: Inputs, share: float) -> torch.Tensor:
        """Add a micro-batch's gradients to those of the step; its share of the loss, (), detached."""
        if self._narrow is None:
            return self._backward(inputs, share)
        loss = (self._graphs or self._learn_narrow)(inputs, share)
        self._narrow.collect()
        return loss

    def _learn_narrow(self, inputs: Inputs, share: float | torch.Tensor) -> torch.Tensor:
        """The same through the narrow weights, with the gradients left in their ``fresh``."""
        # of a step that found no memory
        self._narrow.forget()
        self._narrow.renew()
        with self._narrow.in_use():
            loss = self._backward(inputs, share)
        self._narrow.widen()
        return loss

    def _backward(self, inputs: Inputs, share: float | torch.Tensor) -> torch.Tensor:
        loss = self.loss_of(inputs) * share
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _update(self, number: int, total: torch.Tensor) -> tuple[float, float, bool]:
        self.scaler.unscale_(self.optimizer)
        clipped = gradient_norm(self._weights, self.settings.max_grad_norm)
        result = torch.stack([total, clipped])
        # what is not finite must not touch a weight
        if self._looks_itself:
            self._step_if_finite(result)
        # while a GPU still computes
        self._draw_ahead(number + 1)
        # the one place where a step waits for the device
        loss, norm = result.tolist()
        finite = math.isfinite(norm)
        if not math.isfinite(loss) or not (finite or self.scaler.is_enabled()):
            raise NonFiniteLoss(number + 1)
        if not self._looks_itself:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.mean is not None and finite:
            self.mean.update(self._weights)
        # before the schedule moves on: the rates that this step was taken with
        self.rates = effective_rates(self.optimizer, _SHOWN_RATES)
        # as accelerate does, a step that was not taken counts for no schedule
        if self.schedule is not None and finite:
            self.schedule.step()
        return loss, norm, finite

    def _step_if_finite(self, result: torch.Tensor) -> None:
        """A step of an optimizer that reads a flag on the device; a scaler of fp16 raises its own."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            return
        self.optimizer.found_inf = (~result.isfinite().all()).float()
        try:
            self.scaler.step(self.optimizer)
        finally:
            del self.optimizer.found_inf

    def _drawn(self, indices: Sequence[int], step: int, place: int) -> Inputs:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == (step, place):
            return ahead[1]
        batch = replace(self.draw(indices, step, place), rows=self.processes.rows(len(indices)))
        return self.inputs(batch, step_generator(self.settings.seed, 2, step, place))

    def _draw_ahead(self, step: int) -> None:
        """The next step's first micro-batch; what is drawn follows from the step alone, whenever it is."""
        if step >= self.settings.steps:
            return
        indices = self.plan.micro_batches(step)[0]
        rows = self.processes.rows(len(indices))
        if rows.stop > rows.start:
            self._ahead = (step, 0), self._drawn(indices, step, 0)

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
