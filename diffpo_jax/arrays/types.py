"""The letters of array shapes, and the records of arrays that several parts share.

Letters (one table for comments, einsum strings and shape annotations):

    B sequences    G group         P prompt tokens   L completion tokens   S = P + L
    D width        H heads         Hk key heads      Dh head width         F feed-forward
    V vocabulary   K anchors       N denoiser calls (NFE)   M micro-batches   c, q some positions

Entropies, thresholds and log-probabilities are in nats; calls are counted from 1.
Prompts are left-padded, so every completion starts in column P.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]  # {"denoiser": ..., "threshold": ...}: nested dicts of arrays
Metrics = dict[str, tuple[Any, Any]]  # name -> (sum, count): adds up over any split of a batch


class Prompts(NamedTuple):
    """A batch of left-padded prompts."""

    tokens: Int[Array, "B P"]
    mask: Bool[Array, "B P"]  # True for tokens of the prompt, False for padding


class Observation(NamedTuple):
    """What the head by state reads of a call: the c positions of the block, by their error."""

    hidden: Float[Array, "*N c D"]  # hidden states, without a gradient
    entropy: Float[Array, "*N c"]  # nats
    # The probability at position i of the token that is most probable at j, over that of i's own
    clash: Float[Array, "*N c c"]
    place: Int[Array, "*N c"]  # within the block
    open: Bool[Array, "*N c"]  # False at committed positions, which come last
    price: Float[Array, "*N"]  # of a call, in units of the largest reward


class Choices(NamedTuple):
    """Decisions of the head by state: up to R of the calls of each row, drawn uniformly."""

    seen: Observation  # [B R ...]
    count: Int[Array, "B R"]  # positions committed; 0 if nothing is recorded there
    logprob: Float[Array, "B R"]
    call: Int[Array, "B R"]  # from 1
    token: Int[Array, "B R c"]  # drawn at each position of `seen`, committed or not


class Rollout(NamedTuple):
    """The record of what the sampler did, row by row (docs/method.md, section 2).

    `logprob` is log p(o_k | c, z_{t(k)-1}) at the temperature at which the tokens were drawn; at
    temperature 0 nothing is drawn, and it is taken at temperature 1.  `entropy` is always that of
    the untempered distribution, which the commit rule reads.
    """

    tokens: Int[Array, "B L"]
    commit_call: Int[Array, "B L"]  # t(k), from 1; one after the last for tokens filled in
    sampled: Bool[Array, "B L"]  # False for tokens filled in after the end of the text
    logprob: Float[Array, "B L"]
    entropy: Float[Array, "B L"]  # nats, at the call that committed the position
    nfe: Int[Array, "B"]  # denoiser calls of this sequence; with guidance two for each
    gamma: Float[Array, "B"]  # entropy bound of the first call, nats; or another rule's dial
    gamma_logprob: Float[Array, "B"]  # log-density of log gamma; 0 if gamma was given
    forced: Bool[Array, "B"]  # the cap on calls committed positions that the rule did not choose
    features: Float[Array, "B D"]  # input of the threshold head
    choices: Choices | None = None  # with the head by state
    # Prompt tokens in the completion's first block, where blocks are counted from the prompt's
    # first token.  None if the first block begins with the completion.
    offset: Int[Array, "B"] | None = None


class Draws(NamedTuple):
    """The random choices of one inner update's surrogate policy."""

    # States at which tokens are scored, as numbers of calls, or of calls in each of n blocks if
    # attention is by blocks.  The first is 0, the state without tokens, unless calls were drawn
    # (`scale`).
    anchors: Int[Array, "B K"] | Int[Array, "B n K"]
    prompt_mask: Bool[Array, "B P"]  # prompt tokens hidden from the denoiser (d1)
    scale: Float[Array, "B L"] | None = None  # weight of each token in sums; None for 1


class TrainState(NamedTuple):
    """Everything that training changes.  Keys are not part of it: they derive from (seed, step)."""

    step: Int[Array, ""]  # optimiser updates taken
    params: Params
    opt_state: Any
