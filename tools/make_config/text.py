"""The text of the two files of a pair.

What is the same for all data sets stands in templates/. A comment says what was
measured and led to the choice below it.
"""

import json
import pathlib
import string
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tools.make_config import plan as plan_lib
from tools.make_config import recipe, survey
from tools.make_config.cost import duration
from tools.make_config.plan import Plan, Schedule
from uvim.registry import one_line

_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_WIDTH = 80

TITLES = {
    survey.PANOPTIC: "panoptic segmentation",
    survey.SEMANTIC: "semantic segmentation",
    survey.DEPTH: "depth",
    survey.COLORIZATION: "colorization",
}


def stage_i(plan: Plan, partner: str) -> str:
  """The config of stage I.

  Args:
    plan: what it says.
    partner: name of the file of stage II.
  """
  splits = plan.facts.splits
  return _fill("stage_i", {
      **_schedule_values(plan, plan.stage_i),
      "dataset": plan.facts.dataset,
      "title": TITLES[plan.task],
      "task": plan.task,
      "partner": partner,
      "about_data": comment(describe_data(plan)),
      "data_dir": _quoted(plan.facts.data_dir),
      "train_split": splits.train,
      "val_split": splits.held_out,
      "about_size": comment(describe_size(plan)),
      "label_size": plan.label_size,
      "patch": plan.patch,
      "grid": plan.grid,
      "encoder_patches": recipe.ENCODER_PATCHES_PER_SIDE,
      "encoder_size": plan.encoder_size,
      "constants": "\n".join(_constants(plan)),
      "pp_strings": _pp_strings(plan),
      "model": _fields(recipe.STAGE_I),
  })


def stage_ii(plan: Plan, partner: str, package: str, module: str) -> str:
  """The config of stage II.

  Args:
    plan: what it says.
    partner: name of the file of stage I.
    package: of that file, as in `from PACKAGE import MODULE`.
    module: its name without the ending.
  """
  return _fill("stage_ii", {
      **_schedule_values(plan, plan.stage_ii),
      "dataset": plan.facts.dataset,
      "partner": partner,
      "package": package,
      "module": module,
      "model": _fields(recipe.STAGE_II),
  })


def _fill(name: str, values: Mapping[str, Any]) -> str:
  template = (_TEMPLATES / f"{name}.txt").read_text()
  return string.Template(template).substitute(values)


def comment(text: str, indent: int = 0) -> str:
  """The text as a comment of as many lines as it takes."""
  start = " " * indent + "# "
  return textwrap.fill(text, _WIDTH, initial_indent=start,
                       subsequent_indent=start)


def _quoted(text: str | None) -> str:
  """A Python literal in double quotes, as in the lines around it."""
  if text is None:
    return "None"
  # A text of JSON is one of Python.
  return json.dumps(text, ensure_ascii=False)


def _fields(fields: Mapping[str, Any]) -> str:
  """Fields as the middle lines of a call of `dict`."""
  parts = ", ".join(f"{name}={value}" for name, value in fields.items())
  return textwrap.fill(f"{parts},", _WIDTH, initial_indent=" " * 6,
                       subsequent_indent=" " * 6)


# ── What was measured, in sentences ─────────────────────────────────────────


def describe_data(plan: Plan) -> str:
  """The number of images, and how they were split."""
  facts = plan.facts
  splits = facts.splits
  text = f"{splits.num_train:,} images to train on, {splits.num_held_out:,} "
  if splits.is_cut:
    text += ("that are held out of them, since there is no split 'validation'. "
             "Frames of one video do not belong on both sides.")
  else:
    text += "to score."
  if facts.num_seen < splits.num_train:
    text += f" What is said below was seen in {facts.num_seen:,} of them."
  return text


def describe_size(plan: Plan) -> str:
  """The size of the images, and of what is in them."""
  sizes_M2 = plan.facts.sizes_M2
  height, width = np.median(sizes_M2, axis=0).astype(int).tolist()
  text = f"The images have {height} × {width} pixels (height × width)."
  if len(np.unique(sizes_M2, axis=0)) > 1:
    text = f"The images have about {height} × {width} pixels."
  rows, columns = plan.grid
  text += f" So labels have {rows} × {columns} patches."
  if plan.small_things:
    percent = _percent(plan.small_things)
    text += f" {percent} of the things are smaller than one of them."
  return text


def _percent(share: float) -> str:
  percent = 100 * share
  # Two digits, but no 1e+02.
  return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def describe_steps(plan: Plan, schedule: Schedule) -> str:
  """The length of a stage, and what decided it."""
  epochs = f"{schedule.epochs:,.0f}" if schedule.epochs >= 2 else (
      f"{schedule.epochs:.1f}")
  text = (f"Each of {plan.facts.splits.num_train:,} images {epochs} times, in "
          f"{duration(schedule.minutes)}.")
  if schedule.is_capped:
    text += " More would be learned by heart."
  return text


def _schedule_values(plan: Plan, schedule: Schedule) -> dict[str, Any]:
  return {
      "machine": plan.machine.name,
      "minutes": duration(schedule.minutes),
      "batch_size": schedule.batch_size,
      "about_steps": comment(describe_steps(plan, schedule), 2),
      "total_steps": schedule.total_steps,
      "log_steps": schedule.log_steps,
      "eval_steps": schedule.eval_steps,
      "checkpoint_steps": schedule.checkpoint_steps,
      "lr": recipe.LEARNING_RATE,
      "warmup_steps": schedule.warmup_steps,
  }


# ── What differs between tasks ──────────────────────────────────────────────


def _constants(plan: Plan) -> list[str]:
  """The lines that name classes, options and evaluator."""
  return _CONSTANTS[plan.task](plan)


def _semantic_constants(plan: Plan) -> list[str]:
  segments = plan.facts.segments
  count = len(segments.categories)
  # A name may hold anything, and here it becomes part of a program.
  things = [one_line(category.name) for category in segments.categories
            if category.isthing]
  about = f"{count} categories and void ({_void(segments)})."
  if things:
    about += (" No two things of a class touch, so each connected region of "
              f"{_listed(things)} is one.")
  else:
    about += " None is a thing, so each class is one segment."
  return [
      comment(about),
      f'CLASSES = {{"semantics": {count} + 1}}',
      f"TASK_OPTIONS = dict(things={plan.task_options['things']})",
      'EVALUATOR = "coco_panoptic"',
      comment(_about_fraction(segments)),
      *_score(plan, f"pred_kw=dict(min_fraction={_fraction(plan)})"),
  ]


def _panoptic_constants(plan: Plan) -> list[str]:
  segments = plan.facts.segments
  count = len(segments.categories)
  most = int(segments.counts_M.max())
  about = (f"{count} categories and void ({_void(segments)}). No image has "
           f"more than {most} segments, which are numbered from 1; "
           f"{recipe.SPARE_INSTANCES} more are to spare.")
  kept = (f'pred_kw=dict(min_fraction={_fraction(plan)}, '
          'instance_label="pixel")')
  parts = [kept]
  sentences = [
      _about_fraction(segments),
      "On few images instances are often wrong; then each pixel keeps its own "
      "class."]
  if segments.is_stuff_merged:
    sentences.append("A class of stuff is one segment in the data, and so it "
                     "is here.")
    parts.append("options=dict(merge_stuff=True)")
  return [
      comment(about),
      f'CLASSES = {{"semantics": {count} + 1, '
      f'"instances": {plan.classes["instances"]}}}',
      "TASK_OPTIONS = {}",
      'EVALUATOR = "coco_panoptic"',
      comment(" ".join(sentences)),
      *_score(plan, *parts),
  ]


def _depth_constants(plan: Plan) -> list[str]:
  depths = plan.facts.depths
  farthest = plan.task_options["max_depth"]
  bins = recipe.DEPTH_BINS
  about = (f"Depths lie in {depths.nearest:.3g} to {depths.farthest:.3g} "
           f"metres; {_percent(depths.valid_share)} of the pixels have one. "
           f"Each of {bins} bins is {farthest / bins:.2g} metres deep.")
  return [
      comment(about),
      f'CLASSES = {{"depth": {bins}}}',
      f"TASK_OPTIONS = dict(min_depth={plan.task_options['min_depth']}, "
      f"max_depth={farthest})",
      'EVALUATOR = "nyu_depth"',
      comment("The usual crop is for frames of NYU."),
      *_score(plan, 'options=dict(crop="none", **TASK_OPTIONS)'),
  ]


def _color_constants(plan: Plan) -> list[str]:
  return [
      comment("Red, green and blue."),
      'CLASSES = {"color": 3}',
      "TASK_OPTIONS = {}",
      'EVALUATOR = "psnr"',
      comment("The colors of an image are its labels."),
      "COLORS = ('copy(\"image\", \"labels\")|'",
      "          f'resize({LABEL_SIZE}, key=\"labels\", antialias=True)|'",
      "          'value_range(-1, 1, key=\"labels\")|')",
      *_score(plan,
              'options=dict(pp_truth=f\'decode|{COLORS}keep("labels")\')'),
  ]


_CONSTANTS: dict[str, Callable[[Plan], list[str]]] = {
    survey.SEMANTIC: _semantic_constants,
    survey.PANOPTIC: _panoptic_constants,
    survey.DEPTH: _depth_constants,
    survey.COLORIZATION: _color_constants,
}


def _score(plan: Plan, *parts: str) -> list[str]:
  """The lines of what every evaluator's block has."""
  splits = plan.facts.splits
  split = 'DATA["val_split"]'
  if splits.num_held_out > recipe.MAX_SCORED and not splits.is_cut:
    # A part of a part has no name.
    split = f'"{splits.held_out}[:{recipe.MAX_SCORED}]"'
  lines = [f"    split={split},"]
  for part in parts:
    lines.append(f"    {part},")
  lines[-1] = lines[-1].removesuffix(",") + ")"
  return ["SCORE = dict(", *lines]


def _fraction(plan: Plan) -> float:
  return plan_lib.min_fraction(plan.facts.segments)


def _void(segments: survey.Segments) -> str:
  return f"{_percent(segments.void_share)} of the pixels"


def _about_fraction(segments: survey.Segments) -> str:
  text = "Smaller segments are more often wrong than right."
  if not len(segments.thing_shares_S):
    return text
  fraction = plan_lib.min_fraction(segments)
  larger = np.mean(segments.thing_shares_S > fraction)
  if larger == 1:
    return f"{text} All things are larger."
  return f"{text} {_percent(larger)} of the things are larger."


def _listed(names: list[str], most: int = 4) -> str:
  """'car, bus and 3 more'."""
  if len(names) > most:
    names = [*names[:most - 1], f"{len(names) - most + 1} more"]
  if len(names) == 1:
    return names[0]
  return f"{', '.join(names[:-1])} and {names[-1]}"


def _pp_strings(plan: Plan) -> str:
  rows, columns = plan.grid
  # Crops are a fifth wider or narrower than the images.
  low = round(0.83 * columns / rows, 2)
  high = round(1.2 * columns / rows, 2)
  values = {
      "crop_area": recipe.CROP_AREA,
      "crop_percent": round(100 * recipe.CROP_AREA),
      "crop_aspect": (low, high),
      "crop_low": low,
      "crop_high": high,
      "channels": '"semantics"',
      "canonical": "",
  }
  if plan.task == survey.PANOPTIC:
    values["channels"] = '"semantics","instances"'
    # Instances are numbered anew in what the crop has left.
    values["canonical"] = "make_canonical|"
  return _fill(_PP_FILES[plan.task], values).rstrip()


_PP_FILES = {
    survey.SEMANTIC: "pp_segments",
    survey.PANOPTIC: "pp_segments",
    survey.DEPTH: "pp_depth",
    survey.COLORIZATION: "pp_color",
}
