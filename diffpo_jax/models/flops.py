"""Operations of the denoiser, counted from its sizes: those of its matrix products.

A product and a sum are two.  Elementwise work, norms and softmax are left out, as the peaks that a
rate is held against are those of products.
"""

from typing import NamedTuple

from diffpo_jax.config import LoRAConfig, ModelConfig


class Network(NamedTuple):
    """What decides how much a call computes."""

    model: ModelConfig
    lora: LoRAConfig
    vocab: int  # V, rows of the embedding


class Operations(NamedTuple):
    """Of one sequence in one call."""

    weights: float  # products with the denoiser's matrices
    adapter: float  # with those of an adapter
    attention: float  # queries with keys, and what they weigh with values

    @property
    def forward(self) -> float:
        return sum(self)

    def gradient(self, whole: bool) -> float:
        """Of a pass and the way back, which multiplies for the inputs and for the weights.

        What is recomputed on the way back (`model.remat`, `likelihood.remat`) is not counted.

        Args:
          whole: the denoiser itself is trained; False: an adapter, and frozen weights have no
            gradient.
        """
        return (3 if whole else 2) * self.weights + 3 * (self.adapter + self.attention)


def of_call(network: Network, *, tokens: int, keys: int, read: int) -> Operations:
    """Operations of a denoiser call on one sequence; padding computes like any token.

    Args:
      tokens: positions that are worked on, S where nothing is cached.
      keys: positions they attend to, S.
      read: positions whose distribution over the vocabulary is taken.
    """
    model, lora = network.model, network.lora
    head = model.width // model.heads
    ins_outs = {
        "q": (model.width, model.heads * head),
        "k": (model.width, model.kv_heads * head),
        "v": (model.width, model.kv_heads * head),
        "o": (model.heads * head, model.width),
        "gate": (model.width, model.ff),
        "up": (model.width, model.ff),
        "down": (model.ff, model.width),
    }
    of_blocks = 2.0 * tokens * model.layers
    block = sum(ins * outs for ins, outs in ins_outs.values())
    beside = lora.rank * sum(sum(ins_outs[name]) for name in lora.targets)
    return Operations(
        weights=of_blocks * block + 2.0 * read * model.width * network.vocab,
        adapter=of_blocks * beside,
        attention=2 * of_blocks * keys * model.heads * head,
    )
