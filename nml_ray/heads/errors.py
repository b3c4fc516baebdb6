"""Mistakes in what a head is given."""

from nml_ray.config.errors import UserError


class HeadError(UserError, ValueError):
    """A user's mistake in a head's features, labels or parameters; a ValueError too, as scikit-learn expects."""
