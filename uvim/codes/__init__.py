"""Guiding codes: the quantizers by name, and what is done to a code.

A new quantizer is one file with one class and one line in `QUANTIZERS`.
"""

from uvim.codes import fsq, lfq, vq

# By the name that `config.model.quantizer` gives.
QUANTIZERS = {
    "vq": vq.VQ,
    "fsq": fsq.FSQ,
    "lfq": lfq.LFQ,
}
