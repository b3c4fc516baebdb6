"""A tar that another process cuts short while it is indexed: an error that names the place, not the end of this one."""

import os

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data import index
from nml_ray.data.index import index_tar
from nml_ray.data.shards import write_tar
from nml_ray.data.tar import FileData, regular_members


def test_a_file_is_the_bytes_that_it_holds(tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, ((f"k{n}", {"png": bytes([n]) * 5000, "cls": b"1"}) for n in range(9)))
    data = path.read_bytes()
    with open(path, "rb") as file:
        opened = FileData(file.fileno(), "x.tar")
        assert len(opened) == len(data) and list(regular_members(opened, "x")) == list(regular_members(data, "x"))
        for part in (slice(0, 7), slice(len(data) - 3, len(data) + 9), slice(len(data), None), slice(9, 2)):
            assert opened[part] == data[part]


@pytest.mark.parametrize("left", [0, 512, 7000, 40_000])
def test_cut_between_headers_and_contents(tmp_path, monkeypatch, left):
    path = tmp_path / "x.tar"
    write_tar(path, ((f"k{n}", {"png": bytes([n]) * 5000, "cls": b"1"}) for n in range(9)))
    group = index._group

    def cut(*arguments):
        found = group(*arguments)
        os.truncate(path, left)
        return found

    monkeypatch.setattr(index, "_group", cut)
    with pytest.raises(UserError, match=rf"x\.tar: was cut to {left} bytes while it was read"):
        index_tar(path)
