"""From a name to a model: one chain for training, inference and tools.

  a name that a config or a command gives: a run's workdir, a `.npz`, an
  address, or the name of published weights
    → published.locate     a path that can be opened; fetches what is remote
    → checkpoint / files   arrays by name, {"params": …, "state": …}
    → start_from.Store     arrays that fit what a family wants (training)
    → open_model           task, model, prior and their arrays (inference);
                           shapes reads sizes off bare arrays
"""
