"""Loss weight of Pix2Seq-D: how much pixels of small instances count."""

from configs.sweeps import recipe

POWERS = (0.0, 0.2, 0.4, 0.6)
PUBLISHED = {"p_0": 40.4, "p_0.2": 43.9, "p_0.4": 43.7, "p_0.6": 41.3}


def name_of(power):
  return f"p_{power:g}"


def cells():
  table = {}
  for power in POWERS:
    table[name_of(power)] = recipe.pix2seq_d_cell(
        f"p = {power:g}", {"model.weight_power": power})
  return table


def get_sweep(size):
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Pix2Seq-D: loss weight (its Table 5; PQ on held-out images)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(),
      scores={
          "quality": recipe.pix2seq_d_score(size, "PQ", "PQ", PUBLISHED),
          "things": recipe.pix2seq_d_score(size, "PQ of things", "PQ_things")},
      comparisons=[
          compare("0.2 is better than equal weights", "quality", "p_0.2", ">",
                  "p_0", "43.9 : 40.4"),
          compare("0.2 is better than 0.6", "quality", "p_0.2", ">", "p_0.6",
                  "43.9 : 41.3")],
      trends=[
          recipe.Trend("the best power is neither the least nor the largest",
                       "quality", "peaks inside rows", "peak at 0.2")],
      grid=recipe.Grid(rows=POWERS, columns=["Pix2Seq-D"], down="p"))
