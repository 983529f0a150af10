"""What all errors have in common that a person can mend."""


class UserError(Exception):
    """Its text says what can be done: the command line prints it, and nothing of the code."""
