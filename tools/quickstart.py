"""The whole of UViM on `rooms`, from nothing to a table and a page.

  python -m tools.quickstart --workdir workdirs/quickstart

Builds the data set, trains stage I and stage II, scores scenes that were never
trained on, and writes results.json and report.html. Whatever an earlier call
finished is reused; whatever it began is resumed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from trainers.main import quiet_tensorflow

ROWS = (
    ("oracle_pq", "PQ with the oracle's code", "%"),
    ("uvim_pq", "PQ of UViM, T = 0", "%"),
    ("zero_code_pq", "PQ of the same base model, code zeroed", "%"),
    ("bits_per_codeword", "LM, bits per codeword", ""),
    ("wall_seconds", "wall time", "s"),
)
# Where each figure stands in the metrics of stage II's last evaluation.
METRICS = {
    "oracle_pq": "oracle_code/PQ",
    "uvim_pq": "uvim/PQ",
    "zero_code_pq": "zero_code/PQ",
    "bits_per_codeword": "val/bits_per_codeword",
}


def main(argv=None):
  args = parse_args(argv)
  quiet_tensorflow()
  workdir = pathlib.Path(args.workdir)
  stage1, stage2 = workdir / "stage1", workdir / "stage2"
  say("1/4  building the rooms data set (kept for the next time)")
  from pp.rooms import builder as rooms
  rooms.build(args.data_dir, "tiny" if args.arg == "tiny" else "default")
  say("2/4  stage I: oracle and base model")
  train("vqvae", "vqvae_rooms_panoptic", stage1, args)
  say("3/4  stage II: the language model of the guiding code")
  train("lm", "lm_rooms_panoptic", stage2, args,
        f"--config.oracle.model_init={stage1}")
  say("4/4  results on scenes never trained on")
  results = collect(workdir, stage2, args.started)
  write_report(workdir, results, stage1, stage2)
  print_table(results)
  say(f"pictures and curves: {workdir / 'report.html'}")


def parse_args(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", default="workdirs/quickstart")
  parser.add_argument("--data_dir", help="default: that of TFDS")
  parser.add_argument("--arg", default="",
                      help="argument of both configs, such as 'tiny'")
  parser.add_argument("--started", type=float, default=time.time(),
                      help="when the set-up began, in seconds since 1970")
  return parser.parse_args(argv)


def say(text):
  print(f"── {text}", file=sys.stderr, flush=True)


def train(trainer, config, workdir, args, *overrides):
  """Runs a trainer as a user would; ends with its exit code if it fails."""
  path = f"configs/{config}.py" + (f":{args.arg}" if args.arg else "")
  command = [sys.executable, "-m", f"trainers.{trainer}", "--config", path,
             "--workdir", str(workdir), *overrides]
  if args.data_dir:
    command.append(f"--config.data_dir={args.data_dir}")
  code = subprocess.run(command, check=False).returncode
  if code:
    sys.exit(code)


def collect(workdir, stage2, started):
  """The table, also written to results.json.

  A call that found everything trained keeps the wall time of the one that
  trained.
  """
  from trainers.report import run_files
  metrics = run_files.read_run(stage2).metrics
  results = {k: metrics[name][-1][1] for k, name in METRICS.items()}
  path = workdir / "results.json"
  old = json.loads(path.read_text()) if path.exists() else {}
  unchanged = all(old.get(k) == v for k, v in results.items())
  results["wall_seconds"] = round(
      old["wall_seconds"] if unchanged else time.time() - started, 1)
  path.write_text(json.dumps(results, indent=2) + "\n")
  return results


def print_table(results):
  width = max(len(title) for _, title, _ in ROWS)
  for key, title, unit in ROWS:
    print(f"{title:{width}}  {results[key]:8.2f} {unit}")


def write_report(workdir, results, stage1, stage2):
  """One page of both stages; each has its own in its workdir as well."""
  from trainers.report import html_page, run_files, run_page
  runs = [run_files.read_run(stage) for stage in (stage2, stage1)]
  rows = [(title, f"{results[k]:.2f} {unit}") for k, title, unit in ROWS]
  parts = [html_page.heading("UViM on rooms", 1),
           html_page.table(rows, numbers=True)]
  for run in runs:
    parts += run_page.body(run)
  html_page.write_html(workdir / "report.html", "UViM on rooms", parts)


if __name__ == "__main__":
  main()
