"""The listings of Appendix D as config modules, read from the paper's text.

What the print did to them is undone, and nothing else is changed: line numbers,
the indentation lost at page breaks, and one `config.eval`.
"""

import re
import types

HEADER = "import ml_collections as mlc\n"
INDENT = "    "


def read(path, number):
  """Source text of listing 1 or 2."""
  text = path.read_text().split("D Configuration files")[1]
  body = text.split("Listing 1:")[number - 1]
  blocks = re.findall(r"```\n(.*?)```", body, flags=re.S)
  lines = []
  for block_number, block in enumerate(blocks):
    # A page break eats the four spaces of the function.
    is_after_break = block_number > 0
    for printed in block.splitlines():
      match = re.fullmatch(r"\s*\d+\b ?( *)(\S.*)", printed)
      if match:
        spaces, code = match.groups()
        # A wide line number eats a space, so the indentation is rounded up.
        depth = (len(spaces) + 3) // 4
        if is_after_break:
          depth += 1
        lines.append(INDENT * depth + code)
  return HEADER + "\n".join(lines) + "\n"


def load(path, number):
  """The listing as a module with `get_config`, its `eval` renamed."""
  source = read(path, number).replace("config.eval =", "config.evals =")
  module = types.ModuleType(f"listing_{number}")
  exec(compile(source, f"listing {number}", "exec"), module.__dict__)
  return module
