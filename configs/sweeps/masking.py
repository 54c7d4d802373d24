"""Figure 10 of the paper: what f makes of a code of which a part is masked.

The language model's code is drawn once. Its left half is masked in three ways.
Figures are taken apart: inside of the masked half of the image and outside.
"""

from configs.sweeps import recipe

PUBLISHED = "in images"


def score(title, measure):
  return recipe.Score(title, "masking", f"{{cell}}/{measure}")


def comparisons():
  found = []
  for mask in ("zeros", "random", "word"):
    found.append(recipe.Comparison(
        f"{mask}: the region degrades", recipe.Entry("inside", mask), "<",
        recipe.Entry("inside", "none"), PUBLISHED))
  for mask in ("zeros", "random", "word"):
    found.append(recipe.Comparison(
        f"{mask}: the rest holds better than the region",
        recipe.Entry("changed_outside", mask), "<",
        recipe.Entry("changed_inside", mask), PUBLISHED))
  zeros = recipe.Entry("inside", "zeros")
  found.append(recipe.Comparison(
      "random words are obeyed, zeros are filled in",
      recipe.Entry("inside", "random"), "<", zeros, PUBLISHED))
  found.append(recipe.Comparison(
      "one word is obeyed, zeros are filled in",
      recipe.Entry("inside", "word"), "<", zeros, PUBLISHED))
  return found


def get_sweep(size):
  return recipe.Sweep(
      title="Figure 10: a masked region of the code (paper, appendix B; shown "
            "there in images only)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells={
          "none": recipe.Cell("nothing masked"),
          "zeros": recipe.Cell("zero vectors"),
          "random": recipe.Cell("random words"),
          "word": recipe.Cell("one word")},
      scores={
          "inside": score("PQ inside", "PQ_inside"),
          "outside": score("PQ outside", "PQ_outside"),
          "changed_inside": score("% of classes changed inside",
                                  "changed_inside"),
          "changed_outside": score("% of classes changed outside",
                                   "changed_outside")},
      comparisons=comparisons(),
      evaluator="panoptic_holdout" if size == "full" else "uvim")
