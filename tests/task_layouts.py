"""Small stand-ins of the sets that the ready tasks name, laid out as they are distributed."""

import json
import pickle
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from tests.small_images import picture

PARTS = ("train", "val", "test")
WORDS = ("the", "a", "cat", "dog", "runs", "sleeps", "under", "over", "green", "old")


def image(path: Path, number: int = 0, kind: str = "jpg") -> Path:
    """One small image at a path, whose directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number, kind, (20, 16)))
    return path


def folders(root: Path, classes: Sequence[str], each: int = 4) -> None:
    """A folder of images."""
    for c, name in enumerate(classes):
        for i in range(each):
            image(root / name / f"{name}_{i}.jpg", c * each + i)


def cifar(root: Path, name: str) -> None:
    """Pickled batches of pixels: 6 to train (or 5 files of 6), 6 to test."""
    ten = name == "cifar10"
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if ten else ["train", "test"]
    for file in names:
        pixels = draw.integers(0, 256, (6, 3072), dtype=np.uint8)
        labels = [0, 1, 2, 0, 1, 2]
        data = {"data": pixels, "labels" if ten else "fine_labels": labels}
        (folder / file).write_bytes(pickle.dumps(data))
    classes = [f"class {i}" for i in range(10 if ten else 100)]
    meta = {"label_names" if ten else "fine_label_names": classes}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(meta))


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    for number in range(1, 13):
        image(base / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(base / "imagelabels.mat", {"labels": np.array([1 + i % 3 for i in range(12)])})
    savemat(base / "setid.mat", {"trnid": np.arange(1, 7), "valid": np.arange(7, 10), "tstid": np.arange(10, 13)})


def food101(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for part in ("train", "test"):
        listed = {name: [f"{name}/{part}{i}" for i in range(4)] for name in ("apple_pie", "waffles")}
        (base / "meta" / f"{part}.json").write_text(json.dumps(listed))
        for names in listed.values():
            for number, name in enumerate(names):
                image(base / "images" / f"{name}.jpg", number)


def oxford_pet(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part in ("trainval", "test"):
        lines = []
        for label, breed in enumerate(("Abyssinian", "american_bulldog"), 1):
            for i in range(4):
                image(
                    base / "images" / f"{breed}_{part}{i}.jpg".replace(f"{part}{i}", f"{i + 10 * (part == 'test')}"), i
                )
                lines.append(f"{breed}_{i + 10 * (part == 'test')} {label} {label} 1")
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def stanford_cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    kind = [("fname", object), ("class", object)]
    for part, file in (
        ("train", base / "devkit/cars_train_annos.mat"),
        ("test", base / "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for i in range(6):
            name = image(base / f"cars_{part}" / f"{i + 1:05d}.jpg", i).name
            rows.append((name, 1 + i % 2))
        savemat(file, {"annotations": np.array(rows, dtype=kind)})
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Acura RL"], dtype=object)})


def fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("707-320\n727-200\n")
    for start, part in ((0, "trainval"), (100, "test")):
        lines = []
        for i in range(6):
            image(data / "images" / f"{start + i:07d}.jpg", i)
            lines.append(f"{start + i:07d} {('707-320', '727-200')[i % 2]}")
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def svhn(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [10], [1], [2]], np.uint8)})


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for part in PARTS:
        names = [f"{c}/{c}_{part}{i}.jpg" for c in ("banded", "zigzagged") for i in range(3)]
        (base / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            image(base / "images" / name, number)


def patch_camelyon(root: Path) -> None:
    h5py = import_module("h5py")

    base = root / "pcam"
    base.mkdir(parents=True)
    draw = np.random.default_rng(2)
    for part in ("train", "valid", "test"):
        for letter, values in (
            ("x", draw.integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)),
            ("y", np.array([0, 1] * 3, np.uint8).reshape(6, 1, 1, 1)),
        ):
            with h5py.File(base / f"camelyonpatch_level_2_split_{part}_{letter}.h5", "w") as file:
                file[letter] = values


def rendered_sst2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for label in ("negative", "positive"):
            for i in range(3):
                image(root / "rendered-sst2" / part / label / f"{i}.png", i, "png")


def caltech101(root: Path) -> None:
    folders(root / "caltech101/101_ObjectCategories", ("BACKGROUND_Google", "accordion", "airplanes"), 33)


def eurosat(root: Path) -> None:
    folders(root / "eurosat/2750", ("AnnualCrop", "Forest"), 10)


def resisc45(root: Path) -> None:
    folders(root / "NWPU-RESISC45", ("airplane", "airport"), 10)


def domainnet(root: Path) -> None:
    """Four domains with their lists of paths and class numbers."""
    for domain in ("real", "sketch", "clipart", "painting"):
        for part in ("train", "test"):
            lines = []
            for label, name in enumerate(("aircraft_carrier", "airplane", "The Eiffel_Tower")):
                for i in range(4):
                    path = f"{domain}/{name}/{domain}_{part}_{i}.jpg"
                    image(root / "domainnet" / path, i)
                    lines.append(f"{path} {label}")
            (root / "domainnet" / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")


def imagenet(root: Path, wnids: Sequence[str], subsets: Mapping[str, Sequence[str]], objects: Sequence[str]) -> None:
    """ImageNet with one or two images a class, and its six variants: `subsets` of r and a, folders of ObjectNet."""
    folders(root / "imagenet/train", wnids, 2)
    folders(root / "imagenet/val", wnids, 1)
    folders(root / "sketch", wnids, 1)
    folders(root / "imagenetv2-matched-frequency-format-val", [str(number) for number in range(len(wnids))], 1)
    for name, own in subsets.items():
        folders(root / f"imagenet-{name}", own, 1)
        (root / f"imagenet-{name}" / "README.txt").write_text("about\n")
    folders(root / "objectnet-1.0/images", [*objects, "squeegee"], 1)
    lines = ["path,label"]
    for i, label in enumerate(("n02084071", "n02121808")):
        image(root / "imagenet-vid-robust" / "val" / f"v{i}" / "000001.JPEG", i)
        lines.append(f"val/v{i}/000001.JPEG,{label}")
    (root / "imagenet-vid-robust" / "frames.csv").write_text("\n".join(lines) + "\n")


GLUE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "stsb": (("sentence1", "sentence2"), ()),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
}
"""Columns and class names of GLUE's tables."""


def glue(root: Path) -> None:
    """GLUE's tables, the test sets with -1 for the labels that are not public."""
    for task, (columns, names) in GLUE.items():
        matched = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
        for part in ("train", *matched):
            texts(root / "glue" / task / f"{part}-00000-of-00001.parquet", columns, names)


def gluex(root: Path) -> None:
    """The sets of other origin that GLUE-X pairs with them."""
    three = ("entailment", "neutral", "contradiction")
    texts(root / "imdb/plain_text/test-00000-of-00001.parquet", ("text",), ("neg", "pos"))
    texts(root / "snli/plain_text/test-00000-of-00001.parquet", ("premise", "hypothesis"), three, unlabelled=2)
    texts(root / "sick/default/test-00000-of-00001.parquet", ("sentence_A", "sentence_B"), three)
    hans = ("entailment", "non-entailment")
    texts(root / "hans/plain_text/validation-00000-of-00001.parquet", ("premise", "hypothesis"), hans)
    pairs = {"sentence1": sentences(8), "sentence2": sentences(8, 1), "gold_label": ["entailment", "neutral"] * 4}
    table(root / "scitail/snli_format/test-00000-of-00001.parquet", pairs)
    table(root / "gluex/grammar_test.csv", {"text": sentences(8), "label": ["unacceptable", "acceptable"] * 4})
    answers = {"question": sentences(8), "sentence": sentences(8, 1), "label": ["entailment", "not_entailment"] * 4}
    table(root / "gluex/newsqa.csv", answers)


def texts(path: Path, columns: Sequence[str], names: Sequence[str], count: int = 12, unlabelled: int = 0) -> None:
    """A table of texts with class numbers, or without names with numbers from 0 to 5."""
    found: dict[str, Sequence[object]] = {name: sentences(count, place) for place, name in enumerate(columns)}
    labels = [i % len(names) for i in range(count)] if names else [round(0.4 * i, 1) for i in range(count)]
    table(path, {**found, "label": [*[-1] * unlabelled, *labels[unlabelled:]], "idx": list(range(count))}, names)


def table(path: Path, columns: Mapping[str, Sequence[object]], names: Sequence[str] = ()) -> None:
    """A Parquet file as Hugging Face's `datasets` writes it, or a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = pa.table({name: list(values) for name, values in columns.items()})
    if path.suffix == ".csv":
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
        return
    features = {"label": {"names": list(names), "_type": "ClassLabel"}} if names else {}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(found.replace_schema_metadata(about), path)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of a few words."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, 5)) for _ in range(count)]
