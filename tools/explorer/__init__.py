"""The explorer of a checkout: `uvim explore` with examples of a data set."""
