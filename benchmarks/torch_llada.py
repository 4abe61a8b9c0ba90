"""The LLaDA network, its sampling loop and d1's update in plain PyTorch, to compare with.

Written for these benchmarks from the published descriptions.  It runs eagerly, as LLaDA's
`generate` and d1's trainer do.  Where there was a choice, the faster form was taken: only the
completion's positions are projected to the vocabulary (LLaDA projects all), tables of the rotary
embedding are computed once, and attention is `scaled_dot_product_attention`, without a mask as in
d1.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """x += o(attention(rope(q), rope(k), v)); x += down(silu(gate(h)) * up(h)); no biases."""

    def __init__(self, width: int, heads: int, ff: int, eps: float):
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ff_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        for name in ("q", "k", "v", "o"):
            setattr(self, name, nn.Linear(width, width, bias=False))
        self.gate, self.up = nn.Linear(width, ff, bias=False), nn.Linear(width, ff, bias=False)
        self.down = nn.Linear(ff, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:  # [B S D] -> [B H S Dh]
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        h = self.attn_norm(x)
        q, k = _rotate(split(self.q(h)), cos, sin), _rotate(split(self.k(h)), cos, sin)
        y = F.scaled_dot_product_attention(q, k, split(self.v(h)))
        x = x + self.o(y.transpose(1, 2).reshape(x.shape))
        h = self.ff_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Denoiser(nn.Module):
    """Maps tokens [B S] to logits [B L V] of the last L positions; the output head is not tied."""

    def __init__(
        self, *, vocab: int, width: int, layers: int, heads: int, ff: int, theta: float, eps: float
    ):
        super().__init__()
        self.theta, self.half = theta, width // heads // 2
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, ff, eps) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps)
        self.unembed = nn.Linear(width, vocab, bias=False)
        self._rope: dict[int, tuple[Tensor, Tensor]] = {}  # by sequence length

    def forward(self, tokens: Tensor, length: int) -> Tensor:
        cos, sin = self._table(tokens.shape[1])
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.unembed(self.norm(x[:, -length:]))

    def _table(self, length: int) -> tuple[Tensor, Tensor]:
        if length not in self._rope:
            frequency = self.theta ** (-torch.arange(self.half) / self.half)
            angle = torch.arange(length)[:, None] * frequency
            angle = torch.cat([angle, angle], dim=-1)
            self._rope[length] = (angle.cos(), angle.sin())
        return self._rope[length]


def from_jax(params: dict[str, Any], *, heads: int, theta: float, eps: float) -> Denoiser:
    """Returns the same network with the same weights.

    Args:
      params: `params["denoiser"]` of `diffpo_jax.models`, without learned positions.
    """
    p = {name: _flat(value) for name, value in params.items()}
    vocab, width = p["embed"].shape
    layers, _, ff = p["blocks"]["gate"].shape
    model = Denoiser(
        vocab=vocab, width=width, layers=layers, heads=heads, ff=ff, theta=theta, eps=eps
    )
    state = {
        "embed.weight": p["embed"],
        "norm.weight": p["norm"]["scale"],
        "unembed.weight": p["unembed"].T,
    }
    for i in range(layers):
        for name, value in p["blocks"].items():
            one = value["scale"] if isinstance(value, dict) else value
            # torch stores kernels as [out, in]; the transpose of a vector is the vector.
            state[f"blocks.{i}.{name}.weight"] = one[i].T
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return model


def gradients_as_jax(model: Denoiser, gradients: list[Tensor]) -> dict[str, Any]:
    """Converts gradients, in the order of `model.parameters()`, to the dict of `from_jax`."""
    by_name = {name: g.numpy().T for (name, _), g in zip(model.named_parameters(), gradients)}
    blocks: dict[str, Any] = {}
    for name in ("q", "k", "v", "o", "gate", "up", "down"):
        each = [by_name[f"blocks.{i}.{name}.weight"] for i in range(len(model.blocks))]
        blocks[name] = np.stack(each)
    for name in ("attn_norm", "ff_norm"):
        each = [by_name[f"blocks.{i}.{name}.weight"] for i in range(len(model.blocks))]
        blocks[name] = {"scale": np.stack(each)}
    return {
        "embed": by_name["embed.weight"].T,
        "blocks": blocks,
        "norm": {"scale": by_name["norm.weight"]},
        "unembed": by_name["unembed.weight"],
    }


@torch.no_grad()
def generate(model: Denoiser, prompts: Tensor, length: int, calls: int, mask_id: int) -> Tensor:
    """Runs LLaDA's loop at temperature 0 and returns the completion [B L].

    Each call commits the masked position of least entropy; the last call commits all that is left.
    """
    masks = torch.full((prompts.shape[0], length), mask_id)
    x = torch.cat([prompts, masks], dim=1)
    completion = x[:, -length:]  # a view
    for call in range(calls):
        logits = model(x, length)
        logits[..., mask_id] = -torch.inf
        p = logits.softmax(-1)
        choice = p.argmax(-1)
        entropy = torch.special.entr(p).sum(-1)
        open_ = completion == mask_id
        if call == calls - 1:
            completion[open_] = choice[open_]
        else:
            place = torch.where(open_, entropy, torch.inf).argmin(1, keepdim=True)
            completion.scatter_(1, place, choice.gather(1, place))
    return completion.clone()


def gradient(
    model: Denoiser, prompts: Tensor, completion: Tensor, advantage: Tensor, mask_id: int
) -> list[Tensor]:
    """Returns the gradients of d1's policy-gradient loss, scored from the all-mask state."""
    length = completion.shape[1]
    x = torch.cat([prompts, torch.full_like(completion, mask_id)], dim=1)
    logits = model(x, length)
    logits[..., mask_id] = -torch.inf
    log_p = logits.log_softmax(-1).gather(-1, completion[..., None])[..., 0]
    rho = (log_p - log_p.detach()).exp()
    loss = -(rho * advantage[:, None]).mean()
    return list(torch.autograd.grad(loss, list(model.parameters())))


@torch.no_grad()
def generate_by_confidence(
    model: Denoiser, prompts: Tensor, length: int, calls: int, temperature: float, mask_id: int
) -> Tensor:
    """Runs LLaDA's loop with its own rule and returns the completion [B L].

    Each call draws a token at every position and commits the masked positions whose tokens have the
    largest probabilities (untempered), L / calls of them; the first calls commit one more if that
    leaves a rest.  Noise is float32, and one top-k takes all rows.
    """
    masks = torch.full((prompts.shape[0], length), mask_id)
    x = torch.cat([prompts, masks], dim=1)
    completion = x[:, -length:]  # a view
    for call in range(calls):
        logits = model(x, length)
        logits[..., mask_id] = -torch.inf
        noisy = logits
        if temperature:
            exponential = torch.empty_like(logits).exponential_()
            noisy = logits / temperature - exponential.log_()
        choice = noisy.argmax(-1)
        chosen = logits.gather(-1, choice[..., None])[..., 0]
        confidence = (chosen - logits.logsumexp(-1)).masked_fill(completion != mask_id, -torch.inf)
        count = length // calls + (call < length % calls)
        place = confidence.topk(count, dim=1).indices
        completion.scatter_(1, place, choice.gather(1, place))
    return completion.clone()


def anchored_loss(
    model: Denoiser,
    prompts: Tensor,
    states: list[Tensor],
    scored: list[Tensor],
    completion: Tensor,
    advantage: Tensor,
) -> Tensor:
    """Returns the policy-gradient loss with one denoiser pass per anchor.

    Args:
      states: the completion [B L] at each anchor; for d1, only the all-mask state.
      scored: the tokens [B L] that each anchor scores.
    """
    length, total = completion.shape[1], torch.zeros(completion.shape)
    for state, here in zip(states, scored):
        logits = model(torch.cat([prompts, state], dim=1), length)
        nll = F.cross_entropy(logits.flatten(0, 1), completion.flatten(), reduction="none")
        total = total - torch.where(here, nll.view_as(completion), 0.0)
    rho = (total - total.detach()).exp()
    clipped = rho.clamp(0.8, 1.2)
    return -torch.minimum(rho * advantage[:, None], clipped * advantage[:, None]).mean()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs (i, i + Dh/2): the half-split convention."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _flat(v) for name, v in value.items()}
    return np.asarray(value)
