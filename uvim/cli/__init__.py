"""Commands: the front that all of them share, and those that pip installs.

  app         parser, exit codes and wording of errors of every command
  main        the command `uvim`, which hands over to a subcommand
  predict     images → files in the format of the task
  explore     the page of `uvim.explorer`
  convert     a run → .npz, and the other way round
  push        a pack → the Hugging Face hub
  completion  what lets a shell complete commands and options
  options     options of a prediction, made from priors and tasks
"""
