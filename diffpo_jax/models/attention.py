"""Attention over whole rows, without the keys that are masked out, in four kinds.

    plain   products and a softmax in float32, on any device; stores the scores [B H q S]
    by_head the same for one head of one row at a time, whose scores stay in a CPU's cache
    cudnn   cuDNN's kernel, on NVIDIA GPUs
    splash  Pallas' kernel, on TPUs

The last two, kernels, store no scores: they take a block of keys at a time and keep a running
softmax (arXiv 2307.08691).  They support only certain shapes; all others take the plain kind.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

Queries = Float[Array, "B H q Dh"]
Keys = Float[Array, "B Hk S Dh"]  # and values
# False at keys that are left out, for all queries alike or for each
Mask = Bool[Array, "B S"] | Bool[Array, "B q S"]

_LANES = 128  # lanes of a TPU; lengths and heads are multiples of it
# Keys from which `by_head` is faster.  float32 on one core, 2 rows, 8 heads of 64, ms forward and
# with the gradient: 256 keys 6.2 -> 5.8, 24 -> 21; 528 keys 64 -> 25, 138 -> 129; 1,056 keys
# 200 -> 88, 542 -> 509.
_LONG = 256
_LARGEST_BLOCK = 512  # keys per step of splash; more gain little and take memory on the chip


def attend(
    kind: str, q: Queries, k: Keys, v: Keys, mask: Mask, rows: NamedSharding | None = None
) -> Queries:
    """Attention of this kind, or plain attention if the kind does not support these shapes.

    Args:
      rows: sharding of sequences over devices; None for one device.
    """
    if kind == "cudnn" and supports_cudnn(q, k, rows):
        return cudnn(q, k, v, mask, rows)
    if kind == "splash" and mask.ndim == 2 and supports_splash(q, k, rows):
        return splash(q, k, v, mask, rows)
    # Devices that share the rows would have to exchange them.
    if kind == "by_head" and k.shape[2] >= _LONG and rows is None:
        return by_head(q, k, v, mask)
    return plain(q, k, v, mask)


def by_head(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """Plain attention, one head of one row after another."""
    batch, heads, groups = q.shape[0], q.shape[1], q.shape[1] // k.shape[1]

    def flat(x: Array, times: int) -> Array:
        return jnp.repeat(x, times, axis=1).reshape(batch * heads, 1, 1, *x.shape[2:])

    each = (flat(q, 1), flat(k, groups), flat(v, groups), jnp.repeat(mask[:, None], heads, axis=0))
    return jax.lax.map(lambda x: plain(*x), each).reshape(q.shape)


def plain(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """Attention in plain products, with the softmax in float32."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = jnp.repeat(k, groups, axis=1), jnp.repeat(v, groups, axis=1)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # A finite number, so that a row of only padding stays finite.
    scores = jnp.where(_each_query(mask)[:, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v)


def _each_query(mask: Mask) -> Bool[Array, "B #q S"]:
    return mask[:, None, :] if mask.ndim == 2 else mask


def cudnn(q: Queries, k: Keys, v: Keys, mask: Mask, rows: NamedSharding | None = None) -> Queries:
    """Attention by `jax.nn.dot_product_attention`, which itself splits rows and heads."""
    q, k, v = (_constrain(jnp.swapaxes(x, 1, 2), rows, "tensor") for x in (q, k, v))
    # cuDNN needs a mask for each query; it is a bias, 1/H as large as the scores.
    shape = (mask.shape[0], 1, q.shape[1], mask.shape[-1])
    query_mask = _constrain(jnp.broadcast_to(_each_query(mask)[:, None], shape), rows, None)
    y = jax.nn.dot_product_attention(q, k, v, mask=query_mask, implementation="cudnn")
    return jnp.swapaxes(y, 1, 2)


def supports_cudnn(q: Queries, k: Keys, rows: NamedSharding | None) -> bool:
    """Whether cuDNN's kernel takes these arrays: bfloat16, even lengths, heads of 8, 16 ... 128."""
    heads = q.shape[3] % 8 == 0 and q.shape[3] <= 128
    even = q.shape[2] % 2 == k.shape[2] % 2 == 0
    return q.dtype == jnp.bfloat16 and heads and even and _divides_evenly(q, k, rows)


def splash(
    q: Queries,
    k: Keys,
    v: Keys,
    mask: Mask,
    rows: NamedSharding | None = None,
    interpret: bool = False,
) -> Queries:
    """Attention by jax.experimental.pallas.ops.tpu.splash_attention, on every device's own part.

    Args:
      interpret: run the kernel's steps one by one on a CPU, for tests.
    """
    local = functools.partial(_splash, interpret=interpret)
    if rows is not None:
        batch = rows.spec[0]
        spec = P(batch, "tensor", None, None)
        local = jax.shard_map(
            local,
            mesh=rows.mesh,
            in_specs=(spec, spec, spec, P(batch, None)),
            out_specs=spec,
            check_vma=False,  # a kernel's results do not tell over which axes they vary
        )
    return local(q, k, v, mask)


def supports_splash(q: Queries, k: Keys, rows: NamedSharding | None) -> bool:
    """Whether splash takes these arrays: lengths and heads that are multiples of 128."""
    whole = not any(n % _LANES for n in (q.shape[2], k.shape[2], q.shape[3]))
    return whole and _divides_evenly(q, k, rows)


def _divides_evenly(q: Queries, k: Keys, rows: NamedSharding | None) -> bool:
    """Whether the devices can share the rows and the heads evenly."""
    if rows is None:
        return True
    sizes = rows.mesh.shape
    return not (
        q.shape[0] % math.prod(sizes[axis] for axis in rows.spec[0])
        or q.shape[1] % sizes["tensor"]
        or k.shape[1] % sizes["tensor"]
    )


def _constrain(x: Array, rows: NamedSharding | None, heads: str | None) -> Array:
    # All arrays must have the same rows: jax refuses others or, worse, does not notice them.
    if rows is None:
        return x
    spec = P(rows.spec[0], None, heads, None)
    return jax.lax.with_sharding_constraint(x, NamedSharding(rows.mesh, spec))


def _splash(q: Queries, k: Keys, v: Keys, mask: Mask, *, interpret: bool) -> Queries:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    q_block, k_block = _block(q.shape[2]), _block(k.shape[2])
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.FullMask((q.shape[2], k.shape[2]))] * q.shape[1]),
        block_sizes=kernels.BlockSizes(
            block_q=q_block,
            block_kv=k_block,
            block_q_dkv=q_block,
            block_kv_dkv=k_block,
            block_q_dq=q_block,
            block_kv_dq=k_block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Queries attend to keys of their own segment: tokens are in segment 1, padding in segment 0.
    ones = jnp.ones((q.shape[0], q.shape[2]), jnp.int32)
    segments = kernels.SegmentIds(ones, mask.astype(jnp.int32))
    return jax.vmap(kernel)(q * jnp.asarray(q.shape[3] ** -0.5, q.dtype), k, v, segments)


def _block(length: int) -> int:
    """The largest block of whole lanes that divides the length."""
    return max(n for n in range(_LANES, _LARGEST_BLOCK + 1, _LANES) if length % n == 0)
