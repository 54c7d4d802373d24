"""Commands: the front that all of them share, and those pip installs."""
