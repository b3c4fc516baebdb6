"""Every kind of source becomes shuffled shards with the same bytes; a killed run goes on where it was."""

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import decode_image
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.order import Lanes, distinct_classes, epoch_order
from nml_ray.data.reader import ShardReader
from nml_ray.data.resize import Resize, resized
from nml_ray.data.sharding import Written, write_listing
from nml_ray.data.shards import Sample, write_shards, write_tar
from nml_ray.data.sources.choose import SPOOL, SourceOptions, opened_source
from nml_ray.data.sources.folder import image_folder
from nml_ray.data.sources.listing import key_of
from nml_ray.data.sources.table import Columns
from tests.small_images import image_tree, picture


def shard(source, out, options: SourceOptions | None = None, **more) -> Written:
    """What `nml-ray data shard` does, with small shards."""
    with opened_source(str(source), out, options or SourceOptions()) as listing:
        return write_listing(listing, out, **{"samples_per_shard": 5, **more})


def contents(directory) -> dict:
    """Image bytes, class name and caption by key."""
    data = Dataset.open(directory)
    reader, captions = ShardReader(data), list(data.captions())
    names = [data.classes[label] if label >= 0 else None for label in data.label]
    return {data.key(i): (reader.read(i), names[i], captions[i]) for i in range(len(data))}


def tars(directory) -> dict:
    return {path.name: path.read_bytes() for path in directory.rglob("*.tar")}


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("cat/a.jpg", "cat/a"),
        ("v1.0/a.b.c.jpg", "v1.0/a_b_c"),
        ("./a.JPEG", "a"),
        ("a/../b/x", "b/x"),
        ("é/..x.png", "é/__x"),
    ],
)
def test_keys_of_paths(path, key):
    assert key_of(path) == key


def test_a_folder_keeps_bytes_and_labels_by_directory(tmp_path):
    image_tree(tmp_path / "images")
    (tmp_path / "images/cat/notes.txt").write_text("x")
    (tmp_path / "images/cat/._a.jpg").write_bytes(b"of another system")
    with opened_source(str(tmp_path / "images"), tmp_path / "out") as listing:
        assert listing.notes == ("files that are no images, left out: 1 (.txt: 1)",)
    written = shard(tmp_path / "images", tmp_path / "out")
    assert (written.kept, written.info.samples, len(written.info.shards)) == (0, 24, 5)
    found = contents(tmp_path / "out")
    assert found["owl/deep.er/owl_v1"] == ((tmp_path / "images/owl/deep.er/owl.v1.png").read_bytes(), "owl", None)
    assert found["cat/cat_v0"][1] == "cat" and len(found) == 24
    labels = Dataset.open(tmp_path / "out").label
    assert (np.diff(labels) < 0).sum() > 3, "not shuffled"
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")) == []


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(tmp_path):
    image_tree(tmp_path / "images")
    seen: list = []
    shard(tmp_path / "images", tmp_path / "one", progress=lambda *done: seen.append(done))
    shard(tmp_path / "images", tmp_path / "two", workers=2)
    assert tars(tmp_path / "one") == tars(tmp_path / "two") and len(tars(tmp_path / "one")) == 5
    assert (tmp_path / "one/dataset.json").read_bytes() == (tmp_path / "two/dataset.json").read_bytes()
    assert seen == [(0, 24), (5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]


@pytest.mark.slow
def test_an_error_in_a_process_is_told(tmp_path):
    image_tree(tmp_path / "images")
    with opened_source(str(tmp_path / "images"), tmp_path / "out") as listing:
        (tmp_path / "images/cat/cat.v0.jpg").write_bytes(b"short")
        (tmp_path / "images/dog/dog.v0.jpg").unlink()
        with pytest.raises(UserError, match=r"(ends before .* 'cat/cat_v0'|No such file.*dog\.v0\.jpg)"):
            write_listing(listing, tmp_path / "out", samples_per_shard=5, workers=2)
    assert not (tmp_path / "out/dataset.json").exists()


def test_broken_links_and_empty_classes_are_told(tmp_path):
    image_tree(tmp_path / "in", ("cat", "dog"), 2)
    for link in ("cat/lost.jpg", "dog/lost.jpg", "eel"):
        (tmp_path / "in" / link).symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "fox").mkdir()
    (tmp_path / "in" / ".git").mkdir()
    listing = image_folder(tmp_path / "in")
    assert listing.rows.num_rows == 4 and listing.classes == ("cat", "dog")
    assert listing.notes == (
        "links that lead nowhere, left out: 3 (the first is 'cat/lost.jpg')",
        "sub-directories without an image, which are no classes: 1 (the first is 'fox')",
    )
    notes = image_folder(tmp_path / "in", ["ape", "cat", "dog", "fox"]).notes
    assert notes[1:] == ("classes without an image: 2 (the first is 'ape')",)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no image; 1 links lead nowhere"):
        image_folder(tmp_path / "links")


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i, "png"))
    assert shard(tmp_path, tmp_path.with_name("flat-out")).info.classes == ()
    assert set(Dataset.open(tmp_path.with_name("flat-out")).label.tolist()) == {-1}


def write_csv(path: Path, rows: list, names=("path", "label", "caption"), delimiter=",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def test_csv_of_paths(tmp_path):
    image_tree(tmp_path / "images", ("cat", "dog"), 4)
    paths = sorted(path.relative_to(tmp_path) for path in (tmp_path / "images").rglob("*.*") if path.is_file())
    rows = [(str(path), path.parts[1], f'a "{i}",\nof two lines' if i else "") for i, path in enumerate(paths)]
    rows[1] = (str(tmp_path / rows[1][0]), *rows[1][1:])  # an absolute path
    shard(write_csv(tmp_path / "list.csv", rows), tmp_path / "out")
    found = contents(tmp_path / "out")
    assert found == {
        key_of(str(path)): ((tmp_path / path).read_bytes(), path.parts[1], row[2] or None)
        for path, row in zip(paths, rows, strict=True)
    }
    renamed = write_csv(tmp_path / "list.tsv", [(f"p.{i}", *row) for i, row in enumerate(rows)], "nifc", "\t")
    columns = Columns(image="i", label="f", key="n")
    shard(renamed, tmp_path / "out2", SourceOptions(columns=columns, classes=["dog", "cat"]))
    assert Dataset.open(tmp_path / "out2").classes == ("dog", "cat")
    assert {key: value[:2] for key, value in contents(tmp_path / "out2").items()} == {
        f"p_{i}": found[key_of(str(path))][:2] for i, path in enumerate(paths)
    }


def test_parquet_of_bytes(tmp_path):
    images = [picture(i, ("jpg", "png", "webp")[i % 3]) for i in range(12)]
    table = pa.table({"image": images, "label": [i % 3 for i in range(12)], "text": [f"text {i}" for i in range(12)]})
    parquet.write_table(table, tmp_path / "a.b.parquet", row_group_size=5)
    shard(tmp_path / "a.b.parquet", tmp_path / "out")
    expected = {f"a_b/{i + 1:09d}": (images[i], str(i % 3), f"text {i}") for i in range(12)}
    assert contents(tmp_path / "out") == expected
    assert not (tmp_path / "out" / SPOOL).exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert shard(tmp_path / "a.b.parquet", tmp_path / "out").kept == 3
    assert {p: p.stat().st_mtime_ns for p in before if p.suffix != ".json"} == {
        p: t for p, t in before.items() if p.suffix != ".json"
    }


def test_parquet_as_hugging_face_writes_it(tmp_path):
    images = [{"bytes": picture(i), "path": None} for i in range(4)]
    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "set").mkdir()
    for part in range(2):
        table = pa.table({"image": images[part * 2 :][:2], "label": [0, 1]}).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"set/train-{part}.parquet")
    shard(tmp_path / "set", tmp_path / "out")
    found = contents(tmp_path / "out")
    assert found["train-1/000000002"] == (images[3]["bytes"], "ant", None) and len(found) == 4


def test_torchvision_sets_by_name(tmp_path):
    tree = tmp_path / "root" / "eurosat" / "2750"
    image_tree(tree, ("Forest", "River"), 3)
    shard("torchvision:EuroSAT", tmp_path / "out", SourceOptions(root=tmp_path / "root"))
    found = contents(tmp_path / "out")
    path = tree / "River/deep.er/River.v1.png"
    assert found["eurosat/2750/River/deep.er/River_v1"] == (path.read_bytes(), "River", None) and len(found) == 6


def idx(array) -> bytes:
    """An array of bytes in MNIST's file format."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def test_torchvision_sets_of_pixels(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    shard("torchvision:MNIST", tmp_path / "out", SourceOptions(root=tmp_path, split="test"))
    found = contents(tmp_path / "out")
    assert sorted(found) == [f"test/{i:08d}" for i in range(7)] and len(Dataset.open(tmp_path / "out").classes) == 10
    for i in range(7):
        image, name, _ = found[f"test/{i:08d}"]
        assert np.array_equal(decode_image(image, 1)[:, :, 0], pixels[i]) and name.startswith(str(i))
    for name, options, text in (
        ("MNITS", {"root": tmp_path}, "did you mean 'MNIST'"),
        ("MNIST", {}, "--root"),
        ("MNIST", {"root": tmp_path, "split": "valid"}, "train or test"),
        ("CIFAR10", {"root": tmp_path}, "not found"),
    ):
        with pytest.raises(UserError, match=text):
            shard(f"torchvision:{name}", tmp_path / "no", SourceOptions(**options))


def foreign_tars(directory, classes=4, each=10) -> None:
    """Tars sorted by class, with names for labels and members of their own."""
    directory.mkdir()
    for c in range(classes):
        members = (
            {
                "png": picture(c * each + i, "png"),
                "cls": f"class {c}\n".encode(),
                "json": b'{"by": "me"}',
                "b.txt": b"t",
            }
            for i in range(each)
        )
        write_tar(directory / f"part-{c}.tar", ((f"{c}/{i}", one) for i, one in enumerate(members)))


def test_tars_are_cut_anew_with_all_their_members(tmp_path):
    foreign_tars(tmp_path / "in")
    names = [f"class {c}" for c in range(4)]
    before = index_directory(tmp_path / "in", names)
    untouched = tars(tmp_path / "in")
    written = shard(tmp_path / "in", tmp_path / "out", samples_per_shard=8)
    assert tars(tmp_path / "in") == untouched
    assert written.info.digest == before.digest and len(written.info.shards) == 5
    assert contents(tmp_path / "out") == contents(tmp_path / "in")
    members = Dataset.open(tmp_path / "out").tables[0]["members"][0].as_py()
    assert sorted(member["extension"] for member in members) == ["b.txt", "cls", "json", "png"]

    def spread(directory):
        data = Dataset.open(directory)
        lanes = Lanes(data.shard_number, data.shard_names, lanes=1, shuffle_block=8)
        found, full = distinct_classes(data.label, epoch_order(data.key_hash, seed=0, epoch=0, batch=8, lanes=lanes))
        return found / full

    assert spread(tmp_path / "in") < 0.8 < spread(tmp_path / "out")


def test_tars_without_index_and_known_bad_samples(tmp_path):
    foreign_tars(tmp_path / "in", classes=2)
    options = SourceOptions(classes=["class 0", "class 1"])
    assert shard(tmp_path / "in", tmp_path / "out", options).info.samples == 20
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["part-0.tar", "part-1.tar"]
    index_directory(tmp_path / "in", options.classes)
    marked = set_known_bad(tmp_path / "in", ["1/3"])
    assert shard(tmp_path / "in", tmp_path / "out2").info.known_bad == ("1/3",)
    assert Dataset.open(tmp_path / "out2").digest == marked.digest


def test_resizing(tmp_path):
    image_tree(tmp_path / "in", ("a",), 3)
    (tmp_path / "in/a/big.png").write_bytes(picture(1, "png", (90, 60)))
    (tmp_path / "in/a/grey.jpg").write_bytes(picture(2, "jpg", (50, 80), "L"))
    (tmp_path / "in/a/broken.jpg").write_bytes(picture(2, "jpg", (50, 80))[:300])
    written = shard(tmp_path / "in", tmp_path / "out", resize=Resize(20, 90), workers=1)
    assert written.not_resized == ("a/broken",)
    found = contents(tmp_path / "out")
    big, grey = (Image.open(io.BytesIO(found[key][0])) for key in ("a/big", "a/grey"))
    assert (big.format, big.size, big.mode) == ("JPEG", (30, 20), "RGB")
    assert (grey.size, grey.mode) == ((20, 32), "L")
    assert found["a/a_v0"][0] == (tmp_path / "in/a/a.v0.jpg").read_bytes(), "small images keep their bytes"
    assert found["a/broken"][0] == (tmp_path / "in/a/broken.jpg").read_bytes()
    reference = Image.open(tmp_path / "in/a/big.png").resize((30, 20), Image.Resampling.BICUBIC)
    luma = [np.asarray(image.convert("L"), float) for image in (big, reference)]
    assert np.abs(luma[0] - luma[1]).mean() < 2
    assert resized(picture(0, "jpg", (40, 20)), Resize(20)) is None


def test_a_second_run_keeps_what_is_right_and_refuses_to_replace(tmp_path):
    image_tree(tmp_path / "in")
    first = shard(tmp_path / "in", tmp_path / "out")
    assert shard(tmp_path / "in", tmp_path / "out") == Written(first.info, 5, ())
    with pytest.raises(UserError, match="finished data set"):
        shard(tmp_path / "in", tmp_path / "out", seed=1)
    assert contents(tmp_path / "out"), "still whole"
    (tmp_path / "in/cat/cat.v0.jpg").write_bytes(picture(99))
    changed = shard(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert changed.kept == 4 and contents(tmp_path / "out")["cat/cat_v0"][0] == picture(99)
    fewer = shard(tmp_path / "in", tmp_path / "out", overwrite=True, samples_per_shard=20)
    assert len(fewer.info.shards) == 2 == len(tars(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.arrow"))) == 2
    (tmp_path / "out" / "mine.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 other tars, such as mine\.tar"):
        shard(tmp_path / "in", tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("missing", ["dataset.json", "shard-000001.index.arrow", "shard-000002.tar"])
def test_what_a_stopped_run_left_is_completed(tmp_path, missing):
    image_tree(tmp_path / "in")
    shard(tmp_path / "in", tmp_path / "out")
    whole = tars(tmp_path / "out")
    (tmp_path / "out/dataset.json").unlink()
    (tmp_path / "out" / missing).unlink(missing_ok=True)
    (tmp_path / "out/.shard-000001.tar.0a0a0a0a.part").write_bytes(b"half")
    assert shard(tmp_path / "in", tmp_path / "out").kept == (5 if missing == "dataset.json" else 4)
    assert tars(tmp_path / "out") == whole and not list((tmp_path / "out").glob(".*"))


KILLED = """
import sys
from pathlib import Path
from nml_ray.data.sharding import write_listing
from nml_ray.data.sources.choose import opened_source

def wait(done, total):
    print(done, flush=True)
    if done >= 10:
        sys.stdin.read()

if __name__ == "__main__":
    out = Path(sys.argv[2])
    with opened_source(sys.argv[1], out) as listing:
        write_listing(listing, out, samples_per_shard=5, workers=int(sys.argv[3]), progress=wait)
"""


@pytest.mark.kill
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(tmp_path, workers):
    image_tree(tmp_path / "in")
    shard(tmp_path / "in", tmp_path / "undisturbed")
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py", "in", "out", str(workers)]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 10:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    stdout = process.stdout.read()  # ends when no process of the run is left to hold it
    assert b"24" not in stdout
    process.stdin.close()
    process.stdout.close()
    assert not (tmp_path / "out/dataset.json").exists()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}
    assert len(times) >= 2
    assert shard(tmp_path / "in", tmp_path / "out").kept == len(times)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    assert tars(tmp_path / "out") == tars(tmp_path / "undisturbed")


def test_the_writer_of_samples_and_that_of_listings_agree(tmp_path):
    image_tree(tmp_path / "in", ("cat", "dog"), 4)
    shard(tmp_path / "in", tmp_path / "listed")
    files = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    keyed = [(key_of(path.relative_to(tmp_path / "in").as_posix()), path) for path in files]
    samples = [Sample(key, path, path.suffix[1:], int(key.startswith("dog"))) for key, path in keyed]
    write_shards(samples, tmp_path / "written", samples_per_shard=5, classes=("cat", "dog"))
    assert tars(tmp_path / "listed") == tars(tmp_path / "written")
    assert Dataset.open(tmp_path / "listed").digest == Dataset.open(tmp_path / "written").digest


def refuse_tree(root, kind):
    image_tree(root, ("cat", "dog"), 2)
    if kind == "loose":
        (root / "loose.jpg").write_bytes(picture(0))
    elif kind == "twice":
        (root / "cat/cat.v0.png").write_bytes(picture(0, "png"))
    elif kind == "tar":
        foreign_tars(root / "tars", 1, 1)


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("loose", SourceOptions(), "'loose.jpg' lies beside the sub-directories"),
        (
            "twice",
            SourceOptions(),
            r"key 'cat/cat_v0' comes twice, from .*cat\.v0\.jpg and from .*cat\.v0\.png.*rename",
        ),
        ("tar", SourceOptions(), "either tars"),
        ("", SourceOptions(classes=["kat", "dog"]), "'cat' is none of the 2 classes.*did you mean 'kat'"),
    ],
)
def test_folders_refused(tmp_path, kind, options, text):
    refuse_tree(tmp_path / "in", kind)
    with pytest.raises(UserError, match=text):
        shard(tmp_path / "in", tmp_path / "out", options)


@pytest.mark.parametrize(
    ("rows", "names", "options", "text"),
    [
        ([], ("path", "label"), {}, "no rows"),
        ([], (), {}, "which column"),
        ([("a.jpg",)], ("where",), {}, "which column holds the images"),
        ([("a.jpg", "0")], ("path", "label"), {"label": "lable"}, "no column 'lable'.*did you mean 'label'"),
        ([("gone.jpg",)], ("path",), {}, r"list\.csv, row 1: .*gone\.jpg' cannot be read"),
        ([("a.gif",)], ("path",), {}, "extension 'gif'"),
        ([("../list.jpg",)], ("path",), {}, "not below|cannot be read"),
        ([("a.jpg", "1", "2")], ("path", "label"), {}, "Expected 2 columns, got 3"),
        ([("a.jpg", "x"), ("b.jpg", "1")], ("path", "label"), {}, "labels 'x' and '1'"),
        ([("a.jpg",), ("a.jpg",)], ("path",), {}, "key 'a' comes twice.*a key column"),
        ([("",)], ("path",), {}, "image None"),
        ([("a.jpg", "x/")], ("path", "key"), {}, "cannot name a tar member"),
    ],
)
def test_tables_refused(tmp_path, rows, names, options, text):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture(0))
    write_csv(tmp_path / "list.csv", rows, names)
    with pytest.raises(UserError, match=text):
        shard(tmp_path / "list.csv", tmp_path / "out", SourceOptions(columns=Columns(**options)))


def test_other_sources_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    (tmp_path / "x.csv").write_bytes(b"path\n\xff\xfe.jpg\n")
    (tmp_path / "x.zip").write_bytes(b"")
    parquet.write_table(pa.table({"image": [b"no image"]}), tmp_path / "y.parquet")
    for name, text in (
        ("empty", "no image"),
        ("x.parquet", r"x\.parquet: cannot be read"),
        ("x.csv", r"x\.csv.*cannot be read"),
        ("x.zip", "extension '.zip'"),
        ("y.parquet", "row 1: its bytes are no JPEG"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(UserError, match=text):
            shard(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="lies in the source"):
        shard(tmp_path / "empty", tmp_path / "empty/out")


def test_taking_from_many_pieces(tmp_path):
    from nml_ray.data.sources.listing import ROWS, Listing

    pieces = [
        pa.record_batch(
            [pa.array([f"{p}/{i}" for i in range(p)]), *(pa.nulls(p, field.type) for field in ROWS)][:1]
            + [pa.nulls(p, field.type) for field in list(ROWS)[1:]],
            schema=ROWS,
        )
        for p in (3, 0, 5, 1)
    ]
    listing = Listing(pa.Table.from_batches(pieces, ROWS), ())
    numbers = np.array([8, 0, 3, 2, 7, 3])
    keys = listing.rows["key"].to_pylist()
    assert listing.take(numbers)["key"].to_pylist() == [keys[i] for i in numbers]


def test_tables_of_texts(tmp_path):
    rows = {"a": ["one", "two\nlines", "", "four"], "b": ["ä", "b", "c", "d"], "label": [0, 1, -1, 1]}
    parquet.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    options = SourceOptions(columns=Columns(texts=("a", "b")))
    with opened_source(str(tmp_path / "pairs.parquet"), tmp_path / "out", options) as listing:
        assert listing.notes == ("rows without a label (-1), left out: 1",)
    shard(tmp_path / "pairs.parquet", tmp_path / "out", options)
    found = contents(tmp_path / "out")
    assert {key: (text.decode(), name, caption) for key, (text, name, caption) in found.items()} == {
        "pairs/000000001": ("one\nä", "0", "one\nä"),
        "pairs/000000002": ("two\nlines\nb", "1", "two\nlines\nb"),
        "pairs/000000004": ("four\nd", "1", "four\nd"),
    }
    index_directory(tmp_path / "out")  # again: the texts stay the samples
    assert len(Dataset.open(tmp_path / "out")) == 3


def test_lists_of_paths_and_labels(tmp_path):
    image_tree(tmp_path / "real", ("cat", "the owl"), 2)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "real").rglob("*.*") if path.is_file())
    (tmp_path / "real_train.txt").write_text("".join(f"{path} {int('owl' in path)}\n" for path in paths))
    shard(tmp_path / "real_train.txt", tmp_path / "out")
    found = contents(tmp_path / "out")
    assert len(found) == 4 and found["real/the owl/the owl_v0"][1] == "1"


@pytest.mark.parametrize(
    ("file", "texts", "text"),
    [
        ("list.txt", (), "list.txt, row 2: no label; expected a path, a blank and a label"),
        ("pairs.parquet", ("a", "d"), "no column 'd'; expected a, b, label"),
        ("pairs.parquet", ("a", "b"), "pairs.parquet, row 2: text None; expected text"),
        ("words.csv", ("a",), "labels 'good' and '3'; expected names, or numbers, or --classes"),
    ],
)
def test_texts_and_lists_refused(tmp_path, file, texts, text):
    (tmp_path / "list.txt").write_text("a.jpg 1\nb.jpg\n")
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "words.csv").write_text("a,label\nx,good\ny,3\n")
    parquet.write_table(pa.table({"a": ["x", None], "b": ["y", "z"], "label": [0, 1]}), tmp_path / "pairs.parquet")
    with pytest.raises(UserError) as error:
        shard(tmp_path / file, tmp_path / "out", SourceOptions(columns=Columns(texts=texts)))
    assert text in str(error.value)
