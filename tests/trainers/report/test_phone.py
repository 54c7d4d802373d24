"""A run's page on the screen of a phone."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.trainers.report import runs
from tests.trainers.report.test_findings import details, row, write_run
from trainers.report import details_file

WIDTH = 390
# Reports how wide the page is and how wide it wants to be.
FRAME = """<iframe id=frame src="{page}" width={width} height=900></iframe>
<script>frame.onload = () => {{
  const root = frame.contentDocument.documentElement;
  const tables = [...root.querySelectorAll("table")];
  const wide = tables.filter(x => x.scrollWidth > x.clientWidth).length;
  document.title = [root.scrollWidth, root.clientWidth, wide].join(" ");
}}</script>"""


def measure(page):
  """(width of the content, width of the window, tables that are too wide)."""
  chromium = shutil.which("chromium")
  if chromium is None:
    pytest.skip("skipped: no chromium on this machine")
  frame = page.with_name("frame.html")
  frame.write_text(FRAME.format(page=page.name, width=WIDTH))
  command = [
      chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
      "--disable-dev-shm-usage", "--allow-file-access-from-files",
      "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  title = re.search("<title>(.*?)</title>", done.stdout)[1]
  return [int(number) for number in title.split()]


def test_nobody_has_to_scroll_sideways(tmp_path):
  names = ("uvim", "uvim_sampled", "oracle_code", "zero_code")
  evals = [runs.evaluator(name) for name in names]
  evals[2]["pred"] = "oracle"
  evals[3]["pred"] = "zero_code"
  scores = {name: 12.345 for name in names}
  write_run(tmp_path, scores, evals=evals, dataset="a_long_name" * 9)
  content = details(row("traffic-sign-and-symbol", tp=1000, fn=20_000))
  details_file.write(tmp_path, 100, "uvim", content)
  writer = runs.make_recorder(tmp_path, start_step=100)
  writer.image(100, "panel", np.zeros((90, 900, 3), np.uint8))
  writer.review(100)
  writer.close()
  content_width, window_width, num_wide = measure(tmp_path / "report.html")
  assert content_width <= window_width <= WIDTH
  assert num_wide == 0
