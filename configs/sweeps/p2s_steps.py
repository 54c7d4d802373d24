"""Steps of Pix2Seq-D: PQ over their number and the time difference.

The paper's Table 1 has the numbers of steps, but not the time difference that
its figures are for. All cells share one training.
"""

from configs.sweeps import recipe

STEPS = (1, 5, 10, 20, 50)
TIME_DIFFERENCES = (0, 1, 2)
# Steps → figures of Table 1: PQ of all, of things, of stuff.
PUBLISHED = {5: (47.5, 52.2, 40.3), 10: (49.4, 54.4, 41.9),
             20: (50.3, 55.3, 42.9), 50: (50.2, 55.1, 42.8)}
# The published evaluation takes it or 2.
PUBLISHED_AT = 1
EVALUATORS = {"full": "panoptic_holdout", "rooms": "steps_20",
              "tiny": "steps_2"}


def name_of(steps, time_difference):
  return f"steps_{steps}_td_{time_difference}"


def cells():
  """Row by row: a number of steps."""
  table = {}
  for steps in STEPS:
    for time_difference in TIME_DIFFERENCES:
      sampling = {"num_steps": steps, "time_difference": float(time_difference)}
      title = f"{steps} steps, difference {time_difference}"
      name = name_of(steps, time_difference)
      table[name] = recipe.pix2seq_d_cell(title, sampling=sampling)
  return table


def published(place):
  """Cell → the figure at a place of PUBLISHED's."""
  found = {}
  for steps, figures in PUBLISHED.items():
    found[name_of(steps, PUBLISHED_AT)] = figures[place]
  return found


def comparisons():
  def compare(effect, left, sign, right, published):
    return recipe.compare_cells(effect, "quality", left, sign, right, published)

  return [
      compare("5 steps are better than one", name_of(5, 1), ">", name_of(1, 1),
              "ours"),
      compare("10 steps are better than 5", name_of(10, 1), ">", name_of(5, 1),
              "49.4 : 47.5"),
      compare("20 steps are better than 10", name_of(20, 1), ">",
              name_of(10, 1), "50.3 : 49.4"),
      compare("50 steps are about as good as 20", name_of(50, 1), "~",
              name_of(20, 1), "50.2 : 50.3"),
      compare("10 steps: a time difference of 1 is better than none",
              name_of(10, 1), ">", name_of(10, 0), "ours")]


def get_sweep(size):
  return recipe.Sweep(
      title="Pix2Seq-D: steps (its Table 1; PQ on held-out images, "
            "milliseconds per image)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(),
      scores={
          "quality": recipe.Score("PQ", "sampling", "PQ", published(0)),
          "things": recipe.Score(
              "PQ of things", "sampling", "PQ_things", published(1)),
          "stuff": recipe.Score(
              "PQ of stuff", "sampling", "PQ_stuff", published(2)),
          "time": recipe.Score(
              "milliseconds per image", "sampling", "ms_per_image")},
      comparisons=comparisons(),
      grid=recipe.Grid(rows=STEPS, columns=TIME_DIFFERENCES, down="steps",
                       across="time difference"),
      evaluator=EVALUATORS[size],
      measure="sampling")
