"""The letters, and the arrays that travel between the parts.

Letters (one table for comments, einsum strings and shape annotations):

    B sequences    G group         P prompt tokens   L completion tokens   S = P + L
    D width        H heads         Hk key heads      Dh head width         F feed-forward
    V vocabulary   K anchors       N denoiser calls (NFE)   M micro-batches

Entropies and thresholds are in nats, log-probabilities in nats, calls are counted from 1.
Prompts are left-padded, so every completion starts in column P.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]  # {"denoiser": ..., "threshold": ...}: nested dicts of arrays
Metrics = dict[str, tuple[Any, Any]]  # name -> (sum, count): adds up over any split of a batch


class Prompts(NamedTuple):
    """A batch of left-padded prompts."""

    tokens: Int[Array, "B P"]
    mask: Bool[Array, "B P"]  # True: a token of the prompt, False: padding


class Rollout(NamedTuple):
    """What the sampler did, row by row (METHOD: the record kept of each rollout).

    `logprob` is log p(o_k | c, z_{t(k)-1}) at the temperature the tokens were drawn at; at
    temperature 0 nothing is drawn and it is taken at temperature 1.  `entropy` is always that
    of the untempered distribution, the one the commit rule looks at.
    """

    tokens: Int[Array, "B L"]
    commit_call: Int[Array, "B L"]  # t(k), from 1; nfe + 1 where filled
    sampled: Bool[Array, "B L"]  # False: filled in after the end of the text, not drawn
    logprob: Float[Array, "B L"]
    entropy: Float[Array, "B L"]  # nats, at the call that committed the position
    nfe: Int[Array, "B"]  # denoiser calls of this sequence
    gamma: Float[Array, "B"]  # the entropy bound, nats (of the first call); or a rule's dial
    gamma_logprob: Float[Array, "B"]  # log-density of log gamma; 0 where gamma was given
    forced: Bool[Array, "B"]  # the cap on calls committed what the rule would not have
    features: Float[Array, "B D"]  # what the threshold head read


class Draws(NamedTuple):
    """The random choices of one inner update's surrogate policy."""

    anchors: Int[Array, "B K"]  # calls tau_0 = 0 <= tau_1 <= ..., stopping times
    prompt_mask: Bool[Array, "B P"]  # prompt tokens hidden from the denoiser (d1)
    scale: Float[Array, "B L"] | None = None  # of each token in sums over a rollout; None: 1


class TrainState(NamedTuple):
    """Everything training changes.  Keys are not in it: they derive from (seed, step)."""

    step: Int[Array, ""]  # optimiser updates taken
    params: Params
    opt_state: Any
