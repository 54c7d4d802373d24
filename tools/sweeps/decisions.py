"""What a sweep decides, as a part of its page.

It is written in the sweep's config before anything is run, so that nobody can
fit it to what was found.
"""

from tools.sweeps.plan import Sweep

_HEADING = "## What would decide, stated before the runs"


def text_of(sweep: Sweep) -> str:
  """A list in Markdown for each decision of a sweep; '' without any."""
  if not sweep.decisions:
    return ""
  paragraphs = [_HEADING]
  for decision in sweep.decisions:
    lines = [
        f"**{decision.sign}**",
        "",
        f"* Supposed: {decision.guess}",
        f"* Confirmed if {decision.confirmed_if}",
        f"* Refuted if {decision.refuted_if}",
        "* Anything else decides nothing.",
    ]
    paragraphs.append("\n".join(lines))
  return "\n\n".join(paragraphs) + "\n"
