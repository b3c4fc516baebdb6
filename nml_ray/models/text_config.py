"""Settings of the text tower that an image encoder is trained with."""

from nml_ray.config.settings import Count, Settings


class TextSettings(Settings):
    """The text tower and the space where both towers meet.

    An `open_clip:NAME` encoder brings its own text tower and dimensions; of these settings it heeds `context` alone.
    Beside any other encoder stands a small tower, which averages embeddings of words and of their parts.
    """

    context: Count | None = None
    """Tokens of a caption, longer ones are cut; the tower's own number when left out (77; small tower: 96)."""
    dim: Count = 128
    """Small tower: dimensions of the space where images and texts meet."""
    buckets: Count = 8192
    """Small tower: rows of the table of embeddings; words and their parts are spread over them by hash."""
