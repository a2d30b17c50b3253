"""The training loop: what happens in one optimizer step, and nothing about files, hosts or screens."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..adapters.adapters import Adapters
from ..device import has_all_kernels
from ..errors import NonFiniteLoss, SettingsError
from ..sdxl.compiled import NO_COMPILER, is_compilers
from ..sdxl.parts import Parts
from ..sdxl.tokens import Tokenize
from ..settings.training import TrainSettings
from ..undisturbed import undisturbed
from .bands import Validation
from .data import Example
from .ema import RunningMean
from .graphs import Graphs
from .inputs import Inputs
from .noise import step_generator
from .objective import Objective
from .optim import effective_rates, gradient_norm, make_optimizer, make_schedule
from .processes import ALONE, Processes

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
    # that all steps took, in whatever process
    seconds: float = 0.0


class Trainer(Objective):
    """One run over prepared examples: what is minimized, and the optimizer that does it.

    device: where the parts' weights lie. tokenize: needed where the settings let captions vary. say: takes what the
    user should know of, in sentences.
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
        self._narrow = adapters.narrow(accumulates=settings.gradient_accumulation > 1)
        super().__init__(parts, examples, settings, device, tokenize, fused=self._narrow is not None)
        self.adapters, self.processes = adapters, processes
        # weights that are moved together round apart from those moved one by one, and a process without rows moves so
        self.optimizer = make_optimizer(adapters, settings, self._narrow if processes.count == 1 else None)
        self.schedule = make_schedule(self.optimizer, settings)
        # torch's fused ones leave the weights alone where a flag on the device says so: nobody needs to look first
        flagged = bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))
        self._looks_itself = flagged and has_all_kernels(device)
        self._may_draw = type(self.optimizer).__module__.startswith("pytorch_optimizer")
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
        self._ahead: tuple[tuple[int, int], Inputs] | None = None
        # which of checkpointing.LEVELS is on
        self.checkpointing = "nothing"
        # whether a step that failed may be tried again: no weight has been touched
        self.retryable = False
        # whether weights and number of steps fit together; an error amid an update leaves them apart for good
        self.whole = True
        self._graphs: Graphs | None = None
        # whether CUDA graphs are wanted and cannot be
        self.unrecorded = False
        if device.type == "cuda" and settings.cuda_graphs and not settings.compile_blocks:
            self.unrecorded = self._narrow is None
            if self._narrow is not None:
                self._graphs = Graphs(self._learn_narrow, say)

    @property
    def records_graphs(self) -> bool:
        """Whether steps are recorded as CUDA graphs, whose memory is theirs alone."""
        return self._graphs is not None

    def forget_graphs(self) -> None:
        """After what changes how a step is computed: how memory is spared."""
        if self._graphs is not None:
            self._graphs.clear()

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
        with self._seeded(6, *place):
            self.adapters.train(True)
            try:
                yield
            finally:
                self.adapters.train(False)

    @contextlib.contextmanager
    def _optimizers_draws(self, number: int) -> Iterator[None]:
        """Around a step of an optimizer that may draw, as some of pytorch-optimizer's do."""
        with self._seeded(7, number) if self._may_draw else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def _seeded(self, *place: int) -> Iterator[None]:
        """torch's own generators as the settings' seed and the place make them; the host's numbers stay as they are."""
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            seed = step_generator(self.settings.seed, *place).initial_seed()
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

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
            self.progress.seconds += seconds
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
            # else the state that is saved then would have the weights of one step and the number of another
            with undisturbed():
                loss, norm, taken = self._update(number, total)
                self.progress.step += 1
                self.progress.losses.append(loss)
                self.progress.skipped += not taken
                self.whole = True
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return loss, norm, taken

    def _learn(self, inputs: Inputs, share: float) -> torch.Tensor:
        """Add a micro-batch's gradients to those of the step; its share of the loss, (), detached."""
        if self._narrow is None:
            return self._backward(inputs, share)
        loss = (self._graphs or self._learn_narrow)(inputs, share)
        self._narrow.collect()
        return loss

    def _learn_narrow(self, inputs: Inputs, share: float | torch.Tensor) -> torch.Tensor:
        """The same through the narrow weights, with the gradients left for ``collect``."""
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
        if all(weight.grad is None for weight in self._weights):
            return self._pass_over(number, total)
        self.scaler.unscale_(self.optimizer)
        # several processes must clip by the same number to the bit, and one without rows has no joined gradient
        alone = self._narrow is not None and self.processes.count == 1
        joined = self._narrow.joined_gradient() if alone else None
        clipped = gradient_norm(self._weights, self.settings.max_grad_norm, joined)
        result = torch.stack([total, clipped])
        # what is not finite must not touch a weight
        if self._looks_itself:
            self.whole = False
            with self._optimizers_draws(number):
                self._step_if_finite(result)
        # while a GPU still computes; what fails here fails again in the next step, where no weight is touched yet
        with contextlib.suppress(Exception):
            self._draw_ahead(number + 1)
        # the one place where a step waits for the device
        loss, norm = result.tolist()
        finite = math.isfinite(norm)
        if not math.isfinite(loss) or not (finite or self.scaler.is_enabled()):
            raise NonFiniteLoss(number + 1, self._cure())
        if not self._looks_itself and not self._stands_still():
            self.whole = False
            with self._optimizers_draws(number):
                self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.mean is not None and finite:
            self.mean.update(self._weights, number)
        # before the schedule moves on: the rates that this step was taken with
        self.rates = effective_rates(self.optimizer, _SHOWN_RATES)
        # as accelerate does, a step that was not taken counts for no schedule
        if self.schedule is not None and finite:
            self.schedule.step()
        return loss, norm, finite

    def _cure(self) -> str:
        """What may help where the loss is no number."""
        if self.settings.adafactor_relative_step:
            slower = "choose another optimizer, or give Adafactor a learning rate without relative_step"
        else:
            slower = "lower the learning rate"
        return slower + ", or train in bf16 or fp32 instead of fp16" * self.scaler.is_enabled()

    def _stands_still(self) -> bool:
        """Whether the step is none: a warm-up begins at the rate 0, where prodigyopt and dadaptation, unlike their
        counterparts in pytorch-optimizer, leave their estimates alone too."""
        return self.settings.finds_own_rate and not any(group["lr"] for group in self.optimizer.param_groups)

    def _pass_over(self, number: int, total: torch.Tensor) -> tuple[float, float, bool]:
        """A step whose draws left out every module: there is nothing to unscale, to clip or to move."""
        if not math.isfinite(loss := total.item()):
            raise NonFiniteLoss(number + 1, self._cure())
        if self.mean is not None:
            self.mean.update(self._weights, number)
        if self.schedule is not None:
            self.schedule.step()
        return loss, 0.0, True

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
