"""What a quantizer is: the contract between the oracle and the base model.

B batch (global) · L code length (places) · E size of a code vector
Q number of words

The oracle writes one vector for each place of the code. A quantizer turns those
vectors into a code that can be stored and predicted, and a code into the
vectors that the base model reads.

A quantizer is a frozen dataclass of Python values. It holds no arrays: they are
passed to every call as `CodeArrays`, so that the train loop, the checkpoint and
the compiled program own them.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from uvim.typing import (
  Array,
  CodeVectors,
  Dropped,
  Logs,
  PerExample,
  PerWord,
  PRNGKey,
  PyTree,
)


@dataclasses.dataclass(frozen=True)
class CodeSpec:
  """What a code looks like; whoever predicts codes reads only this.

  Attributes:
    length: L, places of the code.
    num_words: Q; None where the code is made of real numbers.
    words_per_place: words that each place has; 1 but for residual codes.
    vector_dim: E, numbers of a code vector, as the base model reads it.
  """
  length: int
  num_words: int | None
  words_per_place: int
  vector_dim: int

  @property
  def is_discrete(self) -> bool:
    return self.num_words is not None

  @property
  def num_entries(self) -> int | None:
    """Words of all codebooks, whose use is counted; None without words.

    Each of several words of a place has a codebook of its own.
    """
    if not self.is_discrete:
      return None
    return self.num_words * self.words_per_place

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of one code: [L], [L, words per place] or [L, E]."""
    if not self.is_discrete:
      return (self.length, self.vector_dim)
    if self.words_per_place > 1:
      return (self.length, self.words_per_place)
    # One word for each place needs no axis of length 1.
    return (self.length,)

  @property
  def dtype(self) -> Any:
    """int32 words in 0..Q-1, or float32."""
    return jnp.int32 if self.is_discrete else jnp.float32


class CodeArrays(flax.struct.PyTreeNode):
  """The arrays of a quantizer.

  Attributes:
    params: what the optimizer trains; {} for most.
    state: what `Quantizer.learn` changes, under the names of the published
      checkpoints (`state/…`); {} where nothing is learned.
  """
  params: PyTree
  state: PyTree


class Coded(flax.struct.PyTreeNode):
  """What `Quantizer.encode` returns.

  Attributes:
    z_BLE: code vectors for the base model. Their gradient reaches the oracle.
    code: the code, of shape (B, *CodeSpec.shape).
    loss_B: the quantizer's own loss of each example, weights included.
    stats: a tree of sums over examples from which `learn` learns. The stats of
      a batch are the sum of those of its parts.
    logs: name → mean over the examples, for the reports.
  """
  z_BLE: CodeVectors
  code: Array
  loss_B: PerExample
  stats: PyTree
  logs: Logs


class Quantizer(abc.ABC):
  """Turns the oracle's vectors into a code, and a code into vectors.

  Subclasses are frozen dataclasses whose fields are fields of `config.model`.

  Attributes:
    if_unused: what to do if training leaves most words unused; shown with that
      alarm.
  """

  if_unused: ClassVar[str] = (
      "A few images need a few words: lower model.dict_size.")

  # What a code of this quantizer looks like.

  @property
  @abc.abstractmethod
  def num_words(self) -> int | None:
    """Q; None where the code is made of real numbers."""

  @property
  @abc.abstractmethod
  def oracle_dim(self) -> int:
    """How many numbers the oracle writes for a place."""

  @property
  @abc.abstractmethod
  def vector_dim(self) -> int:
    """E, how many numbers the base model reads for a place."""

  @property
  def words_per_place(self) -> int:
    return 1

  def spec(self, length: int) -> CodeSpec:
    """The codes of `length` places that this quantizer makes."""
    return CodeSpec(
        length=length,
        num_words=self.num_words,
        words_per_place=self.words_per_place,
        vector_dim=self.vector_dim)

  # From vectors to a code and back.

  def init(self, rng: PRNGKey) -> CodeArrays:
    """Fresh arrays; traceable."""
    del rng
    return CodeArrays(params={}, state={})

  @abc.abstractmethod
  def encode(
      self,
      arrays: CodeArrays,
      x_BLE: CodeVectors,
      rngs_B: PRNGKey | None = None,
      step: jax.Array | None = None,
  ) -> Coded:
    """Quantizes the oracle's vectors.

    Args:
      arrays: from `init`, `learn` and the optimizer.
      x_BLE: what the oracle writes, [B, L, oracle_dim], as its head gives it.
      rngs_B: a key per example in training; None in evaluation, where the
        code of an example must not depend on chance.
      step: the training step, for temperatures that change; None in
        evaluation.
    """

  @abc.abstractmethod
  def embed(
      self,
      arrays: CodeArrays,
      code: Array,
      dropped_BL: Dropped | None = None,
  ) -> CodeVectors:
    """The vectors that a code stands for.

    Args:
      arrays: as for `encode`.
      code: (B, *CodeSpec.shape). A word outside of 0..Q-1 gives NaN at places
        that are not dropped: it must not pass for some other word.
      dropped_BL: True at places that say nothing.
    """

  def drop(
      self,
      arrays: CodeArrays,
      z_BLE: CodeVectors,
      dropped_BL: Dropped,
  ) -> CodeVectors:
    """Replaces the vectors of dropped places by "no word".

    "No word" is the zero vector. A quantizer of which zeros are a word, too,
    may override this.
    """
    del arrays
    # A select, not a product with 0: a NaN of a dropped place must vanish too.
    return jnp.where(dropped_BL[..., None], 0, z_BLE)

  # What is learned outside of the gradient.

  def learn(
      self,
      state: PyTree,
      stats: PyTree,
      rng: PRNGKey,
  ) -> tuple[PyTree, Logs]:
    """The state after a step, and what there is to log.

    Args:
      state: `CodeArrays.state` before the step.
      stats: `Coded.stats` of the whole batch.
      rng: the same on every device.
    """
    del stats, rng
    return state, {}

  def usage(self, stats: PyTree) -> PerWord | None:
    """How often each entry was chosen; None where there are no words.

    Of `CodeSpec.num_entries` numbers.
    """
    del stats
    return None

  def word_counts(self, state: PyTree) -> PerWord | None:
    """How often training used each word lately; None if nobody counts."""
    del state
    return None


class WordQuantizer(Quantizer):
  """A quantizer whose words stand for vectors.

  Subclasses are dataclasses with at least these fields. The oracle writes
  vectors of the same size, unless they say otherwise.

  Attributes:
    dict_size: Q.
    codeword_dim: E.
  """
  dict_size: int
  codeword_dim: int

  @property
  def num_words(self) -> int:
    return self.dict_size

  @property
  def oracle_dim(self) -> int:
    return self.codeword_dim

  @property
  def vector_dim(self) -> int:
    return self.codeword_dim
