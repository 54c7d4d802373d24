"""Colorization: the oracle's code, UViM, and no code at all.

The measure on `rooms` is the Fréchet distance between the mean colors of the
four quarters of the images (evaluators/features.py), because Inception's
weights come with no package. It compares with no published FID.
"""

from configs.sweeps import recipe

FID_1 = {"default": 15.59}
FID_2 = {"default": 16.99}


def score(size, stage, title, published):
  """The row of a stage."""
  if size == "full":
    return recipe.Score(f"{title}, FID-5k", stage, "fid/FID_5k", published)
  metrics = {1: "oracle_code_fid/FID", 2: "uvim_fid/FID"}
  return recipe.Score(f"{title}, colour distance", stage, metrics[stage],
                      published, is_comparable=False)


def get_sweep(size):
  stage1 = recipe.Entry("stage1", "default")
  stage2 = recipe.Entry("stage2", "default")
  no_code = recipe.Entry("stage1", "no_oracle")
  return recipe.Sweep(
      title="Colorization (paper, Table 1 and the released models; FID-5k, "
            "lower is better)",
      recipe=recipe.recipe_of(size, "colorization", "fid"),
      cells={
          "default": recipe.Cell("default"),
          "no_oracle": recipe.no_oracle()},
      scores={
          "stage1": score(size, 1, "UViM (stage I)", FID_1),
          "stage2": score(size, 2, "UViM (stage II)", FID_2)},
      comparisons=[
          recipe.Comparison("the oracle's code is better than UViM's",
                            stage1, "<", stage2, "15.59 : 16.99"),
          recipe.Comparison("UViM is better than no code",
                            stage2, "<", no_code, "–")])
