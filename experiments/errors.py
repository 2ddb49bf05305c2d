"""Errors that end a command with one sentence."""


class UsageError(Exception):
    """The command was used wrongly; the message says how to use it rightly. Exit status 2."""
