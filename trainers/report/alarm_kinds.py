"""The alarms of a run: which there are, and what to do about each.

docs/troubleshooting.md explains every one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainers.report import run_files
from uvim.codes import QUANTIZERS
from uvim.codes.base import Quantizer


class Kind(NamedTuple):
  """A kind of alarm.

  Attributes:
    title: its section in docs/troubleshooting.md.
    advice: what to do.
  """
  title: str
  advice: str


KINDS = {
    "codebook_collapse": Kind(
        "codebook collapse",
        # Another one where the config names its quantizer.
        Quantizer.if_unused),
    "oracle_gap": Kind(
        "widening gap",
        "The language model gets worse: overfitting, or too high a learning "
        "rate?"),
    "overfitting": Kind(
        "overfitting", "More data, more augmentation, or fewer steps?"),
    "repeated_word": Kind(
        "repeated word",
        "Sample at temperature 1; then more augmentation, a pretrained "
        "encoder, or a code that is easier to predict."),
    "below_no_code": Kind(
        "below no code",
        "Read it by soft_words = 1.0, for RMSE and PSNR as the mean of several "
        "samples; then more augmentation, a pretrained encoder, or a code that "
        "is easier to predict."),
}


class Alarm(NamedTuple):
  """A warning.

  Attributes:
    name: a key of KINDS, and its name in the metrics.
    figure: the number that raised it.
    seen: what the watch saw, as part of a sentence.
    is_first: whether the run has not raised it before.
    advice: what to do; None: that of its kind.
  """
  name: str
  figure: float
  seen: str
  is_first: bool = True
  advice: str | None = None

  @property
  def message(self) -> str:
    """All of it in one line."""
    kind = KINDS[self.name]
    return f"{kind.title}: {self.seen}. {self.advice or kind.advice}"


def advice_of(name: str, config: Mapping[str, Any]) -> str:
  """What to do about an alarm; "" where nobody knows.

  Args:
    name: its name in the metrics.
    config: config.json of the run; {}: nobody knows it.
  """
  if name not in KINDS:
    # Another version may have other alarms.
    return ""
  quantizer_cls = QUANTIZERS.get(run_files.quantizer(config))
  if name == "codebook_collapse" and quantizer_cls:
    return quantizer_cls.if_unused
  return KINDS[name].advice
