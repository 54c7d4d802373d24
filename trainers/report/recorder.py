"""What a run tells the world: metrics.jsonl, boards, report.html, a line."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np

from trainers.report import alarms
from trainers.report import run_page as run_report


class Reporter:
  """Writes scalars and pictures of one run, and prints its progress.

  `metrics.jsonl` has one object per report: {"step": k, "name": value, …};
  that of an evaluator has its "settings" too: temperature, seed, min_fraction….
  On resume the lines after the restored step are dropped, so that the file of
  a run that was killed reads like that of one that was not.
  """

  def __init__(self, workdir, *, start_step: int, total_steps: int,
               batch_size: int, drop_scores: bool = False,
               wandb: str | None = None):
    """Opens the files of `workdir`.

    Args:
      workdir: the run's folder.
      start_step: lines after it are dropped, they are written anew.
      total_steps: of the run.
      batch_size: global.
      drop_scores: the scores at `start_step` are written anew too.
      wandb: project of Weights & Biases to report to as well.
    """
    from tensorboardX import SummaryWriter
    self.workdir = pathlib.Path(workdir)
    self._path = self.workdir / "metrics.jsonl"
    self._drop_after(start_step, drop_scores)
    self._file = open(self._path, "a")
    self._boards = [SummaryWriter(
        str(self.workdir / "tensorboard"), purge_step=start_step)]
    if wandb:
      from trainers.report import wandb_board
      self._boards.append(wandb_board.Board(wandb, self.workdir))
    self._alarms = alarms.of_run(self.workdir, total_steps)
    run_report.note_session(self.workdir, start_step, total_steps)
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._last = (start_step, time.time())

  def _drop_after(self, step: int, drop_scores: bool) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text().splitlines():
      try:
        values = json.loads(line)
        again = drop_scores and "settings" in values
        if values["step"] < step + (not again):
          kept.append(line)
      except (ValueError, KeyError):
        continue  # The line the kill cut short.
    new = self._path.with_suffix(".tmp")
    new.write_text("".join(line + "\n" for line in kept))
    os.replace(new, self._path)

  def scalars(self, step: int, values: dict[str, float],
              settings: dict | None = None) -> None:
    """Records `values` (name → number) at `step`, and how they were made.

    What they give cause to warn of is said, and recorded with them.
    """
    values = {k: float(v) for k, v in values.items()}
    for name, figure, message in list(self._alarms.see(step, values)):
      values[f"alarm/{name}"] = figure
      self.say(f"ALARM, {message} (docs/troubleshooting.md)")
    line = {"step": step, **values}
    if settings is not None:
      line["settings"] = settings
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    for name, value in values.items():
      for board in self._boards:
        board.add_scalar(name, value, step)

  def progress(self, step: int, loss: float) -> None:
    """Prints 'step, loss, images/s, time left' for the steps since last."""
    then_step, then = self._last
    now = time.time()
    self._last = (step, now)
    rate = (step - then_step) / max(now - then, 1e-9)
    left = (self._total_steps - step) / max(rate, 1e-9)
    self.say(f"step {step}/{self._total_steps}  loss {loss:.4f}  "
             f"{rate * self._batch_size:.0f} img/s  "
             f"{int(left) // 60}:{int(left) % 60:02d} left")

  def pause(self, step: int) -> None:
    """Restarts the clock of `progress`: time spent elsewhere is not ours."""
    self._last = (step, time.time())

  def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
    """Writes a uint8 picture to the boards and `pictures/NAME_STEP.png`."""
    from PIL import Image
    for board in self._boards:
      board.add_image(name, image_HWC, step, dataformats="HWC")
    folder = self.workdir / "pictures"
    folder.mkdir(exist_ok=True)
    Image.fromarray(image_HWC).save(folder / f"{name}_{step:07d}.png")

  def review(self, step: int, usage_Q: np.ndarray) -> None:
    """After an evaluation: how often each word was used, and report.html.

    Args:
      step: of the evaluation.
      usage_Q: uses since the epoch began; zeros if there is no code.
    """
    if usage_Q.any():
      for board in self._boards:
        board.add_histogram("code/uses_per_word", usage_Q, step)
    try:
      run_report.note_usage(self.workdir, step, usage_Q)
      run_report.write(self.workdir)
    except Exception as e:  # To watch a run must never end it.
      self.say(f"{self.workdir / run_report.PAGE} was not written: {e!r}")

  def say(self, text: str) -> None:
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    self._file.close()
    for board in self._boards:
      board.close()


def panel(columns: dict[str, np.ndarray], *, rows: int = 6,
          scale_to: int = 128, names: Sequence[str] = ()) -> np.ndarray:
  """Lays out pictures as a titled grid: a row per example, a column per name.

  Args:
    columns: title → uint8 [B, H, W, 3]; sizes may differ between columns.
    rows: at most so many examples.
    scale_to: side of a cell in pixels (nearest resize).
    names: of the rows, written at their left.

  Returns:
    uint8 [height, width, 3].
  """
  from PIL import Image, ImageDraw, ImageFont
  rows = min(rows, *(len(images) for images in columns.values()))
  gap, top, font = 4, 18, ImageFont.load_default(12)
  cell = scale_to + gap
  left = gap + math.ceil(max(map(font.getlength, names), default=-gap)) + gap
  sheet = Image.new("RGB", (left + cell * len(columns),
                            cell * rows + gap + top), (255, 255, 255))
  draw = ImageDraw.Draw(sheet)
  for r, name in enumerate(names[:rows]):
    draw.text((gap, top + gap + r * cell), name, fill=(0, 0, 0), font=font)
  for c, (title, images) in enumerate(columns.items()):
    draw.text((left + c * cell, 2), title, fill=(0, 0, 0), font=font)
    for r in range(rows):
      picture = Image.fromarray(np.asarray(images[r])).resize(
          (scale_to, scale_to), Image.Resampling.NEAREST)
      sheet.paste(picture, (left + c * cell, top + gap + r * cell))
  return np.asarray(sheet)
