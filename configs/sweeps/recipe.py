"""What all sweeps share: their sizes, and what a table of one consists of.

A sweep is a file of this folder with `get_sweep(size)`, which returns plain
data for `python -m tools.sweep NAME`:

  title     what it is, and where it was published.
  configs   the shipped pair it varies: (stage I, stage II).
  steps     overrides of both for its size: (stage I, stage II).
  costs     of the default cell: (stage I, stage II, unit).
  cells     name → {title, stage1, stage2, cost}. `stage1` and `stage2` are
            overrides of the two configs; a `model.…` of stage I is set in
            stage II's `oracle.model.…` as well. `stage2` None: there is none.
            `cost`: (stage I, stage II) as multiples of the default's.
  scores    name → {title, stage, metric, published, …}. `stage`: 1, 2, or
            'masking' for what tools.sweeps.masking measures. `metric`: a name
            in that run's metrics.jsonl; of a `train/…` the mean over the last
            tenth of the run, since single batches differ. '{cell}' in it is
            the cell's name. `published`: cell → figure; a string is a figure
            of another kind. `scale`: factor on ours. `comparable` False: the
            published figures are of another measure.
  checks    (effect, left, sign, right, what was published); left and right
            are (score, cell). Signs: '<', '>', '~' (within 5 %), and for grids,
            with right None and left (score,): 'rises' (never falls by more than
            the spread along rows and columns, and ends higher than it begins)
            and 'peaks inside rows' or '… columns' (of their means, neither the
            first nor the last is the best).
  grid      {rows, columns, corner}: the cells, row by row, are a grid.
  curves    metric → title: drawn over the steps of stage I, for each cell.
            'age' is made of the splits: see tools/sweeps/plot.py.
  evaluator stage II's, whose pictures tools.sweeps.masking masks.
"""

SIZES = ("full", "rooms", "tiny")

# `full`: the shipped configs as they are. `rooms`: two fifths of the shipped
# recipe's steps in stage I, all of stage II's; the cosine ends with them, so
# that it is a shorter recipe and no broken-off one. With 2400 + 1200 steps UViM
# was worse than no code at all: the language model has most to learn. `tiny`:
# seconds, to try the commands.
STEPS = {
    "full": ({}, {}),
    "rooms": tuple(
        dict(total_steps=steps, checkpoint_steps=800, log_eval_steps=steps,
             log_training_steps=20) for steps in (4000, 2400)),
    "tiny": ({}, {}),
}
# Of the default cell, (stage I, stage II), with start, compiling and scoring.
# rooms: measured. full: the paper's hours for panoptic segmentation; other
# tasks by their steps.
COSTS = {
    "full": (1900, 900, "TPU-v3 hours"),
    "rooms": (5, 8, "minutes (a core for each job)"),
    "tiny": (0.3, 0.3, "minutes (a core for each job)"),
}
FULL_STEPS = {"panoptic": (111_515, 44_606), "depth": (9_294, 4_647),
              "colorization": (124_714, 124_714)}
ARGUMENT = {"full": "", "rooms": "", "tiny": "tiny"}


def base(size, task, arg=""):
  """What a sweep varies: its `configs`, `steps` and `costs`.

  Args:
    size: one of SIZES.
    task: 'panoptic', 'depth' or 'colorization'.
    arg: a further argument of both config files.
  """
  data = {"panoptic": "coco", "depth": "nyu", "colorization": "imagenet"}
  name = data[task] if size == "full" else "rooms"
  arg = ",".join(filter(None, (ARGUMENT[size], arg)))
  configs = tuple(
      f"configs/{stage}_{name}_{task}.py" + (f":{arg}" if arg else "")
      for stage in ("vqvae", "lm"))
  return dict(configs=configs, steps=STEPS[size], costs=costs(size, task))


def costs(size, task):
  """(stage I, stage II, unit) of the default cell."""
  *each, unit = COSTS[size]
  if size == "full":
    each = [cost * ours / panoptic for cost, ours, panoptic in zip(
        each, FULL_STEPS[task], FULL_STEPS["panoptic"], strict=True)]
  return *each, unit


def scratch(size):
  """Overrides of stage II by which nothing is pretrained.

  On `rooms` there is no ImageNet-21k model; the shipped recipe starts the image
  encoder as f, and "pretrained" means that there.
  """
  part = "encoder" if size == "full" else "base_model"
  return {f"model_init.{part}": ""}


def metric(size, full, rooms):
  """(stage I's, stage II's) name of a measure.

  Args:
    size: one of SIZES.
    full: with the prefix, at full size.
    rooms: without the prefix, on `rooms`.
  """
  if size == "full":
    return full, full
  return f"oracle_code/{rooms}", f"uvim/{rooms}"
