"""Training of the networks in ``engines/``: ``python -m vidseg.training --data DIR`` (needs ``vidseg[train]``)."""
