"""Category of the Python warnings about labs."""


class LabWarning(UserWarning):
    """Warning of a command that succeeded, such as an unknown field of a manifest."""
