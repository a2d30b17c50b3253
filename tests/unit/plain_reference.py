"""SDXL LoRA training written a second time, in plain torch, to hold the trainer's numbers against.

Nothing here comes from the trainer, diffusers, peft or transformers. The U-Net and both text encoders are functions
of a state dict in the checkpoint's own names (Stability's generative-models; CLIP of Radford et al., 2021), LoRA is
added where a layer has a pair of matrices under kohya's key, Adafactor is the formula of Shazeer and Stern (2018)
with the defaults of transformers, and random numbers follow the rule in `draw`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
import torch
from torch.nn import functional as F

State = dict[str, torch.Tensor]
END = 49407


def draw(seed: int, *place: int) -> torch.Generator:
    """The generator of one place in a run: the seed, mixed with each number of the place by splitmix64's rounds.

    Places: (0, image) for latents drawn once; (1, step, micro-batch, position) for latents drawn anew;
    (2, step, micro-batch) for timesteps, then noise, of the whole micro-batch.
    """
    state = seed % 2**63
    for number in place:
        state = (state + 0x9E3779B97F4A7C15 * (number + 1)) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = (state ^ (state >> 27)) & (2**63 - 1)
    generator = torch.Generator()
    generator.manual_seed(state)
    return generator


def order(buckets: Sequence[tuple[int, int]], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch: images are shuffled in each bucket (buckets by size), then batches among each other; PCG64."""
    random = numpy.random.default_rng([seed, epoch])
    groups = defaultdict(list)
    for index, bucket in enumerate(buckets):
        groups[bucket].append(index)
    batches = []
    for bucket in sorted(groups):
        shuffled = list(random.permutation(groups[bucket]))
        batches += [[int(i) for i in shuffled[start : start + batch]] for start in range(0, len(shuffled), batch)]
    return [batches[i] for i in random.permutation(len(batches))]


def kohya_size_ids(width: int, height: int, bucket: tuple[int, int]) -> list[float]:
    """Original height and width, the crop of an image *contained* in the bucket, the bucket's height and width."""
    scale = min(bucket[0] / width, bucket[1] / height)
    left, top = (int((side - scale * own) // 2) for side, own in zip(bucket, (width, height), strict=True))
    return [float(v) for v in (height, width, top, left, bucket[1], bucket[0])]


def sinusoids(values: torch.Tensor, width: int) -> torch.Tensor:
    """(N,) to (N, width): cosines, then sines, of frequencies falling from 1 to 1/10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=values.dtype) / half)
    angles = values[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@dataclass
class Network:
    """Weights of one network, and LoRA pairs by kohya's key `prefix` + layer with underscores."""

    weights: State
    prefix: str
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    scale: float = 1.0

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        out = F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))
        if (pair := self.pairs.get(self.prefix + name.replace(".", "_"))) is not None:
            down, up = pair
            out = out + self.scale * (x @ down.T @ up.T)
        return out

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def layer_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def group_norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.group_norm(x, 32, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def has(self, name: str) -> bool:
        return any(key.startswith(f"{name}.") for key in self.weights)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int, causal: bool = False
) -> torch.Tensor:
    """Softmax attention of (N, L, C) over (N, S, C)."""
    queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


def clip(
    net: Network, ids: torch.Tensor, heads: int, activation: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden state before the last layer, last hidden state after the final norm), each (N, 77, C)."""
    embeddings = "text_model.embeddings"
    x = net.weights[f"{embeddings}.token_embedding.weight"][ids]
    x = x + net.weights[f"{embeddings}.position_embedding.weight"]
    states = [x]
    while net.has(layer := f"text_model.encoder.layers.{len(states) - 1}"):
        inner = net.layer_norm(f"{layer}.layer_norm1", x)
        q, k, v = (net.linear(f"{layer}.self_attn.{part}_proj", inner) for part in "qkv")
        x = x + net.linear(f"{layer}.self_attn.out_proj", attend(q, k, v, heads, causal=True))
        inner = net.linear(f"{layer}.mlp.fc1", net.layer_norm(f"{layer}.layer_norm2", x))
        x = x + net.linear(f"{layer}.mlp.fc2", activation(inner))
        states.append(x)
    return states[-2], net.layer_norm("text_model.final_layer_norm", x)


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def condition(te1: Network, te2: Network, words: Sequence[Sequence[int]], heads: int) -> tuple[torch.Tensor, ...]:
    """Captions as CLIP's ids without start and end to SDXL's context (N, 77, C) and pooled output (N, C')."""
    rows = [[49406, *list(row)[:75], END] for row in words]
    first = torch.tensor([row + [END] * (77 - len(row)) for row in rows])
    second = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
    context1, _ = clip(te1, first, heads, quick_gelu)
    context2, last = clip(te2, second, heads, F.gelu)
    pooled = torch.stack([last[n, len(row) - 1] for n, row in enumerate(rows)])
    return torch.cat([context1, context2], dim=-1), pooled @ te2.weights["text_projection.weight"].T


def resnet(net: Network, name: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    h = net.conv(f"{name}.in_layers.2", F.silu(net.group_norm(f"{name}.in_layers.0", x, 1e-5)))
    h = h + net.linear(f"{name}.emb_layers.1", F.silu(time))[:, :, None, None]
    h = net.conv(f"{name}.out_layers.3", F.silu(net.group_norm(f"{name}.out_layers.0", h, 1e-5)))
    return h + (net.conv(f"{name}.skip_connection", x) if net.has(f"{name}.skip_connection") else x)


def transformer(net: Network, name: str, x: torch.Tensor, context: torch.Tensor, head: int) -> torch.Tensor:
    heads = x.shape[1] // head
    tokens = net.linear(f"{name}.proj_in", net.group_norm(f"{name}.norm", x, 1e-6).flatten(2).transpose(1, 2))
    depth = 0
    while net.has(block := f"{name}.transformer_blocks.{depth}"):
        for number, source in ((1, None), (2, context)):
            inner = net.layer_norm(f"{block}.norm{number}", tokens)
            over = inner if source is None else source
            q, k, v = (net.linear(f"{block}.attn{number}.to_{p}", y) for p, y in zip("qkv", (inner, over, over)))  # noqa: B905
            tokens = tokens + net.linear(f"{block}.attn{number}.to_out.0", attend(q, k, v, heads))
        inner, gate = net.linear(f"{block}.ff.net.0.proj", net.layer_norm(f"{block}.norm3", tokens)).chunk(2, dim=-1)
        tokens = tokens + net.linear(f"{block}.ff.net.2", inner * F.gelu(gate))
        depth += 1
    return x + net.linear(f"{name}.proj_out", tokens).transpose(1, 2).unflatten(2, x.shape[2:])


def unet(
    net: Network,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    pooled: torch.Tensor,
    size_ids: torch.Tensor,
    head: int,
) -> torch.Tensor:
    """SDXL's U-Net, block by block as the checkpoint numbers them."""
    width = net.weights["input_blocks.0.0.weight"].shape[0]
    time = net.linear("time_embed.2", F.silu(net.linear("time_embed.0", sinusoids(timesteps.to(x.dtype), width))))
    sizes = sinusoids(size_ids.flatten(), 256).view(len(x), -1)
    label = F.silu(net.linear("label_emb.0.0", torch.cat([pooled, sizes], dim=-1)))
    time = time + net.linear("label_emb.0.2", label)

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        part = 0
        while net.has(inner := f"{name}.{part}"):
            if net.has(f"{inner}.in_layers"):
                x = resnet(net, inner, x, time)
            elif net.has(f"{inner}.transformer_blocks"):
                x = transformer(net, inner, x, context, head)
            elif net.has(f"{inner}.op"):
                x = net.conv(f"{inner}.op", x, stride=2)
            elif net.has(f"{inner}.conv"):
                x = net.conv(f"{inner}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = net.conv(inner, x)
            part += 1
        return x

    kept = []
    while net.has(name := f"input_blocks.{len(kept)}"):
        x = block(name, x)
        kept.append(x)
    x = block("middle_block", x)
    for number in range(len(kept)):
        x = block(f"output_blocks.{number}", torch.cat([x, kept.pop()], dim=1))
    return net.conv("out.2", F.silu(net.group_norm("out.0", x, 1e-5)))


@dataclass
class Adafactor:
    """Shazeer and Stern (2018) with relative steps and scaled parameters, for matrices, as transformers has it."""

    parameters: list[torch.Tensor]
    step_count: dict[int, int] = field(default_factory=dict)
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    columns: dict[int, torch.Tensor] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)

    @torch.no_grad()
    def step(self) -> None:
        for index, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            t = self.step_count[index] = self.step_count.get(index, 0) + 1
            rms = p.square().mean().sqrt().item()
            rate = self.rates[index] = min(1e-2, 1 / math.sqrt(t)) * max(1e-3, rms)
            decay = 1 - t**-0.8
            square = p.grad**2 + 1e-30
            rows = self.rows[index] = decay * self.rows.get(index, 0) + (1 - decay) * square.mean(1)
            columns = self.columns[index] = decay * self.columns.get(index, 0) + (1 - decay) * square.mean(0)
            update = p.grad / torch.sqrt(torch.outer(rows / rows.mean(), columns))
            update = update / max(1.0, update.square().mean().sqrt().item())
            p -= rate * update


def clip_joint_norm(parameters: Sequence[torch.Tensor], maximum: float) -> float:
    """The norm of all gradients together, which are scaled to `maximum` where it is larger."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(g.double().square().sum().item() for g in grads))
    for grad in grads:
        grad.mul_(min(1.0, maximum / (norm + 1e-6)))
    return norm
