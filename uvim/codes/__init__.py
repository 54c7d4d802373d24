"""Guiding codes: the quantizers by name, and what is done to a code.

A new quantizer is one file with one class and one line in `QUANTIZERS`.
"""

from uvim.codes import fsq, gaussian, gumbel, lfq, residual, vq, vq_gradient

# By the name that `config.model.quantizer` gives.
QUANTIZERS = {
    "vq": vq.VQ,
    "vq_gradient": vq_gradient.VQGradient,
    "fsq": fsq.FSQ,
    "lfq": lfq.LFQ,
    "residual": residual.Residual,
    "gumbel": gumbel.Gumbel,
    "gaussian": gaussian.Gaussian,
}
