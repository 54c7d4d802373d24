"""The sizes of the benchmarks: on a CPU, on an accelerator, and tiny ones.

Sources: Appendix D of the paper (`PAPER_I`, `PAPER_II`); the small models are
those that the original was measured with on two cores (docs/performance.md).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]

# Appendix D. What the schedule is does not matter, only that there is one.
OPTIMIZER = dict(
    optax_name="scale_by_adafactor", optax=dict(beta2_cap=0.95), lr=4e-4,
    wd=4e-5, grad_clip_norm=1.0, total_steps=1000,
    schedule=dict(decay_type="cosine", warmup_steps=0))

# What the lean path is switched on with; the naive side knows none of it.
LEAN_I = dict(scan_layers=True, remat="block")
LEAN_II = dict(scan_layers=True, remat="block")


def stage_i(size: int, patch: int, *, classes: int = 134, instances: int = 100,
            **fields: Any) -> dict[str, Any]:
  """Constructor fields of a stage I model for panoptic segmentation."""
  labels = {"semantics": (classes, patch**2), "instances": (instances,
                                                            patch**2)}
  return dict(input_size=(size, size), patch_size=(patch, patch),
              inputs=labels, outputs=labels, **fields)


def stage_ii(size: int, patch: int, **fields: Any) -> dict[str, Any]:
  """Constructor fields of a language model."""
  return dict(input_size=(size, size), patches={"size": (patch, patch)},
              **fields)


SMALL_I = stage_i(
    256, 16, width=192, oracle_depth=2, base_model_depth=4, num_heads=3,
    mlp_dim=768, code_len=64, dict_size=512, codeword_dim=192)
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


@dataclasses.dataclass(frozen=True)
class Size:
  """How large each benchmark is.

  Attributes:
    stage_i, stage_ii: models of C1, and of C2 with the former as its oracle.
    decoder: the language model of C3.
    paper_i, paper_ii: models of C7 and C8, compiled but not run.
    optimizer: config fields of the optimizer of C1, C2, C7 and C8.
    batch_i, batch_ii, batch_decode, batch_paper: images per step.
    outputs: side in pixels, patch, classes, instances and batch of C5.
    pp: (height, width) of the pictures, side after resizing, pictures of C4.
    segments: per picture of C4.
    pq: (height, width) and number of pictures of C6.
    growth_tokens, growth_segments, growth_words: points of the growth rows.
    growth_encoder: the language model whose encoder grows.
    growth_vectors: (number, size) of the quantizer's input.
    repeats: runs of each side.
    tolerance: relative, of a training step's loss and update.
    dtype: of the ceiling.
    ceiling: side of its matrices.
    megabytes: of the array whose reading gives the memory's ceiling.
  """
  stage_i: Fields = dataclasses.field(default_factory=lambda: SMALL_I)
  stage_ii: Fields = dataclasses.field(default_factory=lambda: SMALL_II)
  decoder: Fields = dataclasses.field(
      default_factory=lambda: SMALL_II | dict(seq_len=256))
  paper_i: Fields = dataclasses.field(default_factory=lambda: PAPER_I)
  paper_ii: Fields = dataclasses.field(default_factory=lambda: PAPER_II)
  optimizer: Fields = dataclasses.field(default_factory=lambda: OPTIMIZER)
  batch_i: int = 4
  batch_ii: int = 8
  batch_decode: int = 8
  batch_paper: int = 8
  outputs: tuple[int, int, int, int, int] = (512, 16, 134, 100, 4)
  pp: tuple[tuple[int, int], int, int] = ((480, 640), 512, 24)
  segments: tuple[int, ...] = (20, 60)
  pq: tuple[tuple[int, int], int] = ((427, 640), 200)
  growth_tokens: tuple[int, ...] = (256, 1024, 4096, 6400)
  growth_segments: tuple[int, ...] = (5, 200)  # C4 has 20 and 60.
  growth_words: tuple[int, ...] = (1024, 4096, 16384)
  growth_encoder: Fields = dataclasses.field(default_factory=lambda: PAPER_II)
  growth_vectors: tuple[int, int] = (512, 768)
  repeats: int = 7
  tolerance: float = 1e-2
  dtype: str = "float32"
  ceiling: int = 2048
  megabytes: int = 256


def _on_gpu() -> Size:
  """The paper's models themselves, in bfloat16, run and not only compiled."""
  half = dict(dtype="bfloat16")
  lean_i, lean_ii = PAPER_I | half, PAPER_II | half
  return Size(stage_i=lean_i, stage_ii=lean_ii, decoder=lean_ii,
              paper_i=lean_i, paper_ii=lean_ii, batch_i=8, batch_ii=8,
              batch_decode=64, repeats=10, tolerance=0.1, dtype="bfloat16",
              ceiling=8192, megabytes=4096)


SIZES = {
    "cpu": Size(),
    "gpu": _on_gpu(),
    "tiny": Size(
        stage_i=TINY_I, stage_ii=TINY_II, decoder=TINY_II, paper_i=TINY_I,
        paper_ii=TINY_II, batch_i=2, batch_ii=2, batch_decode=2, batch_paper=2,
        outputs=(16, 8, 5, 4, 2), pp=((48, 64), 32, 3), segments=(3,),
        pq=((24, 32), 3), growth_tokens=(16,), growth_segments=(2,),
        growth_words=(8,), growth_encoder=TINY_II, growth_vectors=(16, 8),
        repeats=1, ceiling=64, megabytes=1),
}
