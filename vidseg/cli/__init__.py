"""The ``vidseg`` command.

``main`` maps what happened to an exit status, ``console`` speaks, ``progress`` and ``summary`` show where a job is
and what it did, ``options`` holds what several commands share; every other file is one subject. Heavy libraries are
imported inside the commands, so that ``vidseg --help`` is quick.
"""
