"""The header walk and the index over tars made by others, and what is refused."""

import io
import json
import random
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import key_hashes
from nml_ray.data.index import IndexOptions, index_facts, index_path, index_tar, read_index, split_name, write_index
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.reader import ShardReader
from nml_ray.data.rows import refuse_duplicates
from nml_ray.data.tar import regular_members


def make_tar(path, members, tar_format=tarfile.PAX_FORMAT):
    """A tar of (name, bytes) made by the standard library."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


LONG = "a-long-directory-name/" * 12 + "class é/x" * 12


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_every_kind_of_member(tmp_path, tar_format):
    path = tmp_path / "foreign.tar"
    with tarfile.open(path, "w", format=tar_format, pax_headers={"comment": "made elsewhere"}) as tar:
        for kind, name in ((tarfile.DIRTYPE, "dir"), (tarfile.SYMTYPE, "dir/link.jpg"), (tarfile.FIFOTYPE, "pipe.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x"
            tar.addfile(info)
        for name, data in [(f"{LONG}.seg.png", b"mask"), (f"{LONG}.JPG", b"pixels" * 200), (f"{LONG}.cls", b" 3\n")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    table = index_tar(path)
    (row,) = table.to_pylist()
    assert (row["key"], row["label"], row["caption"]) == (LONG, 3, None)
    assert row["key_hash"] == key_hashes([LONG])[0]
    assert [m["extension"] for m in row["members"]] == ["seg.png", "jpg", "cls"] and row["image"] == 1
    with tarfile.open(path) as tar:
        expected = {m.name: (m.offset_data, m.size) for m in tar if m.isreg()}
    assert [(m["offset"], m["size"]) for m in row["members"]] == list(expected.values())
    index_directory(tmp_path)
    reader = ShardReader(Dataset.open(tmp_path))
    assert reader.read(0) == b"pixels" * 200
    assert reader.header_key(0) == LONG and reader.header_hash(0) == row["key_hash"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), min_size=1, max_size=140),
            st.binary(max_size=1100),
        ),
        max_size=6,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_the_walk_agrees_with_tarfile(members, tar_format):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    found = [(m.name.decode(), m.offset, m.size) for m in regular_members(file.getvalue(), "x.tar")]
    assert [(name.rstrip("/"), offset, size) for name, offset, size in found] == [
        (name.rstrip("/"), offset, size) for name, offset, size in expected
    ]


def test_ustar_prefix(tmp_path):
    name = "directory/" * 12 + "file.jpg"
    path = make_tar(tmp_path / "a.tar", [(name, b"x")], tarfile.USTAR_FORMAT)
    assert index_tar(path)["key"].to_pylist() == [name.removesuffix(".jpg")]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b.c/d.e.f.JPG", ("a/b.c/d", "e.f.jpg")),
        ("./x.jpg", ("./x", "jpg")),
        ("v1.0/dir/000002.cls", ("v1.0/dir/000002", "cls")),
        ("x.", ("x", "")),
        ("a.b/._x.jpg", None),
        (".jpg", None),
        ("README", None),
        ("a.b/README", None),
    ],
)
def test_names(name, parts):
    assert split_name(name) == parts


def test_annotations(tmp_path):
    record = {"label": "dog", "caption": "from json"}
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("1.json", json.dumps(record).encode()),
            ("1.webp", b"1"),
            ("2.cls", b"0"),
            ("2.json", json.dumps(record).encode()),
            ("2.png", b"2"),
            ("2.txt", "wörds".encode()),
            ("3.jpeg", b"3"),
            ("4.left.jpg", b"4"),
            ("README", b"no dot"),
            ("5.txt", b"no image"),
        ],
    )
    table = index_tar(path, IndexOptions(classes=("cat", "dog")))
    assert table["label"].to_pylist() == [1, 0, None, None]
    assert table["caption"].to_pylist() == ["from json", "wörds", None, None]
    facts = index_facts(table)
    assert (facts["skipped_members"], facts["without_image"], facts["first_without_image"]) == (1, 1, "5")
    write_index(table, index_path(path))
    assert read_index(index_path(path)).equals(table)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("k.jpg", b""), ("k.jpg", b"")], "key 'k' has '.jpg' twice"),
        ([("k.jpg", b""), ("l.jpg", b""), ("k.jpg", b"")], "key 'k' has '.jpg' twice"),
        ([("k.jpg", b""), ("l.jpg", b""), ("k.cls", b"0")], "key 'k' do not stand together"),
        ([("k.cls", b"1.5"), ("k.jpg", b"")], "label '1.5' of key 'k'"),
        ([("k.cls", b"cta"), ("k.jpg", b"")], "did you mean 'cat'"),
        ([("k.cls", b"2"), ("k.jpg", b"")], "0 to 1"),
        ([("k.cls", b"-1"), ("k.jpg", b"")], "label '-1'"),
        ([("k.cls", b"\xff"), ("k.jpg", b"")], "not UTF-8"),
        ([("k.json", b"{"), ("k.jpg", b"")], "not JSON"),
        ([("k.json", b'{"label": true}'), ("k.jpg", b"")], "label True"),
        ([("k.json", b'{"caption": 3}'), ("k.jpg", b"")], "caption 3"),
        ([("k.a.jpg", b""), ("k.b.jpg", b"")], "several images"),
    ],
)
def test_samples_refused(tmp_path, members, text):
    path = make_tar(tmp_path / "part-7.tar", members)
    with pytest.raises(UserError, match=text) as error:
        index_tar(path, IndexOptions(classes=("cat", "dog")))
    assert "part-7.tar" in str(error.value)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("caf\xe9.jpg"))
    with pytest.raises(UserError, match="not UTF-8"):
        index_tar(path)


def test_digits_are_numbers_even_where_a_class_is_named_so(tmp_path):
    path = make_tar(tmp_path / "a.tar", [("k.cls", b"0"), ("k.jpg", b""), ("l.cls", b"nine"), ("l.jpg", b"")])
    assert index_tar(path, IndexOptions(classes=("1", "0", "nine")))["label"].to_pylist() == [0, 2]


def test_image_chosen_by_option(tmp_path):
    path = make_tar(tmp_path / "a.tar", [("k.a.jpg", b"left"), ("k.b.jpg", b"right")])
    assert index_tar(path, IndexOptions(image="b.jpg"))["image"].to_pylist() == [1]


def sound_tar(samples=6):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(samples):
            for name, data in ((f"é{i}.cls", b"1"), (f"é{i}.jpg", bytes([i]) * 700)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_damaged_tars_are_never_read_in_part():
    """Cut anywhere: an error. A flipped bit: an error, or nothing but bytes and names of the same count."""
    data = sound_tar()
    end = list(regular_members(data, "x.tar"))[-1]
    last = end.offset + end.size
    chance = random.Random(0)
    for _ in range(150):
        with pytest.raises(UserError):
            list(regular_members(data[: chance.randrange(last)], "x.tar"))
    for _ in range(350):
        flipped = bytearray(data)
        flipped[chance.randrange(last)] ^= 1 << chance.randrange(8)
        try:
            found = list(regular_members(bytes(flipped), "x.tar"))
        except UserError:
            continue
        assert len(found) == 12


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"not a tar at all" * 100, "no valid header at byte 0"),
        (b"\x1f\x8b\x08\0" + bytes(600), "compressed"),
        (sound_tar() + sound_tar(), "more data after its end"),
    ],
)
def test_files_refused(tmp_path, data, text):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(UserError, match=text):
        index_tar(path)


def two_shards(directory, first=("a", "b"), second=("c",), sub=""):
    (directory / sub).mkdir(exist_ok=True)
    make_tar(directory / "x-0.tar", [m for k in first for m in ((f"{k}.cls", b"1"), (f"{k}.jpg", k.encode() * 9))])
    make_tar(directory / sub / "x-1.tar", [m for k in second for m in ((f"{k}.jpg", k.encode()), (f"{k}.txt", b"t"))])


def test_a_directory_of_foreign_tars(tmp_path):
    two_shards(tmp_path, sub="deep")
    seen = []
    info = index_directory(tmp_path, source="test", licence="CC0-1.0", progress=lambda *done: seen.append(done))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert info.classes == ("0", "1") and info.samples == 3 and "1 of 3 samples have no label" in info.warnings[0]
    data = Dataset.open(tmp_path)
    assert len(data) == 3 and data.keys.to_pylist() == ["a", "b", "c"] == [data.key(i) for i in range(3)]
    assert data.key_hash.dtype == np.uint64 and data.label.tolist() == [1, 1, -1]
    assert data.shard_number.tolist() == [0, 0, 1] and data.shard_names == ("x-0.tar", "x-1.tar")
    assert list(data.captions()) == [None, None, "t"] and data.image_extension.tolist() == [0, 0, 0]
    reader = ShardReader(data, open_files=1)
    assert [reader.read(i) for i in (2, 0, 1)] == [b"c", b"a" * 9, b"b" * 9]
    assert [reader.header_key(i) for i in range(3)] == ["a", "b", "c"]


def test_fresh_indices_are_kept(tmp_path):
    two_shards(tmp_path)
    before = index_directory(tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.arrow"))]
    assert index_directory(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.arrow"))] == times
    assert index_directory(tmp_path, key_prefix="shard").digest != before.digest


def test_known_bad_samples_are_left_out(tmp_path):
    two_shards(tmp_path)
    before = index_directory(tmp_path)
    info = set_known_bad(tmp_path, ["b"])
    data = Dataset.open(tmp_path)
    assert data.good.tolist() == [0, 2] and len(data) == 3 and list(data.captions()) == [None, "t"]
    assert data.shard_samples(0).tolist() == [0]
    assert info.digest != before.digest
    assert index_directory(tmp_path).known_bad == ("b",)
    assert index_directory(tmp_path).digest == info.digest
    with pytest.raises(UserError, match="'z' is not in the data set"):
        set_known_bad(tmp_path, ["z"])


def test_duplicates_over_shards_name_both(tmp_path):
    two_shards(tmp_path, ("a", "b"), ("b",))
    with pytest.raises(UserError, match=r"key 'b' comes twice, in x-0\.tar and in x-1\.tar"):
        index_directory(tmp_path)
    index_directory(tmp_path, key_prefix="shard")
    data = Dataset.open(tmp_path)
    assert data.keys.to_pylist() == ["x-0/a", "x-0/b", "x-1/b"]
    assert ShardReader(data).header_key(2) == "x-1/b"
    assert data.info.key_prefix == "shard"


def test_keys_equal_after_normalisation_are_warned_of(tmp_path):
    two_shards(tmp_path, ("cafe\u0301",), ("caf\u00e9",))
    assert any("normalisation" in warning for warning in index_directory(tmp_path).warnings)


def test_names_of_an_earlier_index_are_kept(tmp_path):
    two_shards(tmp_path)
    first = index_directory(tmp_path, ["cat", "dog"], source="here", licence="MIT")
    assert index_directory(tmp_path) == first
    assert index_directory(tmp_path, ["kitten", "puppy"]).classes == ("kitten", "puppy")


def test_colliding_hashes_are_refused():
    keys = pa.chunked_array([["a", "b"], ["c"]])
    with pytest.raises(UserError, match=r"'b' in 0\.tar and 'c' in 1\.tar have the same 64-bit hash"):
        refuse_duplicates(np.array([1, 2, 2], dtype=np.uint64), keys, ["0.tar", "1.tar"], np.array([0, 2, 3]))


def test_two_tars_of_one_name_are_refused(tmp_path):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "x.tar", [(f"{folder}.jpg", b"")])
    with pytest.raises(UserError, match="two tars"):
        index_directory(tmp_path)


def test_stale_and_missing_files_are_named(tmp_path):
    two_shards(tmp_path)
    with pytest.raises(UserError, match="nml-ray data index"):
        Dataset.open(tmp_path)
    index_directory(tmp_path)
    make_tar(tmp_path / "x-1.tar", [("c.jpg", b"longer than before" * 1000)])
    with pytest.raises(UserError, match=r"x-1\.tar"):
        Dataset.open(tmp_path)
    index_directory(tmp_path)
    reader = ShardReader(Dataset.open(tmp_path))
    (tmp_path / "x-1.tar").unlink()
    with pytest.raises(UserError, match=r"x-1\.tar.*cannot be read"):
        reader.read(2)
    with pytest.raises(UserError, match=r"x-1\.tar: is missing"):
        Dataset.open(tmp_path)
    index_path(tmp_path / "x-0.tar").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"x-0\.index\.arrow"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"dataset\.json"):
        Dataset.open(tmp_path)
    with pytest.raises(UserError, match=r"no \.tar"):
        index_directory(tmp_path / "nowhere")
