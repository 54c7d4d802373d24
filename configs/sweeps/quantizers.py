"""How vectors become words: the quantizers at about equal bits, panoptic.

Published by Mentzer et al. 2023 (finite scalar quantization, arXiv:2309.15505)
for `vq` and `fsq`. Figures in words were quoted from that paper by others, and
nobody has compared them with it. configs/sweeps/quantizers_depth.py does the
same for depth.
"""

from configs.sweeps import recipe

PQ_2 = {"vq": "43.0, quoted", "fsq": "43.2, quoted"}


def cells():
  """Each quantizer; `vq` also without its splitting of unused words."""
  return {
      "vq": recipe.Cell("VQ"),
      "vq_unsplit": recipe.Cell(
          "VQ without splitting", stage1={"model.dict_splitting": False}),
      "vq_gradient": recipe.Cell(
          "VQ by gradient", argument="vq_gradient"),
      "fsq": recipe.Cell("FSQ", argument="fsq"),
      "lfq": recipe.Cell("LFQ", argument="lfq"),
      # Stage II predicts twice as many words.
      "residual": recipe.Cell(
          "residual VQ, 2 words a place", argument="residual", cost=(1, 1.5)),
  }


def scores(stage1, stage2, usage):
  """What is compared.

  Args:
    stage1: the score of the oracle's code.
    stage2: UViM's.
    usage: cell → published share of the words in use, in percent.
  """
  return {
      "usage": recipe.Score(
          "% of words in use", 1, "train/code/usage", usage, scale=100),
      "perplexity": recipe.Score(
          "perplexity of use", 1, "train/code/perplexity"),
      "stage1": stage1,
      "nats": recipe.Score(
          "LM, nats per image", 2, "val/nats_per_code"),
      "stage2": stage2}


def comparisons(better):
  """Effects.

  Args:
    better: '>' or '<': what a good score of UViM is to a bad one.
  """
  compare = recipe.compare_cells
  return [
      compare("usage: FSQ needs no splitting", "usage", "fsq", ">",
              "vq_unsplit", "99 : 0.78"),
      compare("UViM: FSQ is level with VQ", "stage2", "fsq", "~", "vq",
              "level"),
      compare("UViM is better with splitting", "stage2", "vq", better,
              "vq_unsplit", "on depth"),
      compare("usage: trained codebooks use fewer words", "usage",
              "vq_gradient", "<", "vq", "–"),
      compare("nats: a code of FSQ is cheaper", "nats", "fsq", "<", "vq", "–"),
  ]


# Drawn over the steps of stage I.
CURVES = {
    "train/code/usage": "share of words in use",
    "train/code/perplexity": "perplexity of use"}


def get_sweep(size):
  metric1, metric2 = recipe.metrics_of(size, "coco_panoptic_holdout/PQ", "PQ")
  return recipe.Sweep(
      title="Quantizers at equal bits, panoptic segmentation (FSQ paper, 2023; "
            "PQ on held-out images)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(),
      scores=scores(
          recipe.Score("UViM (stage I), PQ", 1, metric1),
          recipe.Score("UViM (stage II), PQ", 2, metric2, PQ_2),
          usage={"fsq": "100, quoted"}),
      comparisons=comparisons(">"),
      curves=CURVES)
