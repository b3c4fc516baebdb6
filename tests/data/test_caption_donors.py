"""Captions of single samples, and whose caption a sample carries."""

import io

import numpy as np
from PIL import Image

from nml_ray.data.config import NoiseSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import hash_of
from nml_ray.data.labels import clean_labels, given_labels, logged_labels
from nml_ray.data.shards import Sample, write_shards


def write(directory, count=20):
    image = io.BytesIO()
    Image.new("L", (4, 4)).save(image, "PNG")
    samples = [Sample(f"key-{number:02d}", image.getvalue(), "png", None, f"thing {number}") for number in range(count)]
    write_shards(samples, directory, samples_per_shard=6)
    return Dataset.open(directory)


def test_a_caption_is_read_by_number(tmp_path):
    dataset = write(tmp_path)
    assert [dataset.caption(number) for number in range(len(dataset))] == list(dataset.captions())


def test_donors_exchange_captions_and_are_marked_by_their_keys(tmp_path):
    dataset = write(tmp_path)
    clean, swapped = NoiseSettings(kind="caption_swap", ratios=("0", "0.5")).arms()
    own = clean_labels(dataset, "caption_swap")
    assert given_labels(dataset, clean).tolist() == own.tolist() == list(range(20))
    donors = given_labels(dataset, swapped)
    assert np.array_equal(donors[donors], own)
    assert int((donors != own).sum()) == 10
    marks = logged_labels(dataset, "caption_swap", donors)
    assert marks.view(np.uint64).tolist() == [hash_of(dataset.key(int(donor))) for donor in donors]
    assert logged_labels(dataset, "symmetric", donors) is donors
