"""Runs a trainer as several processes on this machine, again and again.

  python -m tests.trainers.two_processes COUNT RUNS

RUNS is JSON: [log, arguments] of each run. Their processes are forked from one
that has imported what is slow to import. Prints the exit codes of each run, as
one line of JSON.
"""

import json
import os
import socket
import sys

from trainers import main


def child(index, count, port, log, argv):
  with open(f"{log}.{index}", "w") as f:
    os.dup2(f.fileno(), 1)
    os.dup2(f.fileno(), 2)
  return main.main("vqvae", "vqvae", [
      *argv, f"--coordinator=localhost:{port}",
      f"--num_processes={count}", f"--process_id={index}"])


def run(count, log, argv):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  pids = []
  for index in range(count):
    pid = os.fork()
    if not pid:
      code = 99
      try:
        code = child(index, count, port, log, argv)
      finally:
        sys.stderr.flush()
        os._exit(code)
    pids.append(pid)
  return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
  import pp.stream  # noqa: F401
  for log, argv in json.loads(sys.argv[2]):
    codes = run(int(sys.argv[1]), log, argv)
    print(json.dumps(codes), flush=True)
