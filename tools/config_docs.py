"""Writes docs/configs.md from the descriptions of the fields.

  python -m tools.config_docs [--out FILE]

The tables come from the code: name, meaning, default and source of a field
stand where the field is declared (`uvim.fields.field`). Options of plain
functions have a name and a default there, but no meaning. Their meanings stand
in this file. The text around the tables is config_page.txt.
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

# The text around the tables. Names after a dollar sign are filled in by `page`;
# two dollar signs are one.
TEMPLATE = pathlib.Path(__file__).with_name("config_page.txt")

# The first field of each section of the top level, in the order of TrainConfig.
SECTION_OF_FIRST = {
    "kind": "task_and_data", "num_epochs": "length", "model_name": "model",
    "optax_name": "optimizer", "evals": "evaluators", "mesh": "devices",
    "skip_bad_steps": "mishaps", "codes_per_image": "codes"}

# Option → meaning, for the options of functions.
DEPTH_OPTIONS = {
    "crop": "`eigen` scores the part of a frame that Eigen et al. do, `none` "
            "all of it.",
    "crop_top": "First row of that part; 54 as released.",
    "min_depth": "Metres; a valid depth exceeds it.",
    "max_depth": "Metres; a valid depth lies below it."}
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
    "davis": {},
    "depth_samples": {
        **DEPTH_OPTIONS,
        "num_pairs": "Pairs of pixels of each image, for `CRPS_pairs` and "
                     "`ordering`.",
        "min_ratio": "`ordering` leaves out pairs whose true depths differ by "
                     "a smaller factor."},
    "mean": {},
    "normals": {"pp_truth": "Preprocessing that makes the true `labels`."},
    "nyu_depth": DEPTH_OPTIONS,
    "psnr": {
        "pp_truth": "Preprocessing that makes the true `labels`. Required."},
    "save_predictions": {"save_dir": "Where to write. Required."},
    "stq": {},
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
    ("`samples`", "`num_samples` answers for `depth_samples`, each pixel drawn "
     "by itself", "`num_samples` answers, one for each code that is drawn; no "
     "`reduce`"),
    ("`oracle`", "–", "base model with the oracle's code"),
    ("`zero_code`", "base model with every code vector zero",
     "base model with every code vector zero"),
    ("`loss`", "task loss with the oracle's code (for `mean`)",
     "nats and bits per codeword of the oracle's code (for `mean`); with "
     "`style` = `masked` nats per masked word, `masked_nll`; with `givt` nats "
     "per number"))
OUTPUT_OPTIONS = {
    "min_fraction": "Instances of at most this share of the pixels become "
                    "void.",
    "instance_label": "Class of an instance: `logit_sum` or `majority` of its "
                      "pixels; `pixel`: each pixel keeps its own class."}
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
  from uvim.codes import QUANTIZERS
  from uvim.config import EvalConfig, OracleConfig
  from uvim.encoders.image_encoder import ImageEncoder
  from uvim.models import known_fields
  from uvim.priors.masked import Masking
  from uvim.priors.mixtures import MixtureForm
  from uvim.store import published
  tables = _top_level_tables()
  tables["eval_block"] = field_table(
      fields_of(EvalConfig).values(), defaults=_eval_defaults())
  tables["oracle"] = field_table(
      fields_of(OracleConfig).values(), prefix="oracle.")
  tables["stage_i"] = field_table(
      known_fields("vit", {}, "config.model").values(), prefix="model.")
  for name, quantizer_cls in QUANTIZERS.items():
    tables[name] = field_table(
        fields_of(quantizer_cls).values(), prefix="model.")
  tables["stage_ii"] = field_table(
      known_fields("lm", {}, "config.model").values(), prefix="model.")
  tables["masking"] = field_table(
      fields_of(Masking).values(), prefix="model.")
  tables["mixtures"] = field_table(
      fields_of(MixtureForm).values(), prefix="model.")
  for name in ("mae", "dino", "pix2seq_d"):
    tables[name] = field_table(
        known_fields(name, {}, "config.model").values(), prefix="model.")
  tables["image_encoder"] = field_table(
      fields_of(ImageEncoder).values(), prefix="model.image_encoder.")
  tables["task_options"] = _task_table()
  tables["predictions"] = _table(("`pred`", "stage I", "stage II"), PREDICTIONS)
  tables["pred_options"] = _prediction_table()
  tables["evaluator_options"] = _evaluator_table()
  tables["vits"] = _paragraph(published.VITS)
  tables |= _optimizer_tables()
  tables["resume_free"] = _resume_free()
  return string.Template(TEMPLATE.read_text()).substitute(tables)


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
  from uvim.inference import readings
  from uvim.priors import PRIORS
  from uvim.tasks.depth import DepthTask
  from uvim.tasks.panoptic import PanopticTask
  rows = _option_rows("panoptic output", options_of(PanopticTask.outputs),
                      OUTPUT_OPTIONS)
  rows += _described_rows("depth output", DepthTask.output_options())
  rows += _option_rows("`predict`, `oracle`", options_of(VqvaeFamily.predict),
                       CODE_OPTIONS)
  for style, prior in PRIORS.items():
    owner = f"stage II `predict`, `style` = `{style}`"
    rows += _described_rows(owner, prior.options)
  rows += _described_rows(
      "stage II `predict`",
      {"num_samples": readings.NUM_SAMPLES, **readings.OPTIONS})
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


def _described_rows(owner: str, options: Mapping[str, Field]
                    ) -> list[tuple[str, ...]]:
  """Rows of options that bring their meanings along."""
  meanings = {name: option.doc for name, option in options.items()}
  return _option_rows(owner, options, meanings)


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
