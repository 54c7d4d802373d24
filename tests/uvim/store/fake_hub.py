"""Stands for the package huggingface_hub, without a network."""

import pathlib
import shutil


class Client:
  """Stands for the hub: a folder for each repository."""

  def __init__(self, root):
    self.root = root
    self.private = {}

  def create_repo(self, repo_id, *, private, exist_ok):
    self.private.setdefault(repo_id, private)
    (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

  def upload_folder(self, *, repo_id, folder_path, commit_message,
                    allow_patterns):
    assert commit_message
    for name in allow_patterns:
      source = pathlib.Path(folder_path, name)
      if source.exists():
        target = self.root / repo_id / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)

  def snapshot_download(self, repo_id, *, revision, allow_patterns):
    assert revision in (None, "v1") and "stage1/config.json" in allow_patterns
    folder = self.root / repo_id
    if not folder.exists():
      raise FileNotFoundError(f"404 Client Error.\n\nNo {repo_id}")
    return str(folder)
