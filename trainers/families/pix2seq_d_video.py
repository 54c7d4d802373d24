"""Pix2Seq-D on videos: a mask is predicted from those of the frames before it.

  python -m trainers.pix2seq_d --config configs/pix2seq_d_….py --workdir W

B examples · H W mask pixels · F earlier frames

With `config.model.frames_before` = 0 it is the family of images. Otherwise
training shows the true masks of the F frames before, `labels_before`, and there
is one more predictor: `video` shows those that it has predicted itself.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from trainers.families.base import Batch, Opened, Variables
from trainers.families.pix2seq_d import Pix2SeqDFamily
from uvim.config import TrainConfig
from uvim.models.pix2seq_d import Pix2SeqD, video_training
from uvim.models.pix2seq_d import video as video_lib
from uvim.models.pix2seq_d.network import MAPS
from uvim.models.pix2seq_d.video import Memory
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError
from uvim.store.start_from import Store
from uvim.typing import PyTree

# Keys of a batch: the number of a frame's video, and that of the frame in it.
VIDEO = "clip/id"
NUMBER = "clip/frame"
_BEFORE = "labels_before"


class Pix2SeqDVideoFamily(Pix2SeqDFamily):
  """Pix2Seq-D that may see the masks of earlier frames."""

  def __init__(self, config: TrainConfig):
    super().__init__(config)
    if self._num_frames:
      self.predictors = {**self.predictors, "video": self.video}

  @property
  def _num_frames(self) -> int:
    """F."""
    return self.model.network.frames_before

  # ── Start and training ──────────────────────────────────────────────────

  def open(self, store: Store) -> Opened:
    """Also starts from a model that has learned from images alone."""
    if not self._num_frames:
      return super().open(store)
    try:
      return super().open(store)
    except ConfigError:
      # If it is no model of images either, this says what does not fit.
      arrays = store.read_start(
          self.config.model_init,
          self._arrays_of_images(),
          kind=self.kind,
          encoder_specs=self.encoder_specs)
    first_kernel = self.wanted_arrays()["params"]["denoiser"]["conv_in"]
    num_inputs = first_kernel["kernel"].shape[-2]
    initial = video_training.with_earlier_masks(arrays, num_inputs)
    return Opened(initial=initial, cached=self._open_features(initial))

  def _arrays_of_images(self) -> dict[str, PyTree]:
    """`wanted_arrays` of the same model without earlier masks."""
    network = self.model.network.clone(frames_before=0)
    model = Pix2SeqD(network)
    params = jax.eval_shape(model.init, jax.random.key(0))
    return {**self.wanted_arrays(), "params": params}

  def check_batch(self, batch):
    super().check_batch(batch)
    if not self._num_frames:
      return
    if _BEFORE not in batch:
      raise ConfigError(f"config.pp_train must keep {_BEFORE!r}, the labels of "
                        f"the {self._num_frames} frames before; it leaves "
                        f"{', '.join(sorted(batch))}.")
    allowed = (*batch["labels"].shape[:-1], self._num_frames * len(MAPS))
    if batch[_BEFORE].shape != allowed:
      raise ConfigError(f"{_BEFORE} of a batch have the shape "
                        f"{batch[_BEFORE].shape}; it must be {allowed}, as "
                        "config.model.frames_before = "
                        f"{self._num_frames}.")

  def _draw(self, batch, rngs_B, time_B=None):
    if not self._num_frames:
      return super()._draw(batch, rngs_B, time_B)
    labels = self._known_labels(batch["labels"])
    return video_training.draw(
        self.model, labels, self._before(batch), rngs_B, time_B)

  def _before(self, batch):
    # A frame alone is predicted without.
    if not self._num_frames or _BEFORE not in batch:
      return None
    return self._known_before(batch[_BEFORE])

  def _known_before(self, before) -> jax.Array:
    """As `_known_labels`, for the labels [B, H, W, F*2] of several frames."""
    shape = before.shape
    labels = before.reshape(*shape[:2], -1, len(MAPS))
    return self._known_labels(labels).reshape(shape)

  # ── Predictions ─────────────────────────────────────────────────────────

  def video(
      self,
      variables: Variables,
      batch: Batch,
      memory: Memory,
      num_steps=20,
      later_steps=video_lib.LATER_STEPS,
      time_difference=1.0,
      sampler="ddim",
      seed=0,
      min_fraction=0.0,
  ) -> tuple[Batch, Memory]:
    """{'panoptic': int32 [B, H, W, 2]} of frames, and the memory after them.

    The mask of a frame follows from (clip/id, seed) and the frames of its clip
    up to it, whatever the batches. All pixels of an instance vote for its
    class; the frames that follow see the masks before the vote.
    """
    frames = video_lib.Frames(
        image=batch["image"],
        seeds_T=example_seeds(batch[VIDEO], seed),
        videos_T=batch[VIDEO],
        numbers_T=batch[NUMBER])
    labels, memory = video_lib.label_frames(
        self.model, variables["params"], frames, memory, num_steps=num_steps,
        later_steps=later_steps, time_difference=time_difference,
        sampler=sampler)
    return {"panoptic": self._vote(labels, min_fraction)}, memory

  video.checks = {
      **Pix2SeqDFamily.predict.checks,
      "later_steps": Pix2SeqD.generate.checks["num_steps"],
  }
  video.docs = {
      **Pix2SeqDFamily.predict.docs,
      "num_steps": "How often the network sees the mask of the first frame.",
      "later_steps": "How often it sees those of all others.",
      "seed": "With the clip's id, the seed of its sample.",
  }

  def compile(self, predictor: str, function: Callable) -> Callable:
    program = super().compile(predictor, function)
    if predictor != "video":
      return program
    if jax.process_count() > 1:
      raise ConfigError("The prediction 'video' needs all frames of a clip in "
                        f"one process; there are {jax.process_count()}.")
    return _Stream(program, video_lib.empty_memory(self.model))


class _Stream:
  """A predictor of videos, which knows the last frames of the last batch."""

  def __init__(self, program: Callable, memory: Memory):
    self._program = program
    # On the host: on devices it would lie elsewhere after the first batch, and
    # the program would be compiled again.
    self._memory = jax.device_get(memory)

  def __call__(self, variables: Variables, batch: Batch, **options) -> Batch:
    _check_order(batch, self._memory)
    outputs, memory = self._program(
        variables, batch, self._memory, **options)
    self._memory = jax.device_get(memory)
    return outputs


def _check_order(batch: Mapping[str, jax.Array], memory: Memory) -> None:
  """Raises a ConfigError if a frame does not follow the one before it."""
  for key in (VIDEO, NUMBER):
    if key not in batch:
      raise ConfigError(f"The prediction 'video' needs {key!r}: the pp of the "
                        "evaluator must keep it; it leaves "
                        f"{', '.join(sorted(batch))}.")
  last = (int(memory.video), int(memory.number))
  videos = np.asarray(batch[VIDEO]).tolist()
  numbers = np.asarray(batch[NUMBER]).tolist()
  for frame in zip(videos, numbers, strict=True):
    video_id, number = frame
    is_next = frame == (last[0], last[1] + 1)
    # The last batch of a pass is filled up with its last example.
    is_padding = frame == last
    if number and not is_next and not is_padding:
      raise ConfigError(f"clip {video_id}: frame {number} comes after frame "
                        f"{last[1]} of clip {last[0]}; a clip must begin with "
                        "its frame 0, and its frames must be in order.")
    last = frame
