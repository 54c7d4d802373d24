"""The part of a run's page on categories, confusions and single images."""

from typing import Any

from trainers.report import details_file, headlines
from trainers.report.html_page import (
  figure,
  folded,
  heading,
  paragraph,
  table,
)
from trainers.report.run_files import Run

_HEADER = ("category", "PQ", "SQ", "RQ", "found", "false")


def parts(run: Run) -> list[str]:
  """HTML: the details of the main evaluator; those of others folded away."""
  main = headlines.main_evaluator(run)
  shown = []
  others = []
  for evaluator in run.evaluators:
    name = evaluator["name"]
    found = _of_evaluator(run, name)
    if main is not None and name == main["name"]:
      shown += found
    elif found:
      others.append(folded(name, *found))
  if not (shown or others):
    return []
  return [heading("Categories"), *shown, *others]


def _of_evaluator(run: Run, name: str) -> list[str]:
  """Table, confusions and images of an evaluator; empty if it has none."""
  details = details_file.read(run.workdir, name)
  if not details.get("categories"):
    return []
  note = (f"{name} at step {details['step']}, {details['num_images']} images. "
          "Found: segments that a prediction fits, of all there are. False: "
          "predicted segments that fit none.")
  made = [paragraph(note, "faint"), _category_table(details["categories"])]
  made += _confusions(details["confusions"])
  made += _images(run, name, details["images"])
  return made


def _category_table(categories: list[dict[str, Any]]) -> str:
  """A row for each category, the best first."""
  rows = []
  for row in sorted(categories, key=lambda row: -row["pq"]):
    num_true = row["tp"] + row["fn"]
    kind = "" if row["isthing"] else " (stuff)"
    rows.append([
        row["name"] + kind,
        f"{row['pq']:.1f}", f"{row['sq']:.1f}", f"{row['rq']:.1f}",
        f"{row['tp']} of {num_true}", str(row["fp"])])
  return table(rows, _HEADER, numbers=True)


def _confusions(confusions: list[dict[str, Any]]) -> list[str]:
  """The largest mistakes between categories."""
  rows = []
  for item in confusions:
    prediction = item["prediction"] or "nothing"
    rows.append([item["truth"], prediction, f"{item['share']:.0f} %"])
  if not rows:
    return []
  note = "The largest confusions, in pixels of the true category:"
  header = ("is", "is taken for", "share of it")
  return [paragraph(note, "faint"), table(rows, header)]


def _images(run: Run, name: str, images: list[dict[str, Any]]) -> list[str]:
  """The worst and the best images, by name and as they look."""
  made = []
  texts = {"worst": [], "best": []}
  for item in images:
    # Another version may have other kinds.
    if item["kind"] in texts:
      texts[item["kind"]].append(f"{item['id']} (PQ {item['pq']:.0f})")
  for kind, names in texts.items():
    if names:
      made.append(paragraph(f"The {kind} images: {', '.join(names)}."))
  path = details_file.newest_examples(run.workdir, name)
  if path is not None:
    made.append(figure(path, "image, truth and prediction: the worst images, "
                       "then the best"))
  return made
