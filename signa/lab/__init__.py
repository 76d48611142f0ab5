"""The laboratory: tasks, a training loop and records, built on the optimizer and used by the command line.

Nothing outside this package and the command line imports it. Importing it loads nothing: take what you need from its
modules.
"""
