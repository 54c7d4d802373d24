"""Writes docs/configs.md from the descriptions of the fields.

  python -m tools.config_docs [--out FILE]

The tables come from the code: name, meaning, default and source of a field
stand where the field is declared (`uvim.fields.field`). Options of plain
functions have a name and a default there, but no meaning. Their meanings stand
in this file, and so does the text around the tables.
"""

import argparse
import pathlib
import string
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from uvim.cli import app
from uvim.fields import REQUIRED, Field, fields_of, options_of
from uvim.registry import ConfigError

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "configs.md"

# Names after a dollar sign are filled in by `page`; two dollar signs are one.
TEMPLATE = """\
# Config fields

<!-- Written by `python -m tools.config_docs`. Change the descriptions in the
code or the template in that file, not this page. -->

A config file returns an `ml_collections.ConfigDict`. `uvim.config.resolve`
makes a frozen `TrainConfig` of it, after the overrides of the command line. An
unknown or missing key is an error that names its path and the nearest known
name. The run writes the result to `WORKDIR/config.json`.

`python -m tools.show_config configs/NAME.py` prints all fields of a config,
and where each value comes from.

*Source*: **L1**, **L2** = Listing 1 (stage I) and Listing 2 (stage II) of the
paper's Appendix D, with the value printed there; **ours** = not in the
listings. *Default* is what holds when a config does not name the field; "–"
means that it must be named.

## Top level (`TrainConfig`)

### Task and data

$task_and_data

### Length and periods

All periods are in steps. Everything periodic also happens at the last step.

$length

### Model

$model

### Optimizer

One update is `p − s(t) · (lr · lr_mult · u + wd · p)`, where `u` is the scaled
(clipped) gradient and `s` the schedule. Weight decay follows the schedule but
neither `lr` nor `lr_mults`, and it applies to parameters called `kernel` only.

$optimizer

### Evaluators

$evaluators

### Devices

$devices

### Mishaps

$mishaps

### Codes of stage II

$codes

## Task options

`task_options` of the tasks that have any:

$task_options

With `ignore_first_bin = True` the task treats holes as the released code does.

## Starting parameters

`model_init` is one of:

* None or `""`: start from scratch.
* A path, address or name, for all parameters: a `.npz` in the published layout,
  the workdir of a run, `gs://…`, `https://…` or a name from the list below.
* A dict `{part: path}`:
  * `{"encoder": …}`: only this part. From a pretrained image encoder stage II
    takes its patch and position embeddings too. That is a name from the list, a
    `.safetensors` or `.npz`, `hf:OWNER/NAME[@REVISION][/FILE]` or the workdir
    of a run of kind `mae`. Its family must be `model.encoder_style`.
  * `{"base_model": …}`: stage II's encoder starts as the base model f of a
    stage I checkpoint.
  * `{"image_encoder": …}`: the pretrained network of that block, from the same
    places. Its family must be `model.image_encoder.family`.
  * `{"partial": …}`: whatever fits.

Names: `uvim-panoptic`, `uvim-depth` and `uvim-color` mean the weights of the
stage that asks; with `-stage1` or `-stage2` they mean those of that stage. A
name is fetched once, to `$$XDG_CACHE_HOME/uvim`. Pretrained image encoders are
called by family and size (`howto-i21k-…` is of the family `augreg`):

$vits

## Schedule options

`decay_type` chooses the shape; a schedule without it is $default_decay. The
shapes and their own options, with their defaults:

$decays

A `stair` without `steps` and `mults` is constant. `end` takes priority over
`linear_end`, which is the name in the released configs. All shapes have two
more options. Both periods must be shorter than the run.

$periods

## Optimizer options

`optax` has the options of what `optax_name` names:

$scalers

## An evaluator's block (`EvalConfig`)

`config.evals = [("panoptic_val", "coco_panoptic")]` goes with
`config.panoptic_val = dict(split=…, pp=…)`.

$eval_block

`val_split` together with `pp_eval` adds an evaluator `val` of type `mean` with
`pred = "loss"`, unless `evals` has one of that name.

### Predictions

$predictions

Where the oracle writes the code (stage I's `predict`, stage II's `oracle`,
`loss`) `pp` must keep `labels`. The others need the image only.

$pred_options

### Evaluators and their options

Each type also has the name that the released configs use, such as
`proj.uvim.coco_panoptic`; that of `mean` is `proj.uvim.compute_mean`.

$evaluator_options

* `coco_panoptic` gives PQ, SQ and RQ.
* `coltran_fid` gives `FID_5k` with both lists of 5000 names, else `FID`.
* `mean` averages per-example numbers.
* `normals` gives the mean and median angle in degrees and the shares of pixels
  below 11.25°, 22.5° and 30°.
* `nyu_depth` gives RMSE (mean over images), RMSE_pooled, abs_RE, log10,
  delta1–3 and num_skipped.
* `psnr` gives the peak signal-to-noise ratio of colors.
* `save_predictions` writes one `ID.npz` per example.

## Oracle (`OracleConfig`)

$oracle

## Stage I model

These are the fields of `config.model` with `model_name` = `vit`, and of
`config.oracle.model`.

$stage_i

## Stage II model

These are the fields of `config.model` with `model_name` = `lm`.

$stage_ii

## Image encoder

These are the fields of `config.model.image_encoder` of both stages. The image
then has the encoder's `input_size`; labels keep that of the model. Its weights
come from `model_init = {"image_encoder": …}`.

$image_encoder

## MAE model

These are the fields of `config.model` with `model_name` = `mae`, which learns
an image encoder from images alone. Its `predict` fills in the masked patches,
and its `loss` is the mean squared error over them. What is masked in an image
follows from its id and the option `seed`.

$mae

## What may change between a run and its resumption

$resume_free

`evals` includes the evaluators' blocks. `model_init` and `oracle.model_init`
may name another path with the same arrays. Anything else is refused, with a
list of differences.
"""

# The first field of each section of the top level, in the order of TrainConfig.
SECTION_OF_FIRST = {
    "kind": "task_and_data", "num_epochs": "length", "model_name": "model",
    "optax_name": "optimizer", "evals": "evaluators", "mesh": "devices",
    "skip_bad_steps": "mishaps", "codes_per_image": "codes"}

# Option → meaning, for the options of functions.
EVALUATOR_OPTIONS = {
    "coco_panoptic": {
        "merge_stuff": "True joins all predicted segments of one stuff class.",
        "save_dir": "Where to write the predictions in COCO's format and the "
                    "results per class.",
        "official": "True: panopticapi scores the files too."},
    "coltran_fid": {
        "reference_split": "The split with the reference images. Required.",
        "features": "A frozen graph `.pb`, a SavedModel folder or `quadrants` "
                    "(mean colors of quarters). Required.",
        "eval_files": "List of the names to score; with `reference_files` or "
                      "not at all.",
        "reference_files": "List of the names of the references.",
        "num_files": "How many names each list must have.",
        "pixel_scale": "A byte is (color + 1) · `pixel_scale`; 128 as "
                       "released.",
        "input_tensor": "Input of a frozen graph.",
        "output_tensor": "Output of a frozen graph."},
    "mean": {},
    "normals": {"pp_truth": "Preprocessing that makes the true `labels`."},
    "nyu_depth": {
        "crop": "`eigen` scores the part of a frame that Eigen et al. do, "
                "`none` all of it.",
        "crop_top": "First row of that part; 54 as released.",
        "min_depth": "Metres; a valid depth exceeds it.",
        "max_depth": "Metres; a valid depth lies below it."},
    "psnr": {
        "pp_truth": "Preprocessing that makes the true `labels`. Required."},
    "save_predictions": {"save_dir": "Where to write. Required."},
}
# Arguments that only a caller from Python can give.
PYTHON_OPTIONS = ("extractor", "open_split")
SCHEDULE_OPTIONS = {
    "warmup_steps": "Steps of the linear rise from 0 at the start.",
    "cooldown_steps": "Steps of the linear fall to 0 at the end."}
# What `pred` names, for each stage.
PREDICTIONS = (
    ("`predict`", "base model with the oracle's code",
     "UViM: base model with the language model's code"),
    ("`oracle`", "–", "base model with the oracle's code"),
    ("`zero_code`", "base model with every code vector zero",
     "base model with every code vector zero"),
    ("`loss`", "task loss with the oracle's code (for `mean`)",
     "nats and bits per codeword of the oracle's code (for `mean`)"))
OUTPUT_OPTIONS = {
    "min_fraction": "Instances of at most this share of the pixels become "
                    "void.",
    "instance_label": "Class of an instance: `logit_sum` or `majority` of its "
                      "pixels."}
CODE_OPTIONS = {
    "mask": "Masks words of the code (Fig 10): `zeros`, `random` or the index "
            "of one word.",
    "mask_region": "With `mask`: (top, left, bottom, right) on the square grid "
                   "of words. None masks all.",
    "seed": "With the image's id, the seed of its sample, and of `random` "
            "words."}


def page() -> str:
  """The text of docs/configs.md.

  Raises:
    ConfigError: an option whose meaning this file lacks.
  """
  from uvim.config import EvalConfig, OracleConfig
  from uvim.encoders.image_encoder import ImageEncoder
  from uvim.models import known_fields
  from uvim.store import published
  tables = _top_level_tables()
  tables["eval_block"] = field_table(
      fields_of(EvalConfig).values(), defaults=_eval_defaults())
  tables["oracle"] = field_table(
      fields_of(OracleConfig).values(), prefix="oracle.")
  tables["stage_i"] = field_table(
      known_fields("vit", {}, "config.model").values(), prefix="model.")
  tables["stage_ii"] = field_table(
      known_fields("lm", {}, "config.model").values(), prefix="model.")
  tables["mae"] = field_table(
      known_fields("mae", {}, "config.model").values(), prefix="model.")
  tables["image_encoder"] = field_table(
      fields_of(ImageEncoder).values(), prefix="model.image_encoder.")
  tables["task_options"] = _task_table()
  tables["predictions"] = _table(("`pred`", "stage I", "stage II"), PREDICTIONS)
  tables["pred_options"] = _prediction_table()
  tables["evaluator_options"] = _evaluator_table()
  tables["vits"] = _paragraph(published.VITS)
  tables |= _optimizer_tables()
  tables["resume_free"] = _resume_free()
  return string.Template(TEMPLATE).substitute(tables)


# ── Tables of fields ────────────────────────────────────────────────────────


def field_table(fields: Iterable[Field], prefix: str = "",
                defaults: Mapping[str, str] | None = None) -> str:
  """A Markdown table of fields.

  Args:
    fields: one for each row.
    prefix: put before every name.
    defaults: name → what the column says instead of the field's own default.
  """
  rows = []
  for field in fields:
    default = _shown(field.default)
    if defaults and field.name in defaults:
      default = defaults[field.name]
    rows.append((f"`{prefix}{field.name}`", field.doc, default, field.source))
  return _table(("field", "meaning", "default", "source"), rows)


def _top_level_tables() -> dict[str, str]:
  """The tables of TrainConfig by section."""
  from uvim.config import TrainConfig
  section = ""
  fields_of_section = {}
  for field in fields_of(TrainConfig).values():
    # A field belongs to the section that began last.
    section = SECTION_OF_FIRST.get(field.name, section)
    fields_of_section.setdefault(section, []).append(field)
  return {section: field_table(fields)
          for section, fields in fields_of_section.items()}


def _eval_defaults() -> dict[str, str]:
  """What an evaluator's block has where it does not name a field."""
  from uvim.config import FROM_TOP
  defaults = {"prefix": "the name and `/`"}
  for name, name_at_top in FROM_TOP.items():
    defaults[name] = f"the top level's `{name_at_top}`"
  return defaults


def _resume_free() -> str:
  """The fields that a resumed run may have changed."""
  from uvim.config import RESUME_FREE, TrainConfig
  return _paragraph(name for name in fields_of(TrainConfig)
                 if name in RESUME_FREE)


# ── Tables of options ───────────────────────────────────────────────────────


def _task_table() -> str:
  """The fields that only one task has."""
  from uvim import tasks
  rows = []
  for name in _own_names(tasks.TASKS, tasks.task_class):
    for option in tasks.task_options(tasks.task_class(name)).values():
      rows.append((f"`{name}`", f"`{option.name}`", option.doc,
                   _shown(option.default)))
  return _table(("task", "option", "meaning", "default"), rows)


def _prediction_table() -> str:
  """The options in `pred_kw`."""
  from trainers.families.vqvae import VqvaeFamily
  from uvim.priors import PRIORS
  from uvim.tasks.panoptic import PanopticTask
  rows = _option_rows("panoptic output", options_of(PanopticTask.outputs),
                      OUTPUT_OPTIONS)
  rows += _option_rows("`predict`, `oracle`", options_of(VqvaeFamily.predict),
                       CODE_OPTIONS)
  for style, prior in PRIORS.items():
    owner = f"stage II `predict`, `style` = `{style}`"
    meanings = {name: option.doc for name, option in prior.options.items()}
    rows += _option_rows(owner, prior.options, meanings)
  return _table(("for", "`pred_kw`", "meaning", "default"), rows)


def _evaluator_table() -> str:
  """The options of the evaluators."""
  import evaluators
  rows = []
  for name in _own_names(evaluators.EVALUATORS, evaluators.evaluator_class):
    options = options_of(evaluators.evaluator_class(name))
    # A config file cannot hold a function.
    for only_from_python in PYTHON_OPTIONS:
      options.pop(only_from_python, None)
    if name not in EVALUATOR_OPTIONS:
      raise ConfigError(f"EVALUATOR_OPTIONS in {__file__} lacks {name!r}.")
    rows += _option_rows(f"`{name}`", options, EVALUATOR_OPTIONS[name])
  return _table(("evaluator", "option", "meaning", "default"), rows)


def _optimizer_tables() -> dict[str, str]:
  """The tables of schedules and optimizers, by their name in TEMPLATE."""
  from uvim.learn import optim, schedules
  decays = []
  for name, make_decay in schedules.DECAYS.items():
    decays.append((f"`{name}`", _inline(options_of(make_decay))))
  scalers = []
  for name in _own_names(optim.SCALERS, optim.SCALERS.get):
    scalers.append((f"`{name}`", _inline(options_of(optim.SCALERS[name]))))
  schedule = options_of(schedules.make_schedule)
  decay_type = schedule.pop("decay_type")
  # The owner is the same in all these rows, so its column is left out.
  periods = [row[1:] for row in _option_rows(
      "schedule", schedule, SCHEDULE_OPTIONS)]
  return {
      "decays": _table(("`decay_type`", "options"), decays),
      "scalers": _table(("`optax_name`", "options"), scalers),
      "default_decay": _shown(decay_type.default),
      "periods": _table(("option", "meaning", "default"), periods)}


def _option_rows(owner: str, options: Mapping[str, Field],
                 meanings: Mapping[str, str]) -> list[tuple[str, ...]]:
  """Rows (owner, name, meaning, default).

  Raises:
    ConfigError: an option without a meaning, or a meaning without an option.
  """
  # A new option cannot be forgotten here, and an old text cannot stay.
  if set(options) != set(meanings):
    raise ConfigError(f"{__file__} describes the options {sorted(meanings)} of "
                      f"{owner}; the code has {sorted(options)}.")
  rows = []
  for name, option in options.items():
    rows.append((owner, f"`{name}`", meanings[name], _shown(option.default)))
  return rows


def _own_names(names: Iterable[str],
               entry_of: Callable[[str], Any]) -> list[str]:
  """The first name of each entry. Later ones are those of released configs."""
  entries = []
  own_names = []
  for name in names:
    entry = entry_of(name)
    # One entry may have several names; its own is registered first.
    if entry not in entries:
      entries.append(entry)
      own_names.append(name)
  return own_names


# ── Markdown ────────────────────────────────────────────────────────────────


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  head = tuple(head)
  lines = [_row(head), "|" + "---|" * len(head)]
  for cells in rows:
    lines.append(_row(cells))
  return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
  # A pipe would end the cell.
  escaped = [cell.replace("|", "\\|") for cell in cells]
  return f"| {' | '.join(escaped)} |"


def _shown(default: Any) -> str:
  """A default as the column shows it."""
  if default is REQUIRED:
    return "–"
  # Numbers stand bare. Text stands in backticks, as in code.
  if default is None or isinstance(default, (bool, int, float)):
    return str(default)
  if default == "":
    return '`""`'
  if isinstance(default, str):
    return f"`{default}`"
  return f"`{default!r}`"


def _inline(options: Mapping[str, Field]) -> str:
  """Options with their defaults on one line."""
  if not options:
    return "none"
  return ", ".join(f"`{name}` = {_shown(option.default)}"
                   for name, option in options.items())


def _paragraph(names: Iterable[str]) -> str:
  """Names in lines of a page."""
  text = ", ".join(f"`{name}`" for name in names)
  return textwrap.fill(text + ".", width=80, break_long_words=False,
                       break_on_hyphens=False)


def main(argv=None) -> int:
  parser = app.make_parser("tools.config_docs", __doc__)
  parser.add_argument("--out", type=pathlib.Path, default=PAGE,
                      help="file to write (default: docs/configs.md)")
  return app.run(parser, command, argv)


def command(args: argparse.Namespace) -> None:
  """Writes the page and prints where it is."""
  from uvim import files
  files.write_text(args.out, page())
  print(args.out)


if __name__ == "__main__":
  sys.exit(main())
