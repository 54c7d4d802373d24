"""What a sweep is made of, and what all sweeps share.

A sweep is a file of this folder with a function `get_sweep(size)`, which
returns a `Sweep` for `python -m tools.sweep NAME`. It holds data only: what is
run and judged is in tools/sweeps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

SIZES = ("full", "rooms", "tiny")

# Names of config fields and their values, as in {"model.code_len": 16}.
Overrides = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the two trainings of the default cell.

  Attributes:
    config: a config file, with its argument.
    overrides: what the size of the sweep changes in it.
    cost: how long it takes, in `Recipe.unit`.
  """
  config: str
  overrides: Overrides
  cost: float


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The shipped configs that a sweep varies: a pair, or one.

  Attributes:
    stage1: oracle and base model, or a model that is trained at once.
    stage2: the language model; None: there is one training.
    unit: of the costs.
  """
  stage1: Stage
  stage2: Stage | None
  unit: str


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of the table: the recipe with something changed.

  Attributes:
    title: of its column.
    stage1: overrides of stage I. What changes `model.…` is set in stage II's
      `oracle.model.…` as well.
    stage2: further overrides of stage II; None: the cell has no stage II.
    cost: (stage I, stage II) as multiples of the default cell's.
    argument: a further argument of both config files; "": none.
    sampling: options with which the measure 'sampling' draws codes.
    recipe: what the cell varies in place of the sweep's recipe; None: that.
    evaluator: on whose images the cell is measured; "": the sweep's.
  """
  title: str
  stage1: Overrides = dataclasses.field(default_factory=dict)
  stage2: Overrides | None = dataclasses.field(default_factory=dict)
  cost: tuple[float, float] = (1, 1)
  argument: str = ""
  sampling: Overrides = dataclasses.field(default_factory=dict)
  recipe: Recipe | None = None
  evaluator: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
  """A row of the table: one figure of each cell.

  Attributes:
    title: of the row.
    stage: the run that has the figure: 1, 2, or the measure of the sweep.
      'training' stands for all trainings of a cell; its one metric is
      'minutes'.
    metric: its name in that run's metrics.jsonl. Single batches differ, so of
      a 'train/…' the mean over the last tenth of the run is taken. '{cell}' in
      it stands for the name of the cell.
    published: cell → the published figure; a string is a figure of another
      kind.
    scale: factor on our figure.
    is_comparable: whether the published figures are of the same measure.
  """
  title: str
  stage: int | str
  metric: str
  published: Mapping[str, float | str] = dataclasses.field(
      default_factory=dict)
  scale: float = 1
  is_comparable: bool = True


@dataclasses.dataclass(frozen=True)
class Entry:
  """A place in the table."""
  score: str
  cell: str


@dataclasses.dataclass(frozen=True)
class Comparison:
  """An effect: an inequality between two entries of the table.

  Attributes:
    effect: what it says, in words.
    left: an entry.
    sign: '<', '>' or '~' (within 5 %).
    right: the entry it is compared with.
    published: what was published of it.
  """
  effect: str
  left: Entry
  sign: str
  right: Entry
  published: str


@dataclasses.dataclass(frozen=True)
class Trend:
  """An effect: how a score changes over the sweep's grid.

  Attributes:
    effect: what it says, in words.
    score: which score.
    shape: 'rises' – along rows and columns the score never falls by more than
      the spread over seeds, and it ends higher than it begins;
      'peaks inside rows' – neither the first nor the last row has the best
      mean; 'peaks inside columns' – likewise for columns.
    published: what was published of it.
  """
  effect: str
  score: str
  shape: str
  published: str


@dataclasses.dataclass(frozen=True)
class Decision:
  """What decides about a sign, written down before anything is run.

  Attributes:
    sign: the published effect that did not hold.
    guess: why it did not, as the pages of docs/results suppose.
    confirmed_if: what must be found for the guess to stand.
    refuted_if: what must be found for it to fall. Anything else decides
      nothing.
  """
  sign: str
  guess: str
  confirmed_if: str
  refuted_if: str


@dataclasses.dataclass(frozen=True)
class TradeOff:
  """A plot of one score over another: a point for each cell.

  Attributes:
    cost: the score along the x axis, of which less is better.
    quality: the score along the y axis.
  """
  cost: str
  quality: str


@dataclasses.dataclass(frozen=True)
class Grid:
  """How the cells, row by row, form a grid.

  Attributes:
    rows: titles of the rows.
    columns: titles of the columns.
    down: what the rows vary.
    across: what the columns vary.
  """
  rows: Sequence[Any]
  columns: Sequence[Any]
  down: str = ""
  across: str = ""


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A table or figure of a paper, to be set up anew.

  Attributes:
    title: what it is, and where it was published.
    recipe: what its cells vary.
    cells: by name, in the order of the table.
    scores: by name.
    comparisons: effects between two entries.
    trends: effects over the grid.
    grid: None: the cells form no grid.
    curves: metric → title; drawn over the steps of stage I for each cell.
      'age' is made of the splits: see tools/sweeps/plot.py.
    evaluator: of the last training, on whose images something is measured. "":
      nothing is measured besides.
    measure: what: 'masking' (tools.sweeps.masking: the codes are masked) or
      'sampling' (tools.sweeps.sampling: score and time of a cell's options).
    decisions: what the sweep decides, and how.
    trade_off: two scores that are drawn against each other.
  """
  title: str
  recipe: Recipe
  cells: Mapping[str, Cell]
  scores: Mapping[str, Score]
  comparisons: Sequence[Comparison] = ()
  trends: Sequence[Trend] = ()
  grid: Grid | None = None
  curves: Mapping[str, str] = dataclasses.field(default_factory=dict)
  evaluator: str = ""
  measure: str = "masking"
  decisions: Sequence[Decision] = ()
  trade_off: TradeOff | None = None


# ── What all sweeps share ───────────────────────────────────────────────────

# What a size changes in the configs of stage I and stage II.
# `full`: nothing, the shipped configs as they are.
# `rooms`: stage I has two fifths of the shipped recipe's steps, stage II has
# all of them. The cosine ends with the steps, so this is a shorter recipe and
# not one that is broken off. With 2400 + 1200 steps UViM was worse than no code
# at all: the language model has most to learn.
# `tiny`: nothing; the configs take seconds, to try the commands.
ROOMS_STEPS = (4000, 2400)

# Of the default cell: (stage I, stage II, unit), with start, compilation and
# scoring. rooms: measured. full: the paper's hours for panoptic segmentation;
# other tasks by their steps.
COSTS = {
    "full": (1900, 900, "TPU-v3 hours"),
    "rooms": (5, 8, "minutes (a core for each job)"),
    "tiny": (0.3, 0.3, "minutes (a core for each job)"),
}
FULL_STEPS = {"panoptic": (111_515, 44_606), "depth": (9_294, 4_647),
              "colorization": (124_714, 124_714)}
# Of a scene of `rooms/hard` beside one of `rooms`: it has 64 patches, not 36.
HARD_COST = 64 / 36
# Of the shipped recipe of `rooms` beside the shorter one, as `encoders` has it.
SHIPPED_COST = 2
# Of Pix2Seq-D, which has one training: (cost, unit). How long the paper's took
# is not known.
P2S_COSTS = {
    "full": (800, "epochs"),
    "rooms": (40, "minutes (a core for each job)"),
    "tiny": (0.5, "minutes (a core for each job)"),
}
P2S_ROOMS_STEPS = 6000
DATA = {"panoptic": "coco", "depth": "nyu", "colorization": "imagenet"}


def recipe_of(size, task, argument=""):
  """The recipe of a task.

  Args:
    size: one of SIZES.
    task: 'panoptic', 'depth' or 'colorization'.
    argument: a further argument of both config files.
  """
  cost1, cost2, unit = COSTS[size]
  if size == "full":
    steps1, steps2 = FULL_STEPS[task]
    panoptic_steps1, panoptic_steps2 = FULL_STEPS["panoptic"]
    cost1 = cost1 * steps1 / panoptic_steps1
    cost2 = cost2 * steps2 / panoptic_steps2
  overrides1 = {}
  overrides2 = {}
  if size == "rooms":
    overrides1 = rooms_overrides(ROOMS_STEPS[0])
    overrides2 = rooms_overrides(ROOMS_STEPS[1])
  return Recipe(
      Stage(config_of("vqvae", size, task, argument), overrides1, cost1),
      Stage(config_of("lm", size, task, argument), overrides2, cost2),
      unit)


def rooms_recipe(size, task, argument, cost=1):
  """The recipe of `rooms` at any size: `full` has all of its steps.

  Args:
    size: one of SIZES.
    task: 'panoptic' or 'depth'.
    argument: a further argument of both config files.
    cost: of both trainings, as a multiple of that of `rooms`.
  """
  # There is no such recipe of COCO or NYU.
  shorter = "tiny" if size == "tiny" else "rooms"
  plain = recipe_of(shorter, task, argument)
  if size == "full":
    cost = cost * SHIPPED_COST
  stages = []
  for stage in (plain.stage1, plain.stage2):
    overrides = {} if size == "full" else stage.overrides
    stages.append(Stage(stage.config, overrides, stage.cost * cost))
  return Recipe(stages[0], stages[1], plain.unit)


def pix2seq_d(size):
  """The recipe of Pix2Seq-D for panoptic segmentation."""
  cost, unit = P2S_COSTS[size]
  overrides = {}
  if size == "rooms":
    overrides = rooms_overrides(P2S_ROOMS_STEPS)
  config = config_of("pix2seq_d", size, "panoptic", "")
  return Recipe(Stage(config, overrides, cost), None, unit)


def pix2seq_d_cell(title, changes=None, sampling=None):
  """A cell of that recipe.

  Args:
    title: of its column.
    changes: overrides of the config.
    sampling: see `Cell`.
  """
  return Cell(title, stage1=changes or {}, stage2=None, cost=(1, 0),
              sampling=sampling or {})


def pix2seq_d_score(size, title, name, published=None):
  """The score of masks on unseen images.

  Args:
    size: one of SIZES.
    title: of the row.
    name: of the figure, such as 'PQ'.
    published: cell → the published figure.
  """
  prefixes = {"full": "coco_panoptic_holdout", "rooms": "steps_20",
              "tiny": "steps_2"}
  return Score(title, 1, f"{prefixes[size]}/{name}", published or {})


def config_of(trainer, size, task, argument):
  """'configs/FILE.py[:argument]'."""
  data = DATA[task] if size == "full" else "rooms"
  arguments = []
  if size == "tiny":
    arguments.append("tiny")
  if argument:
    arguments.append(argument)
  path = f"configs/{trainer}_{data}_{task}.py"
  if arguments:
    path += ":" + ",".join(arguments)
  return path


def rooms_overrides(steps):
  """A run of so many steps, scored at its end."""
  return {"total_steps": steps, "checkpoint_steps": 800,
          "log_eval_steps": steps, "log_training_steps": 20}


def from_scratch(size):
  """Overrides of stage II by which nothing is pretrained.

  On `rooms` there is no ImageNet-21k model. The shipped recipe starts the image
  encoder as f, and "pretrained" means that there.
  """
  part = "encoder" if size == "full" else "base_model"
  return {f"model_init.{part}": ""}


def no_oracle(title="no oracle"):
  """The base model alone, without a code."""
  return Cell(title, stage1={"model.oracle_depth": 0}, stage2=None,
              cost=(0.7, 0))


def compare_cells(effect, score, left, sign, right, published):
  """A comparison of two cells by one score; see `Comparison`."""
  return Comparison(
      effect, Entry(score, left), sign, Entry(score, right), published)


def metrics_of(size, full, rooms):
  """(stage I's, stage II's) name of a measure.

  Args:
    size: one of SIZES.
    full: with the prefix, at full size.
    rooms: without the prefix, on `rooms`.
  """
  if size == "full":
    return full, full
  return f"oracle_code/{rooms}", f"uvim/{rooms}"
