"""What was indexed is indexed again, copied, or sharded anew: nothing that was known of it is lost in silence."""

import io
import json
import os
import shutil
import tarfile

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers, numbers_for
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import FILE, read_info
from nml_ray.data.index import index_path, read_index, still_fits
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.sharding import write_listing
from nml_ray.data.sources.choose import SourceOptions, opened_source
from nml_ray.data.verify import verify


def make_tar(path, members):
    """A tar of (name, bytes) made by the standard library."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def labelled(path, labels, first=0):
    """A tar of a sample for each label."""
    numbered = [(f"k{first + number}", label) for number, label in enumerate(labels)]
    make_tar(path, [m for key, label in numbered for m in ((f"{key}.cls", f"{label}".encode()), (f"{key}.jpg", b"x"))])


def reshard(source, out, *, overwrite=False, samples=4, **options):
    with opened_source(str(source), out, SourceOptions(**options)) as listing:
        return write_listing(listing, out, samples_per_shard=samples, overwrite=overwrite).info, listing.notes


def everything(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_names_that_are_numbers():
    assert are_numbers([]) and are_numbers(["0", "1"])
    assert not are_numbers(["1", "0"]) and not are_numbers(["cat"])
    assert numbers_for(None) == () and numbers_for(1) == ("0", "1")
    assert numbers_for(1, ("0", "1", "2", "3")) == ("0", "1", "2", "3")
    assert numbers_for(1, ("cat", "dog", "eel")) == ("0", "1") and numbers_for(3, ("0", "1")) == numbers_for(3)


def test_numbered_classes_do_not_become_fewer(tmp_path):
    labelled(tmp_path / "a.tar", [0, 1])
    labelled(tmp_path / "b.tar", [2, 4], first=2)
    assert len(index_directory(tmp_path).classes) == 5
    (tmp_path / "b.tar").unlink()
    assert len(index_directory(tmp_path).classes) == 5
    labelled(tmp_path / "b.tar", [6], first=2)
    assert len(index_directory(tmp_path).classes) == 7
    (tmp_path / "b.tar").unlink()
    info, _ = reshard(tmp_path, tmp_path.with_name(f"{tmp_path.name}-out"))
    assert len(info.classes) == 7


def pictured(path, keys):
    """A tar whose samples have two images."""
    make_tar(path, [(f"{key}.{side}.png", f"{key} {side}".encode()) for key in keys for side in ("left", "right")])


def test_prefix_image_and_known_bad_samples_are_kept(tmp_path):
    pictured(tmp_path / "x-0.tar", ("a", "b"))
    pictured(tmp_path / "x-1.tar", ("b",))
    index_directory(tmp_path, key_prefix="shard", image="right.png")
    marked = set_known_bad(tmp_path, ["x-0/b"])
    assert index_directory(tmp_path) == marked
    assert (marked.key_prefix, marked.image, marked.known_bad) == ("shard", "right.png", ("x-0/b",))
    info, notes = reshard(tmp_path, tmp_path.with_name(f"{tmp_path.name}-out"))
    assert (info.image, info.known_bad, info.digest, notes) == ("right.png", ("x-0/b",), marked.digest, ())
    other = index_directory(tmp_path, image="left.png")
    assert (other.image, other.key_prefix) == ("left.png", "shard") and other.digest != marked.digest


def test_known_bad_samples_that_are_gone_are_told(tmp_path):
    labelled(tmp_path / "a.tar", [0, 1])
    labelled(tmp_path / "b.tar", [2, 4], first=2)
    index_directory(tmp_path)
    set_known_bad(tmp_path, ["k1", "k2"])
    (tmp_path / "b.tar").unlink()
    _, notes = reshard(tmp_path, tmp_path.with_name(f"{tmp_path.name}-out"))
    assert "1 samples known to be bad are not in the tars (the first is 'k2')" in notes
    info = index_directory(tmp_path)
    assert info.known_bad == ("k1",)
    assert info.warnings == ("1 samples known to be bad are gone, or have other images (the first is 'k2')",)
    assert "(the first is 'k1')" in index_directory(tmp_path, key_prefix="shard").warnings[0]


def test_sharding_over_a_data_set_keeps_what_is_known_to_be_bad_in_the_same_images(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    keys = [f"k{number}" for number in range(8)]
    make_tar(source / "a.tar", [(f"{key}.jpg", key.encode()) for key in keys])
    reshard(source, out)
    set_known_bad(out, ["k2", "k5"])
    info, _ = reshard(source, out, overwrite=True, samples=3)
    assert info.known_bad == ("k2", "k5") and not info.warnings
    make_tar(source / "a.tar", [(f"{key}.jpg", b"mended" if key == "k5" else key.encode()) for key in keys])
    info, _ = reshard(source, out, overwrite=True, samples=3)
    assert info.known_bad == ("k2",) and "(the first is 'k5')" in info.warnings[0]


@pytest.mark.parametrize(("broken", "workers"), [("a label", 1), ("a label", 2), ("a key twice", 1)])
def test_a_failure_leaves_the_data_set_as_it_was(tmp_path, broken, workers):
    labelled(tmp_path / "a.tar", [0, 1])
    labelled(tmp_path / "b.tar", [2, 4], first=2)
    index_directory(tmp_path)
    before = everything(tmp_path)
    classes = ["cat", "dog", "eel"]
    if broken == "a key twice":
        labelled(tmp_path / "c.tar", [1], first=3)
        classes += ["fox", "gnu"]
    with pytest.raises(UserError):
        index_directory(tmp_path, classes, workers=workers)
    (tmp_path / "c.tar").unlink(missing_ok=True)
    index_path(tmp_path / "c.tar").unlink(missing_ok=True)
    assert everything(tmp_path) == before
    assert len(Dataset.open(tmp_path)) == 4 and verify(tmp_path, decode=False).sound


@pytest.mark.long
def test_several_processes_write_the_same_indices(tmp_path):
    for part in ("one", "two"):
        (tmp_path / part).mkdir()
        labelled(tmp_path / part / "a.tar", [0, 1])
        labelled(tmp_path / part / "b.tar", [2, 4], first=2)
        index_directory(tmp_path / part, workers=1 if part == "one" else 2)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def many(directory, samples=30):
    directory.mkdir()
    members = [(f"k{n:02}.{e}", d) for n in range(samples) for e, d in (("cls", b"3"), ("jpg", b"%02d" % n * 40))]
    make_tar(directory / "a.tar", members)
    index_directory(directory)
    return directory / "a.tar"


def test_a_copy_whose_times_differ_is_the_data_set(tmp_path):
    tar = many(tmp_path / "data")
    copy = tmp_path / "copy"
    shutil.copytree(tar.parent, copy, copy_function=shutil.copyfile)
    os.utime(index_path(copy / "a.tar"), (1, 1))
    assert len(Dataset.open(copy)) == 30 and verify(copy, decode=False).sound


@pytest.mark.parametrize("sample", [0, 29])
@pytest.mark.parametrize("member", [0, 1])
def test_a_tar_that_was_changed_is_refused(tmp_path, sample, member):
    tar = many(tmp_path / "data")
    index = read_index(index_path(tar))
    assert still_fits(tar, index)
    data = bytearray(tar.read_bytes())
    data[index["members"][sample][member]["offset"].as_py()] ^= 1
    tar.write_bytes(data)
    os.utime(index_path(tar), (1, 1))
    with pytest.raises(UserError, match="was changed after it was indexed"):
        Dataset.open(tar.parent)


def test_tars_without_samples_may_be_copied_too(tmp_path):
    labelled(tmp_path / "a.tar", [0])
    make_tar(tmp_path / "b.tar", [("notes", b"no sample")])
    index_directory(tmp_path)
    os.utime(index_path(tmp_path / "b.tar"), (1, 1))
    assert len(Dataset.open(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [({"shards": [], "samples": 0}, "names no tar"), ({"samples": 5}, "says 5 samples, but its tars hold 2")],
)
def test_a_dataset_json_that_does_not_add_up_is_refused(tmp_path, change, text):
    labelled(tmp_path / "a.tar", [0, 1])
    index_directory(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({**read_info(tmp_path).model_dump(mode="json"), **change}))
    with pytest.raises(UserError, match=text):
        Dataset.open(tmp_path)
    assert not verify(tmp_path, decode=False).sound
    index_directory(tmp_path)
    assert len(Dataset.open(tmp_path)) == 2


def test_a_failure_leaves_a_data_set_on_an_object_store_as_it_was(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "tars").mkdir()
    labelled(tmp_path / "tars" / "a.tar", [0, 1])
    labelled(tmp_path / "tars" / "b.tar", [2, 4], first=2)
    url = bucket.put(tmp_path / "tars", "numbered")
    before = index_directory(url)
    with pytest.raises(UserError, match="label '4'"):
        index_directory(url, ["cat", "dog", "eel"])
    assert index_directory(url) == before and Dataset.open(url).label.tolist() == [0, 1, 2, 4]
    named = index_directory(url, ["cat", "dog", "eel", "fox", "gnu"])
    assert Dataset.open(url).classes == named.classes and named.digest == before.digest
