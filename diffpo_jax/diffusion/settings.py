"""Settings that are compiled into a sampler's program; its dial, prompts and keys are arguments."""

from typing import NamedTuple


class Rule(NamedTuple):
    """A commit rule and its settings.

    Attributes:
      name: a key of `config.DIALS`; or "state", the head by state.
      fallback: what the rule "confidence" commits if no position is confident enough, see
        `commit.by_confidence`.
      draws: whether the head by state draws the number of positions, or takes the most probable.
      recorded: R, calls of which a rollout keeps what the head by state saw and did.
      schedule: how the rules "top_k" and "random" share a block's positions among its calls:
        "even", see `commit.transfer_count`, or "dream", see `commit.dream_count`.
      eps: the last time of the schedule "dream".
    """

    name: str = "entropy_bounded"
    fallback: str = "most_confident"
    draws: bool = False
    recorded: int = 0
    schedule: str = "even"
    eps: float = 1e-3


class EndOfText(NamedTuple):
    """How the sampler treats end-of-text tokens.

    Attributes:
      ids: tokens that end a text (LLaDA has two: end of turn and end of text).
      fill: the token that is written after the end, one of `ids`.
      stop: a row is done once everything before a committed end is committed; the rest is filled
        with `fill`, and the calls saved do not count.
      suppress: "none"; "never" removes the ids from every distribution; "while_open" removes them
        at positions with a masked one before them, so that texts end from left to right; "last"
        leaves distributions as they are but commits positions drawn as an end after all others of
        the block (LLaDA's `confidence_eos_eot_inf`).  What "last" commits depends on the tokens
        drawn: at T > 0 no product of token probabilities is then the exact likelihood of a
        rollout.
    """

    ids: tuple[int, ...] = ()
    fill: int = 0
    stop: bool = False
    suppress: str = "none"


class CacheSettings(NamedTuple):
    """Which keys and values are kept between denoiser calls, see `kv_cache`.

    Attributes:
      kind: "none", "prompt" or "dual".
      refresh_every: calls between refreshes within a block; None for none within a block.
      refresh_rows: rows of a refresh pass.  Due rows are taken in groups of this size, so that
        refreshes cost only what the due rows cost; None passes all rows whenever one is due.
    """

    kind: str = "none"
    refresh_every: int | None = None
    refresh_rows: int | None = None


class SamplerSettings(NamedTuple):
    """All settings of a sampler.

    Attributes:
      length: L, tokens of a completion.
      block_length: positions of a semi-autoregressive block; divides L.
      temperature: T at which tokens are drawn; 0 takes the argmax.
      max_calls: the call that commits everything that is left; None for no cap.
      ranking: what `Readings.error` is: "entropy"; "confidence", minus the largest probability;
        "margin", minus its lead over the second largest; "drawn", minus the probability of the
        token drawn (LLaDA's remasking; with T > 0 the positions committed then depend on more than
        the state, and no product of token probabilities is the exact likelihood); "random",
        uniform on [0, 1).
      scope: "prompt" draws the threshold at a row's first call, "call" anew at every call.
      chunk: positions of a row whose distributions are held at once; None for all.
      guidance: w of classifier-free guidance, see `denoise.denoise_guided`; if not 0, every call
        makes two passes, and the record's NFE counts both.  It goes with neither a cache nor the
        head by state.
      rows_per_prompt: consecutive rows that have the same prompt.  They start from the same state,
        so the sampler's first call and the scorer's first anchor are one pass for all of them.
    """

    length: int
    block_length: int
    temperature: float
    max_calls: int | None = None
    rule: Rule = Rule()
    ranking: str = "entropy"
    end: EndOfText = EndOfText()
    cache: CacheSettings = CacheSettings()
    scope: str = "prompt"
    chunk: int | None = None
    guidance: float = 0.0
    rows_per_prompt: int = 1
