"""The denoiser, a stack of LLaDA blocks in flax.linen.

A pre-norm transformer with attention over the whole row, or by blocks: x += o(attention(rope(q),
rope(k), v)), then x += down(silu(gate(h)) * up(h)), with an RMSNorm before each.  No biases, or
those of q, k and v (Qwen2); q and k as they are, or each head's normalised (Qwen3).  `nn.scan`
stacks the blocks' parameters on a leading axis.  A LoRA adapter is a collection of its own,
"adapter", whose products are added to those of the kernels (see `lora`).

Only this file and `threshold_head` import flax.linen.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from diffpo_jax.config import ModelConfig
from diffpo_jax.models import attention, quantization


@dataclasses.dataclass(frozen=True)
class Shape(ModelConfig):
    """Sizes and numerics of a denoiser: the configuration's, and what its devices need."""

    # XLA's CPU backend fuses the transposition that a weight gradient needs into the elementwise
    # work before it, and then writes with strides: 2x the whole gradient's time.  A barrier around
    # each product keeps them apart.  Off on GPU and TPU, where fusion is faster.
    barriers: bool = False
    # Multiplies quantized kernels out apart from the product that reads them: XLA's GPU compiler
    # (jax 0.11.2, an H200) failed on nf4 fused into it.  TPU's fuses them, which saves memory.
    separate_kernels: bool = False
    adapter_scale: float = 0.0  # alpha / r of the adapter, if there is one
    # Sharding of activations by their rows; None for one device.  Without it XLA splits activations
    # as the weights' width is split: every device then works on every row, and devices exchange
    # activations, which are many times the weights.
    rows: NamedSharding | None = None

    @property
    def rows_here(self) -> NamedSharding | None:
        """`rows`, or None within `jax.shard_map`, where the device has only its own rows."""
        return None if jax.sharding.get_abstract_mesh().manual_axes else self.rows


class RowContext(NamedTuple):
    """What every block gets besides its input: what it attends to."""

    sees: Bool[Array, "B S"] | Bool[Array, "B q S"]  # the keys, of all positions or of each
    rope: tuple[Float[Array, "B 1 q Dh2"], Float[Array, "B 1 q Dh2"]]  # at the computed positions
    # The first of them, where given keys and values are the whole row's and theirs are put in
    # place.  None if they are the whole row, or stand beside the given keys and values.
    start: Int[Array, "B"] | None = None


class Denoiser(nn.Module):
    """Maps tokens Int[B S] and mask Bool[B S] to normalised hidden states [B S D], for `logits`.

    With `return_kv` it also returns every layer's keys and values, [layers B Hk S Dh] each, for
    `hidden_within`.
    """

    shape: Shape
    return_kv: bool = False

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
        )(s, self.return_kv)
        self.norm = RMSNorm(s)
        if not s.tied:
            init = _fan_in_init()
            self.unembed = self.param("unembed", init, (s.width, s.vocab), s.param_dtype)

    def __call__(
        self, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]
    ) -> Float[Array, "B S D"] | tuple[Float[Array, "B S D"], tuple[Array, Array]]:
        positions = _positions(mask)
        sees = _visible(positions, mask, self.shape)
        context = RowContext(sees, _rotation(positions, mask.shape[1], self.shape))
        x, kv = self.blocks(self._embed(tokens, positions), context, None)
        return (self.norm(x), kv) if self.return_kv else self.norm(x)

    def hidden_within(
        self,
        kv: tuple[Array, Array],
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B S"],
        start: Int[Array, "B"],
        span: int,
    ) -> Float[Array, "B q D"]:
        """Hidden states of `span` positions of each row, from its `start` on.

        Args:
          kv: keys and values from an earlier `return_kv`, used at the positions outside the span.
        """
        part = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, span))
        positions = part(_positions(mask), start)
        context = RowContext(mask, _rotation(positions, mask.shape[1], self.shape), start)
        x, _ = self.blocks(self._embed(part(tokens, start), positions), context, kv)
        return self.norm(x)

    def hidden_beside(
        self,
        kv: tuple[Array, Array],
        tokens: Int[Array, "B q"],
        positions: Int[Array, "B q"],
        sees: Bool[Array, "B q Sq"],
    ) -> Float[Array, "B q D"] | tuple[Float[Array, "B q D"], tuple[Array, Array]]:
        """Hidden states of tokens that stand beside rows whose keys and values are given.

        Args:
          kv: of the rows, from `return_kv`.
          positions: of the tokens in the text, less than S.
          sees: which of the row's S positions, and then of these q, each token attends to.

        Returns:
          With `return_kv` also the tokens' own keys and values, [layers B Hk q Dh] each.
        """
        context = RowContext(sees, _rotation(positions, kv[0].shape[3], self.shape))
        x, own = self.blocks(self._embed(tokens, positions), context, kv)
        return (self.norm(x), own) if self.return_kv else self.norm(x)

    def hidden_under(
        self,
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B S"],
        causal: Bool[Array, ""],
        theta: Float[Array, ""],
    ) -> Float[Array, "B S D"]:
        """Hidden states under another attention or base of RoPE, which the program does not fix.

        Args:
          causal: whether a token sees only itself and the tokens before it.
          theta: the base.
        """
        positions, order = _positions(mask), jnp.arange(mask.shape[1])
        seen = _visible(positions, mask, self.shape)
        seen = seen if seen.ndim == 3 else seen[:, None, :]
        seen = jnp.where(causal, mask[:, None, :] & (order <= order[:, None]), seen)
        half = self.shape.head_width // 2
        frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angle = positions[:, None, :, None] * frequency
        context = RowContext(seen, (jnp.cos(angle), jnp.sin(angle)))
        x, _ = self.blocks(self._embed(tokens, positions), context, None)
        return self.norm(x)

    def _embed(
        self, tokens: Int[Array, "B q"], positions: Int[Array, "B q"]
    ) -> Float[Array, "B q D"]:
        x = jnp.take(self.embed, tokens, axis=0)
        if self.shape.positions:
            x = x + jnp.take(self.place, positions, axis=0)
        return _shard_rows(x.astype(self.shape.dtype), self.shape)

    def logits(self, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
        """Logits in at least float32."""
        kernel = self.embed.T if self.shape.tied else self.unembed
        logits = _project(_shard_rows(hidden, self.shape), kernel, self.shape)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def token_logits(
        self, hidden: Float[Array, "B c D"], tokens: Int[Array, "B n"]
    ) -> Float[Array, "B c n"]:
        """The logits of each row's tokens at each of its positions, in at least float32."""
        kernel = self.embed if self.shape.tied else self.unembed.T
        chosen = jnp.take(kernel, tokens, axis=0).astype(hidden.dtype)
        logits = jnp.einsum("bcd,bnd->bcn", hidden, chosen)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def initialise(self, tokens: Array, mask: Array) -> Array:
        """Uses every parameter, so that `init` makes all of them."""
        return self.logits(self(tokens, mask))


class Block(nn.Module):
    """One transformer block, in the (carry, out) form of `nn.scan`."""

    shape: Shape
    return_kv: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B q D"], context: RowContext, kv: tuple[Array, Array] | None
    ) -> tuple[Float[Array, "B q D"], tuple[Array, Array] | None]:
        with jax.named_scope("attention"):
            y, kv = self._attention(RMSNorm(self.shape, name="attn_norm")(x), context, kv)
            x = _shard_rows(x + y, self.shape)
        with jax.named_scope("feed_forward"):
            x = x + self._feed_forward(RMSNorm(self.shape, name="ff_norm")(x))
            x = _shard_rows(x, self.shape)
        return x, kv if self.return_kv else None

    def _attention(
        self, x: Float[Array, "B q D"], context: RowContext, kv: tuple[Array, Array] | None
    ) -> tuple[Float[Array, "B q D"], tuple[Array, Array]]:
        s = self.shape
        width = s.head_width

        def split(name: str, heads: int) -> Float[Array, "B heads q Dh"]:
            y = self._linear(name, x, heads * width)
            if s.qkv_bias:
                bias = self.param(
                    f"{name}_bias", nn.initializers.zeros, y.shape[-1:], s.param_dtype
                )
                y = y + bias.astype(s.dtype)
            return jnp.swapaxes(y.reshape(*y.shape[:-1], heads, width), 1, 2)

        q, k, v = split("q", s.heads), split("k", s.kv_heads), split("v", s.kv_heads)
        if s.qk_norm:
            q, k = RMSNorm(s, name="q_norm")(q), RMSNorm(s, name="k_norm")(k)
        q, k = _rotate(q, context.rope), _rotate(k, context.rope)
        own = (k, v)
        if kv is not None and context.start is None:
            k, v = (jnp.concatenate(both, axis=2) for both in zip(kv, own))
        elif kv is not None:
            put = jax.vmap(lambda all_, new, at: jax.lax.dynamic_update_slice(all_, new, at))
            at = jnp.zeros((x.shape[0], 3), jnp.int32).at[:, 1].set(context.start)
            k, v = own = put(kv[0], k, at), put(kv[1], v, at)
        q, k, v = _barrier((q, k, v), s)
        y = attention.attend(s.attention, q, k, v, context.sees, s.rows_here)
        y = jnp.swapaxes(y, 1, 2)
        return self._linear("o", y.reshape(*y.shape[:2], -1), s.width), own

    def _feed_forward(self, x: Float[Array, "B q D"]) -> Float[Array, "B q D"]:
        s = self.shape
        gate, up = self._linear("gate", x, s.ff), self._linear("up", x, s.ff)
        return self._linear("down", nn.silu(gate) * up, s.width)

    def _linear(self, name: str, x: Float[Array, "B q i"], out: int) -> Float[Array, "B q o"]:
        s = self.shape
        y = _project(x, self._kernel(name, (x.shape[-1], out)), s)
        if self.has_variable("adapter", f"{name}_a"):
            a, b = (self.get_variable("adapter", f"{name}_{part}") for part in "ab")
            # Each factor is split over the tensor axis like its side of the kernel.
            inner, outer = ("tensor", None) if name in ("o", "down") else (None, "tensor")
            a, b = _place_factor(a, P(inner, None), s), _place_factor(b, P(None, outer), s)
            y = y + s.adapter_scale * _project(_project(x, a, s), b, s)
        return y

    def _kernel(self, name: str, shape: tuple[int, int]) -> Array:
        if self.has_variable("params", name):
            stored = self.get_variable("params", name)
            if isinstance(stored, quantization.Quantized):
                kernel = quantization.dequantize(stored, self.shape.dtype)
                separate = self.shape.separate_kernels
                return jax.lax.optimization_barrier(kernel) if separate else kernel
        return self.param(name, _fan_in_init(), shape, self.shape.param_dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, with the variance in at least float32 as in LLaDA."""

    shape: Shape

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.shape.param_dtype)
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.shape.norm_eps)
        return (y.astype(x.dtype) * scale).astype(self.shape.dtype)


def _positions(mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    # Only real tokens count, so that a row's result does not depend on its padding.
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def _visible(
    positions: Int[Array, "B S"], mask: Bool[Array, "B S"], shape: Shape
) -> Bool[Array, "B S"] | Bool[Array, "B S S"]:
    """The keys that positions see: all tokens, or those of their own and of earlier blocks."""
    size = shape.attention_block
    if size is None:
        return mask
    # The completion begins in a column that is a multiple of the size (config/check.py).
    columns = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    block = (positions if shape.attention_origin == "prompt" else columns) // size
    return mask[:, None, :] & (block[:, None, :] <= block[:, :, None])


def _rotation(
    positions: Int[Array, "B q"], length: int, shape: Shape
) -> tuple[Float[Array, "B 1 q Dh2"], Float[Array, "B 1 q Dh2"]]:
    """cos and sin of the rotary angles in float32, looked up in tables of `length` positions.

    The tables are constants of the program.  XLA would put a computed cos and sin into each of the
    fusions that use them, and compute them again in every layer.
    """
    half = shape.head_width // 2
    frequency = np.float32(shape.rope_theta) ** (-np.arange(half, dtype=np.float32) / half)
    angle = np.arange(length, dtype=np.float32)[:, None] * frequency
    return tuple(jnp.take(f(angle), positions, axis=0)[:, None] for f in (np.cos, np.sin))


def _rotate(x: Float[Array, "B H q Dh"], rope: tuple[Array, Array]) -> Float[Array, "B H q Dh"]:
    """Rotary embedding in the half-split convention (LLaDA, Qwen): pairs (i, i + Dh/2)."""
    cos, sin = rope
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _project(
    x: Float[Array, "*N i"], kernel: Float[Array, "i o"], shape: Shape
) -> Float[Array, "*N o"]:
    # Flat, so that the weight gradient sums over one axis.  Over two, XLA's CPU backend transposes
    # the cotangent first and uses a slow product.
    flat = _barrier(x.reshape(-1, x.shape[-1]), shape)
    y = _barrier(flat @ kernel.astype(shape.dtype), shape)
    return y.reshape(*x.shape[:-1], -1)


def _shard_rows(x: Float[Array, "B *N"], shape: Shape) -> Float[Array, "B *N"]:
    # The single row of `init`, or the few rows of a cache's refresh, may not divide by the devices.
    rows = shape.rows_here
    if rows is None or x.shape[0] % math.prod(rows.mesh.shape[axis] for axis in rows.spec[0]):
        return x
    return jax.lax.with_sharding_constraint(x, rows)


def _place_factor(factor: Float[Array, "i o"], spec: P, shape: Shape) -> Float[Array, "i o"]:
    # Without this XLA multiplies with a part of the small factor at a time, and passes over the
    # activations as many times as there are devices.
    factor = factor.astype(shape.dtype)
    rows = shape.rows_here
    if rows is None:
        return factor
    return jax.lax.with_sharding_constraint(factor, NamedSharding(rows.mesh, spec))


def _barrier(x: Array | tuple[Array, ...], shape: Shape) -> Array | tuple[Array, ...]:
    return jax.lax.optimization_barrier(x) if shape.barriers else x


def _fan_in_init() -> Callable[..., Array]:
    return nn.initializers.variance_scaling(1.0, "fan_in", "normal")
