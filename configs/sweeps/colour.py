"""Colorization: the oracle's code, UViM, and no code at all.

The measure on `rooms` is the Fréchet distance between the mean colours of the
four quarters of pictures (evaluators/features.py), since Inception's weights
come with no package; it compares with no published FID.
"""

from configs.sweeps import recipe

FID_1, FID_2 = {"default": 15.59}, {"default": 16.99}


def score(size, stage, title, published):
  full = size == "full"
  metric = ("fid/FID_5k" if full else
            ("oracle_code_fid/FID", "uvim_fid/FID")[stage - 1])
  return dict(title=f"{title}, {'FID-5k' if full else 'colour distance'}",
              stage=stage, metric=metric, published=published,
              comparable=full)


def get_sweep(size):
  return dict(
      title="Colorization (paper, Table 1 and the released models; FID-5k, "
            "lower is better)",
      **recipe.base(size, "colorization", arg="fid"),
      cells={
          "default": dict(title="default"),
          "no_oracle": dict(title="no oracle", stage2=None, cost=(0.7, 0),
                            stage1={"model.oracle_depth": 0})},
      scores={"stage1": score(size, 1, "UViM (stage I)", FID_1),
              "stage2": score(size, 2, "UViM (stage II)", FID_2)},
      checks=[
          ("the oracle's code is better than UViM's", ("stage1", "default"),
           "<", ("stage2", "default"), "15.59 : 16.99"),
          ("UViM is better than no code", ("stage2", "default"), "<",
           ("stage1", "no_oracle"), "–")])
