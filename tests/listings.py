"""The listings of Appendix D as config modules, read from the paper's text.

What the print did to them is undone and nothing else: line numbers, the
indentation lost at page breaks, and one `config.eval`.
"""

import re
import types

HEADER = "import ml_collections as mlc\n"


def read(path, number):
  """Source text of listing 1 or 2."""
  text = path.read_text().split("D Configuration files")[1]
  body = text.split("Listing 1:")[number - 1]
  blocks = re.findall(r"```\n(.*?)```", body, flags=re.S)
  lines = []
  for i, block in enumerate(blocks):
    for line in block.splitlines():
      match = re.fullmatch(r"\s*\d+\b ?( *)(\S.*)", line)
      if match:
        # The numbers' width eats a space, the page break the function's four.
        steps = -(-len(match[1]) // 4) + (i > 0)
        lines.append("    " * steps + match[2])
  return HEADER + "\n".join(lines) + "\n"


def load(path, number):
  """The listing as a module with `get_config`, its `eval` renamed."""
  source = read(path, number).replace("config.eval =", "config.evals =")
  module = types.ModuleType(f"listing_{number}")
  exec(compile(source, f"listing {number}", "exec"), module.__dict__)
  return module
