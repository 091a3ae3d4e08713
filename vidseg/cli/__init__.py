"""The ``vidseg`` command."""
