"""The part that all tasks here share: a protocol, a reward to train on, prompts, and grading."""

from collections.abc import Mapping, Sequence

from diffpo_jax.config import TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.answers import extract, special_tokens
from diffpo_jax.tasks.protocol import Protocol, Verdict
from diffpo_jax.tasks.task import Example, OneByOne, Reward, choose_reward
from diffpo_jax.tasks.wording import Wording


class BaseTask(OneByOne):
    """A task with two protocols, several rewards, and a template for its prompts.

    Attributes:
      PROTOCOLS: the protocols by name, "default" and "d1".
      REWARDS: the largest value of each reward by name.
      WORDS: the task's own instructions, a template.
      FIELDS: the fields of templates, beside "format".
    """

    PROTOCOLS: Mapping[str, Protocol]
    REWARDS: Mapping[str, float]
    WORDS: str
    FIELDS: Sequence[str] = ("question",)

    def __init__(self, config: TaskConfig):
        """Raises `UserError` on an unknown protocol or reward, or a faulty template."""
        if config.protocol not in self.PROTOCOLS:
            raise UserError(
                f"config.task.protocol={config.protocol!r} is unknown for the task {self.name}; "
                f"use one of: {', '.join(self.PROTOCOLS)}."
            )
        self._config = config
        self._protocol = self.PROTOCOLS[config.protocol]
        self._reward = choose_reward(config.reward, tuple(self.REWARDS), self._protocol.reward)
        self.reward_max = self.REWARDS[self._reward]
        self.reads_special_tokens = self._protocol.reads_special_tokens
        self._wording = Wording(config.prompt, self.WORDS, self.FIELDS)

    @staticmethod
    def question_fault(text: str, config: TaskConfig) -> str:
        """What keeps a text from being a bare question of the task; "" if nothing does."""
        del text, config
        return ""

    def scores(self, examples: Sequence[Example], completions: Sequence[str]) -> dict[str, float]:
        """Figures over a whole set: d1's accuracy, or for Sudoku the share of right cells."""
        return self._protocol.scores(examples, completions, self._config.prompt.answer)

    def _read_answer(self, completion: str) -> str | None:
        """The answer by the task's own rules, from the text before its end, or None."""
        return extract.read(special_tokens.before_end(completion), self._config.prompt.answer)

    def _is_marked(self, completion: str) -> bool:
        """Whether the answer is marked as `config.task.prompt.answer` asks."""
        return extract.is_marked(special_tokens.before_end(completion), self._config.prompt.answer)

    def _grade(
        self, example: Example, completion: str, own: Verdict, parts: Mapping[str, float]
    ) -> Reward:
        """The reward, given the verdict and the parts by the task's own rules.

        These read the text before its end, the protocol's rewards the text without special tokens,
        and its verdict all of it.
        """
        stripped = special_tokens.strip(completion)
        parts = {**parts, **self._protocol.parts(example, stripped, self._config.prompt.answer)}
        verdict = self._protocol.verdict(example, completion, own)
        return Reward(parts[self._reward], parts, *verdict)
