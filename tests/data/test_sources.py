"""Folders, sets of torchvision and tars become shuffled shards with the same bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import decode_image
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.order import Lanes, distinct_classes, epoch_order
from nml_ray.data.resize import Resize, resized
from nml_ray.data.shards import Sample, write_shards
from nml_ray.data.sources.choose import SourceOptions, opened_source
from nml_ray.data.sources.folder import image_folder
from nml_ray.data.sources.listing import key_of
from tests.data.sharded import contents, foreign_tars, shard, tars
from tests.small_images import image_tree, picture


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


def test_the_writer_of_samples_and_that_of_listings_agree(tmp_path):
    image_tree(tmp_path / "in", ("cat", "dog"), 4)
    shard(tmp_path / "in", tmp_path / "listed")
    files = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    keyed = [(key_of(path.relative_to(tmp_path / "in").as_posix()), path) for path in files]
    samples = [Sample(key, path, path.suffix[1:], int(key.startswith("dog"))) for key, path in keyed]
    write_shards(samples, tmp_path / "written", samples_per_shard=5, classes=("cat", "dog"))
    assert tars(tmp_path / "listed") == tars(tmp_path / "written")
    assert Dataset.open(tmp_path / "listed").digest == Dataset.open(tmp_path / "written").digest
