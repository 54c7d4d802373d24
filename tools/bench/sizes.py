"""The sizes of the benchmarks on a CPU, and tiny ones.

Sources: Appendix D of the paper (`PAPER_I`, `PAPER_II`); the small models are
those that the original was measured with on two cores (docs/performance.md).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

Fields = Mapping[str, Any]

# Appendix D. What the schedule is does not matter, only that there is one.
OPTIMIZER = dict(
    optax_name="scale_by_adafactor", optax=dict(beta2_cap=0.95), lr=4e-4,
    wd=4e-5, grad_clip_norm=1.0, total_steps=1000,
    schedule=dict(decay_type="cosine", warmup_steps=0))

# Fields that save memory on our side. The naive side knows none of them.
# A scan compiles one layer for all, and `remat` computes a block again in the
# backward pass instead of keeping it.
LEAN_I = dict(scan_layers=True, remat="block")
LEAN_II = dict(scan_layers=True, remat="block")


def stage_i(size: int, patch: int, *, classes: int = 134, instances: int = 100,
            **fields: Any) -> dict[str, Any]:
  """Constructor fields of a stage I model for panoptic segmentation."""
  # (classes, pixels of a patch) of each map.
  labels = {"semantics": (classes, patch**2),
            "instances": (instances, patch**2)}
  return dict(input_size=(size, size), patch_size=(patch, patch),
              inputs=labels, outputs=labels, **fields)


def stage_ii(size: int, patch: int, **fields: Any) -> dict[str, Any]:
  """Constructor fields of a language model."""
  return dict(input_size=(size, size), patches={"size": (patch, patch)},
              **fields)


SMALL_I = stage_i(
    256, 16, width=192, oracle_depth=2, base_model_depth=4, num_heads=3,
    mlp_dim=768, code_len=64, dict_size=512, codeword_dim=192)
# `vocab_size` is `dict_size` + 1 in each pair of models: it includes the start
# word.
SMALL_II = stage_ii(
    256, 16, emb_dim=192, num_layers=4, num_heads=3, mlp_dim=768, seq_len=64,
    vocab_size=513)
PAPER_I = stage_i(
    512, 16, width=768, oracle_depth=6, base_model_depth=12, num_heads=12,
    mlp_dim=3072, code_len=256, dict_size=4096, codeword_dim=768)
PAPER_II = stage_ii(
    512, 16, emb_dim=1024, num_layers=24, num_heads=16, mlp_dim=4096,
    seq_len=256, vocab_size=4097)
TINY_I = stage_i(
    32, 8, classes=5, instances=4, width=32, oracle_depth=1,
    base_model_depth=2, num_heads=2, mlp_dim=48, code_len=4, dict_size=8,
    codeword_dim=16)
TINY_II = stage_ii(
    32, 8, emb_dim=32, num_layers=2, num_heads=2, mlp_dim=48, seq_len=4,
    vocab_size=9)


class OutputsSize(NamedTuple):
  """Size of C5: square images of one number of patches."""
  side: int
  patch: int
  num_classes: int
  num_instances: int
  batch_size: int


class ImagesSize(NamedTuple):
  """Size of C4, C6 and C9: images of one (height, width) in pixels."""
  shape: tuple[int, int]
  num_images: int


@dataclasses.dataclass(frozen=True)
class Size:
  """How large each benchmark is.

  Attributes:
    stage_i: stage I's model, of C1 and as the oracle of C2.
    stage_ii: stage II's model, of C2.
    decoder: the language model of C3.
    paper_i: stage I's model of C7, which is compiled but not run.
    paper_ii: stage II's model of C8, likewise.
    optimizer: config fields of the optimizer of C1, C2, C7 and C8.
    batch_i: images per step of C1.
    batch_ii: images per step of C2.
    batch_decode: images that C3 decodes at once.
    batch_paper: images per step of C7 and C8.
    outputs: of C5.
    pp: of C4.
    pp_resolution: side in pixels after C4's resizing.
    segments: per image of C4; a row each.
    pq: of C6.
    photos: of C9, which predicts with C2's models.
    predict_batches: images that C9 runs at once; a row each.
    growth_tokens: image tokens; a row of growth each.
    growth_segments: per image; a row of growth each.
    growth_words: words of the dictionary; a row of growth each.
    growth_encoder: the language model whose encoder grows.
    growth_vectors: (number, size) of the quantizer's input.
    repeats: runs of each side.
    tolerance: relative, of a training step's loss and update.
    ceiling: side of the matrices whose product is the ceiling.
  """
  stage_i: Fields
  stage_ii: Fields
  decoder: Fields
  paper_i: Fields
  paper_ii: Fields
  batch_i: int
  batch_ii: int
  batch_decode: int
  batch_paper: int
  outputs: OutputsSize
  pp: ImagesSize
  pp_resolution: int
  segments: tuple[int, ...]
  pq: ImagesSize
  photos: ImagesSize
  predict_batches: tuple[int, ...]
  growth_tokens: tuple[int, ...]
  growth_segments: tuple[int, ...]
  growth_words: tuple[int, ...]
  growth_encoder: Fields
  growth_vectors: tuple[int, int]
  repeats: int
  ceiling: int
  tolerance: float = 1e-2
  optimizer: Fields = dataclasses.field(default_factory=lambda: OPTIMIZER)


# On a CPU, C7 and C8 only compile the paper's models. C1 to C3 run small ones.
CPU = Size(
    stage_i=SMALL_I,
    stage_ii=SMALL_II,
    decoder=SMALL_II | dict(seq_len=256),
    paper_i=PAPER_I,
    paper_ii=PAPER_II,
    batch_i=4,
    batch_ii=8,
    batch_decode=8,
    batch_paper=8,
    outputs=OutputsSize(512, 16, 134, 100, batch_size=4),
    pp=ImagesSize((480, 640), 24),
    pp_resolution=512,
    segments=(20, 60),
    pq=ImagesSize((427, 640), 200),
    photos=ImagesSize((480, 640), 32),
    predict_batches=(1, 8, 32),
    growth_tokens=(256, 1024, 4096, 6400),
    growth_segments=(5, 200),  # C4 has 20 and 60.
    growth_words=(1024, 4096, 16384),
    growth_encoder=PAPER_II,
    growth_vectors=(512, 768),
    repeats=7,
    ceiling=2048,
)

# For tests and --quick: everything runs, nothing is measured.
TINY = Size(
    stage_i=TINY_I,
    stage_ii=TINY_II,
    decoder=TINY_II,
    paper_i=TINY_I,
    paper_ii=TINY_II,
    batch_i=2,
    batch_ii=2,
    batch_decode=2,
    batch_paper=2,
    outputs=OutputsSize(16, 8, 5, 4, batch_size=2),
    pp=ImagesSize((48, 64), 3),
    pp_resolution=32,
    segments=(3,),
    pq=ImagesSize((24, 32), 3),
    photos=ImagesSize((48, 64), 3),
    predict_batches=(2,),
    growth_tokens=(16,),
    growth_segments=(2,),
    growth_words=(8,),
    growth_encoder=TINY_II,
    growth_vectors=(16, 8),
    repeats=1,
    ceiling=64,
)

SIZES = {"cpu": CPU, "tiny": TINY}
