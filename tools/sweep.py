"""The command `python -m tools.sweep`; see tools/sweeps/."""

import runpy

if __name__ == "__main__":
  runpy.run_module("tools.sweeps", run_name="__main__")
