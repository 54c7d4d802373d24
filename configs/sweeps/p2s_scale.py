"""Input scale b of Pix2Seq-D: how loud a bit is beside the noise.

What can be read in noise depends on b² times the pixels of an instance. An
instance of `rooms` has a four-hundredth of those of the paper's. So the best b
of `rooms` should be larger, and the sweep goes further up.
"""

from configs.sweeps import recipe

SCALES = (0.03, 0.1, 0.3, 1.0)
LARGER_SCALES = (3.0,)
PUBLISHED = {"b_0.03": 40.8, "b_0.1": 43.9, "b_0.3": 38.7, "b_1": 21.3}


def name_of(scale):
  return f"b_{scale:g}"


def scales_of(size):
  return SCALES if size == "full" else SCALES + LARGER_SCALES


def cells(size):
  table = {}
  for scale in scales_of(size):
    table[name_of(scale)] = recipe.pix2seq_d_cell(
        f"b = {scale:g}", {"model.input_scale": scale})
  return table


def comparisons(size):
  compare = recipe.compare_cells
  if size == "full":
    return [
        compare("0.1 is better than 0.3", "quality", "b_0.1", ">", "b_0.3",
                "43.9 : 38.7"),
        compare("0.1 is better than 0.03", "quality", "b_0.1", ">", "b_0.03",
                "43.9 : 40.8"),
        compare("1 is far worse than 0.1", "quality", "b_1", "<", "b_0.1",
                "21.3 : 43.9")]
  return [
      compare("small masks: 1 is better than 0.1", "quality", "b_1", ">",
              "b_0.1", "21.3 : 43.9 at 512 × 512 pixels"),
      compare("small masks: 1 is better than 3", "quality", "b_1", ">", "b_3",
              "ours")]


def get_sweep(size):
  return recipe.Sweep(
      title="Pix2Seq-D: input scale (its Table 3; PQ on held-out images)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(size),
      scores={
          "quality": recipe.pix2seq_d_score(size, "PQ", "PQ", PUBLISHED),
          "bits": recipe.Score(
              "% of right bits", 1, "val/bit_accuracy", scale=100)},
      comparisons=comparisons(size),
      trends=[
          recipe.Trend("the best scale is neither the least nor the largest",
                       "quality", "peaks inside rows", "peak at 0.1")],
      grid=recipe.Grid(rows=scales_of(size), columns=["Pix2Seq-D"], down="b"))
