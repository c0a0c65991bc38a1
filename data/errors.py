"""The one error for everything that is wrong with data."""


class DataError(ValueError):
    """Data that cannot be used; the message is one line that names the path or key and the mend."""
