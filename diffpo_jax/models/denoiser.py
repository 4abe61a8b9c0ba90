"""The LLaDA block and the denoiser made of it, in flax.linen.

Pre-norm transformer, bidirectional: x += o(attention(rope(q), rope(k), v)), then
x += down(silu(gate(h)) * up(h)), RMSNorm before each.  No biases, or those of q, k and v (Qwen).
Parameters of the blocks are stacked on a leading axis by `nn.scan`.  A LoRA adapter is a collection
of its own, "adapter": given, its products are added to the kernels' (see `lora`).

This file and `threshold_head` are the only ones that import flax.linen.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.models import attention, quantization


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes and numerics of a denoiser; letters as in `types`."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    qkv_bias: bool
    rope_theta: float
    norm_eps: float
    embedding_std: float
    positions: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    remat: bool
    scan_unroll: int
    # XLA's CPU backend fuses the transposition that a weight gradient needs into the
    # elementwise work before it, and then writes with strides: 2x the whole gradient's time.
    # A barrier around each product keeps them apart.  Off on GPU and TPU, where fusion wins.
    barriers: bool
    attention: str = "plain"  # the way of it, as `attention.attend` names them
    # Rounded kernels are multiplied out apart from the product that reads them: XLA's GPU compiler
    # (jax 0.11.2, an H200) fell over nf4's fused into it.  TPU's fuses them, and saves their room.
    apart: bool = False
    tied: bool = False  # logits are products with the embedding
    adapter_scale: float = 0.0  # alpha / r of the adapter, where one is given
    # How activations lie on several devices, by their rows.  Left to itself XLA takes the split of
    # the weights' width for that of the activations: every device then works on every row, and
    # what is summed between devices is activations, many times the weights.  None: one device.
    rows: NamedSharding | None = None


class Seen(NamedTuple):
    """What every block is given beside its input: the whole rows it attends over."""

    mask: Bool[Array, "B S"]
    rope: tuple[Float[Array, "B 1 q Dh2"], Float[Array, "B 1 q Dh2"]]  # of the positions at work
    start: Int[Array, "B"] | None  # the first of them, where they are only part of the row


class Denoiser(nn.Module):
    """tokens Int[B S], mask Bool[B S] -> normalised hidden states [B S D]; `logits` reads them.

    With `keeps`, also every layer's keys and values, [layers B Hk S Dh] each, for `within`.
    """

    shape: Shape
    keeps: bool = False

    def setup(self) -> None:
        s = self.shape
        self.embed = self.param(
            "embed", nn.initializers.normal(s.embedding_std), (s.vocab, s.width), s.param_dtype
        )
        if s.positions:
            init = nn.initializers.normal(s.embedding_std)
            self.place = self.param("place", init, (s.positions, s.width), s.param_dtype)
        block = nn.remat(Block, prevent_cse=False) if s.remat else Block
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0, "adapter": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=s.layers,
            unroll=min(s.scan_unroll, s.layers),
        )(s, self.keeps)
        self.norm = RMSNorm(s)
        if not s.tied:
            init = _fan_in_init()
            self.unembed = self.param("unembed", init, (s.width, s.vocab), s.param_dtype)

    def __call__(
        self, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"] | tuple[Float[Array, "B S D"], tuple[Array, Array]]:
        positions = _positions(mask)
        seen = Seen(mask, _rope_table(positions, self.shape), None)
        x, kept = self.blocks(self._embedded(tokens, positions), seen, None)
        return (self.norm(x), kept) if self.keeps else self.norm(x)

    def within(
        self,
        kv: tuple[Array, Array],
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B S"],
        start: Int[Array, "B"],
        span: int,
    ) -> Float[Array, "B q D"]:
        """Hidden states of `span` positions a row, from its `start` on.

        Args:
          kv: what `keeps` gave; the positions outside the span are attended to as they were then.
        """
        part = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, span))
        positions = part(_positions(mask), start)
        seen = Seen(mask, _rope_table(positions, self.shape), start)
        x, _ = self.blocks(self._embedded(part(tokens, start), positions), seen, kv)
        return self.norm(x)

    def _embedded(self, tokens: Array, positions: Array) -> Array:
        x = jnp.take(self.embed, tokens, axis=0)
        if self.shape.positions:
            x = x + jnp.take(self.place, positions, axis=0)
        return _by_rows(x.astype(self.shape.dtype), self.shape)

    def logits(self, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
        """Logits in at least float32."""
        kernel = self.embed.T if self.shape.tied else self.unembed
        logits = _project(_by_rows(hidden, self.shape), kernel, self.shape)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def initialise(self, tokens: Array, mask: Array) -> Array:
        """Touches every parameter; for `init` only."""
        return self.logits(self(tokens, mask))


class Block(nn.Module):
    """One transformer block, in the (carry, out) form that `nn.scan` wants."""

    shape: Shape
    keeps: bool = False

    @nn.compact
    def __call__(
        self, x: Array, seen: Seen, kv: tuple[Array, Array] | None
    ) -> tuple[Array, tuple[Array, Array] | None]:
        with jax.named_scope("attention"):
            y, kv = self._attention(RMSNorm(self.shape, name="attn_norm")(x), seen, kv)
            x = _by_rows(x + y, self.shape)
        with jax.named_scope("feed_forward"):
            x = x + self._feed_forward(RMSNorm(self.shape, name="ff_norm")(x))
            x = _by_rows(x, self.shape)
        return x, kv if self.keeps else None

    def _attention(
        self, x: Array, seen: Seen, kv: tuple[Array, Array] | None
    ) -> tuple[Array, tuple[Array, Array]]:
        s = self.shape
        width = s.width // s.heads

        def split(name: str, heads: int) -> Array:  # [B S D] -> [B heads S Dh]
            y = self._linear(name, x, heads * width)
            if s.qkv_bias:
                bias = self.param(
                    f"{name}_bias", nn.initializers.zeros, y.shape[-1:], s.param_dtype
                )
                y = y + bias.astype(s.dtype)
            return jnp.swapaxes(y.reshape(*y.shape[:-1], heads, width), 1, 2)

        q = _rotate(split("q", s.heads), seen.rope)
        k, v = _rotate(split("k", s.kv_heads), seen.rope), split("v", s.kv_heads)
        if kv is not None:
            put = jax.vmap(lambda all_, new, at: jax.lax.dynamic_update_slice(all_, new, at))
            at = jnp.zeros((x.shape[0], 3), jnp.int32).at[:, 1].set(seen.start)
            k, v = put(kv[0], k, at), put(kv[1], v, at)
        q, k, v = _barrier((q, k, v), s)
        y = attention.attend(s.attention, q, k, v, seen.mask, s.rows)
        y = jnp.swapaxes(y, 1, 2)
        return self._linear("o", y.reshape(*y.shape[:2], -1), s.width), (k, v)

    def _feed_forward(self, x: Array) -> Array:
        s = self.shape
        gate, up = self._linear("gate", x, s.ff), self._linear("up", x, s.ff)
        return self._linear("down", nn.silu(gate) * up, s.width)

    def _linear(self, name: str, x: Array, out: int) -> Array:
        s = self.shape
        y = _project(x, self._kernel(name, (x.shape[-1], out)), s)
        if self.has_variable("adapter", f"{name}_a"):
            a, b = (self.get_variable("adapter", f"{name}_{part}") for part in "ab")
            # Of the two sides of the kernel, the one that is split over the tensor axis.
            inner, outer = ("tensor", None) if name in ("o", "down") else (None, "tensor")
            a, b = _gathered(a, P(inner, None), s), _gathered(b, P(None, outer), s)
            y = y + s.adapter_scale * _project(_project(x, a, s), b, s)
        return y

    def _kernel(self, name: str, shape: tuple[int, int]) -> Array:
        if self.has_variable("params", name):
            stored = self.get_variable("params", name)
            if isinstance(stored, quantization.Quantized):
                kernel = quantization.dequantize(stored, self.shape.dtype)
                return jax.lax.optimization_barrier(kernel) if self.shape.apart else kernel
        return self.param(name, _fan_in_init(), shape, self.shape.param_dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation; the variance in at least float32, as LLaDA does."""

    shape: Shape

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.shape.param_dtype)
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.shape.norm_eps)
        return (y.astype(x.dtype) * scale).astype(self.shape.dtype)


def _positions(mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    # Real tokens only are counted: a row's result does not depend on its padding.
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def _rope_table(positions: Int[Array, "B S"], shape: Shape) -> tuple[Array, Array]:
    """cos and sin, [B 1 S Dh/2], in float32."""
    half = shape.width // shape.heads // 2
    frequency = shape.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, None, :, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _rotate(x: Float[Array, "B H S Dh"], rope: tuple[Array, Array]) -> Array:
    """Rotary embedding, half-split convention (LLaDA, Qwen): pairs (i, i + Dh/2)."""
    cos, sin = rope
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _project(x: Array, kernel: Array, shape: Shape) -> Array:
    # Flat: the weight gradient then sums over one axis. Over two, XLA's CPU backend transposes
    # the cotangent first and takes a slow product.
    flat = _barrier(x.reshape(-1, x.shape[-1]), shape)
    y = _barrier(flat @ kernel.astype(shape.dtype), shape)
    return y.reshape(*x.shape[:-1], -1)


def _by_rows(x: Float[Array, "B *N"], shape: Shape) -> Array:
    # A single row, as `init` has, or some of a batch's, as a cache refreshes, may not divide.
    if shape.rows is None or x.shape[0] % _parts(shape.rows):
        return x
    return jax.lax.with_sharding_constraint(x, shape.rows)


def _gathered(factor: Float[Array, "i o"], spec: P, shape: Shape) -> Array:
    # A factor is small.  Left to itself XLA multiplies with a part of it at a time, which passes
    # over the activations as often as there are devices.
    factor = factor.astype(shape.dtype)
    if shape.rows is None:
        return factor
    return jax.lax.with_sharding_constraint(factor, NamedSharding(shape.rows.mesh, spec))


def _parts(rows: NamedSharding) -> int:
    return math.prod(rows.mesh.shape[axis] for axis in rows.spec[0])


def _barrier(x: Array | tuple[Array, ...], shape: Shape) -> Array | tuple[Array, ...]:
    return jax.lax.optimization_barrier(x) if shape.barriers else x


def _fan_in_init() -> Callable[..., Array]:
    return nn.initializers.variance_scaling(1.0, "fan_in", "normal")
