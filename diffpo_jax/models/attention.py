"""Bidirectional attention over whole rows, keys at padding left out, in three ways.

    plain   products and a softmax in float32, anywhere; scores [B H q S] are kept
    cudnn   cuDNN's kernel, on NVIDIA GPUs
    splash  Pallas' kernel, on TPUs

The kernels keep no scores: a block of keys at a time, by a running softmax (arXiv 2307.08691).
They take certain shapes only; what else there is goes the plain way.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

_LANES = 128  # of a TPU: lengths and heads are multiples of it
_LARGEST = 512  # block of splash; a larger one gains little and takes room on the chip


def attend(
    kind: str,
    q: Float[Array, "B H q Dh"],
    k: Float[Array, "B Hk S Dh"],
    v: Float[Array, "B Hk S Dh"],
    mask: Bool[Array, "B S"],
    rows: NamedSharding | None = None,
) -> Float[Array, "B H q Dh"]:
    """Attention by the way named, or the plain one where that does not take these shapes.

    Args:
      mask: False at keys that are never seen.
      rows: how sequences lie on several devices; None: there is one.
    """
    if kind == "cudnn" and supports_cudnn(q, k, rows):
        return cudnn(q, k, v, mask, rows)
    if kind == "splash" and supports_splash(q, k, rows):
        return splash(q, k, v, mask, rows)
    return plain(q, k, v, mask)


def plain(
    q: Float[Array, "B H q Dh"],
    k: Float[Array, "B Hk S Dh"],
    v: Float[Array, "B Hk S Dh"],
    mask: Bool[Array, "B S"],
) -> Float[Array, "B H q Dh"]:
    """The softmax in float32."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = jnp.repeat(k, groups, axis=1), jnp.repeat(v, groups, axis=1)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # Finite, so that a row of nothing but padding stays finite too.
    scores = jnp.where(mask[:, None, None, :], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


def cudnn(
    q: Float[Array, "B H q Dh"],
    k: Float[Array, "B Hk S Dh"],
    v: Float[Array, "B Hk S Dh"],
    mask: Bool[Array, "B S"],
    rows: NamedSharding | None = None,
) -> Float[Array, "B H q Dh"]:
    """By `jax.nn.dot_product_attention`, which divides over devices by rows and heads itself."""
    q, k, v = (_placed(jnp.swapaxes(x, 1, 2), rows, "tensor") for x in (q, k, v))
    # cuDNN wants a mask for each query; it is a bias, 1/H of the scores.
    of_queries = jnp.broadcast_to(
        mask[:, None, None, :], (mask.shape[0], 1, q.shape[1], mask.shape[1])
    )
    of_queries = _placed(of_queries, rows, None)
    y = jax.nn.dot_product_attention(q, k, v, mask=of_queries, implementation="cudnn")
    return jnp.swapaxes(y, 1, 2)


def supports_cudnn(
    q: Float[Array, "B H q Dh"], k: Float[Array, "B Hk S Dh"], rows: NamedSharding | None
) -> bool:
    """16 bits, even lengths, heads of 8, 16, ... 128; rows and heads that divide over devices."""
    of_heads = q.shape[3] % 8 == 0 and q.shape[3] <= 128
    even = q.shape[2] % 2 == k.shape[2] % 2 == 0
    return q.dtype == jnp.bfloat16 and of_heads and even and _divides(q, k, rows)


def splash(
    q: Float[Array, "B H q Dh"],
    k: Float[Array, "B Hk S Dh"],
    v: Float[Array, "B Hk S Dh"],
    mask: Bool[Array, "B S"],
    rows: NamedSharding | None = None,
    interpret: bool = False,
) -> Float[Array, "B H q Dh"]:
    """By jax.experimental.pallas.ops.tpu.splash_attention, each device its rows and heads.

    Args:
      interpret: runs the kernel's steps one by one on a CPU, for tests.
    """
    local = functools.partial(_splash, interpret=interpret)
    if rows is not None:
        batch = rows.spec[0]
        of_heads = P(batch, "tensor", None, None)
        local = jax.shard_map(
            local,
            mesh=rows.mesh,
            in_specs=(of_heads, of_heads, of_heads, P(batch, None)),
            out_specs=of_heads,
            check_vma=False,  # a kernel's results do not say over which axes they vary
        )
    return local(q, k, v, mask)


def supports_splash(
    q: Float[Array, "B H q Dh"], k: Float[Array, "B Hk S Dh"], rows: NamedSharding | None
) -> bool:
    """Lengths and heads of whole lanes; rows and heads that divide over devices."""
    whole = not any(n % _LANES for n in (q.shape[2], k.shape[2], q.shape[3]))
    return whole and _divides(q, k, rows)


def _divides(q: Array, k: Array, rows: NamedSharding | None) -> bool:
    if rows is None:
        return True
    sizes = rows.mesh.shape
    return not (
        q.shape[0] % math.prod(sizes[axis] for axis in rows.spec[0])
        or q.shape[1] % sizes["tensor"]
        or k.shape[1] % sizes["tensor"]
    )


def _placed(x: Array, rows: NamedSharding | None, heads: str | None) -> Array:
    # All of them alike: jax refuses, or worse does not notice, rows that lie otherwise.
    if rows is None:
        return x
    spec = P(rows.spec[0], None, heads, None)
    return jax.lax.with_sharding_constraint(x, NamedSharding(rows.mesh, spec))


def _splash(q: Array, k: Array, v: Array, mask: Array, *, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    of_q, of_k = _block(q.shape[2]), _block(k.shape[2])
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.FullMask((q.shape[2], k.shape[2]))] * q.shape[1]),
        block_sizes=kernels.BlockSizes(
            block_q=of_q,
            block_kv=of_k,
            block_q_dkv=of_q,
            block_kv_dkv=of_k,
            block_q_dq=of_q,
            block_kv_dq=of_k,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Queries see keys of their own segment: the tokens are one, the padding is none of theirs.
    seen = mask.astype(jnp.int32)
    segments = kernels.SegmentIds(jnp.ones((q.shape[0], q.shape[2]), jnp.int32), seen)
    return jax.vmap(kernel)(q * jnp.asarray(q.shape[3] ** -0.5, q.dtype), k, v, segments)


def _block(length: int) -> int:
    """The largest block of whole lanes that divides a length."""
    return max(n for n in range(_LANES, _LARGEST + 1, _LANES) if length % n == 0)
