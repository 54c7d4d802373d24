"""Commands around training: data, sweeps, reports, benchmarks, checks."""

from uvim.cli import app

# Python runs this file first, whichever command of the folder is started.
app.quiet_interrupts()
