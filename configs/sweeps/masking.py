"""Figure 10 of the paper: what f makes of a code of which a part is masked.

The language model's code is drawn once; its left half is masked in three ways.
Figures are taken apart: inside of the masked half of the picture and outside.
"""

from configs.sweeps import recipe


def get_sweep(size):
  def score(title, what):
    return dict(title=title, stage="masking", metric=f"{{cell}}/{what}",
                published={})

  return dict(
      title="Figure 10: a masked region of the code (paper, appendix B; shown "
            "there in pictures only)",
      **recipe.base(size, "panoptic"),
      cells={"none": dict(title="nothing masked"),
             "zeros": dict(title="zero vectors"),
             "random": dict(title="random words"),
             "word": dict(title="one word")},
      evaluator="panoptic_holdout" if size == "full" else "uvim",
      scores={
          "inside": score("PQ inside", "PQ_inside"),
          "outside": score("PQ outside", "PQ_outside"),
          "changed_inside": score("% of classes changed inside",
                                  "changed_inside"),
          "changed_outside": score("% of classes changed outside",
                                   "changed_outside")},
      checks=[
          *((f"{name}: the region degrades", ("inside", name), "<",
             ("inside", "none"), "in pictures")
            for name in ("zeros", "random", "word")),
          *((f"{name}: the rest holds better than the region",
             ("changed_outside", name), "<", ("changed_inside", name),
             "in pictures") for name in ("zeros", "random", "word")),
          ("random words are obeyed, zeros are filled in", ("inside", "random"),
           "<", ("inside", "zeros"), "in pictures"),
          ("one word is obeyed, zeros are filled in", ("inside", "word"), "<",
           ("inside", "zeros"), "in pictures")])
