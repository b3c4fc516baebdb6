"""The published implementation's training runs, reproduced by the fits that every study uses, alone and in batches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nml_ray.heads.batch_fit import optimise_batch
from nml_ray.heads.batch_objective import Batches
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.fit import Epoch, optimise
from nml_ray.heads.modules import Head, new_head
from nml_ray.heads.stack import Stack
from nml_ray.heads.threads import single_thread
from tests.oracle_folders import folders

FOLDERS = folders("NML_ORACLES", "nmtune", "*.npz")
CASES = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
NAMES = {
    "mlp.": "image_encoder.mlp_after.",
    "scale": "image_encoder.scale_after",
    "classifier.": "classification_head.",
}


def test_there_are_cases() -> None:
    assert {case.parent for case in CASES} == set(FOLDERS), f"no trajectories in one of {FOLDERS}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_trajectory(case: Path) -> None:
    given, arrays, setting, head = start_of(case)
    with single_thread():
        epochs = epochs_in_order(arrays, setting.epochs)
        losses = optimise(head, setting, epochs, setting.batch, given["steps_per_epoch"])
        head.eval()
        check(head, np.concatenate(losses), arrays)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_trajectory_in_a_batch(case: Path) -> None:
    given, arrays, setting, head = start_of(case)
    others = {"learning_rate": 2 * setting.learning_rate, "svd_weight": 0.0, "cov_weight": 0.3}
    settings = [setting.model_copy(update=others), setting, setting.model_copy(update={"mse_weight": 0.0})]
    with single_thread():
        stack = Stack([head] * 3)
        losses = optimise_batch(stack, settings, steps_in_order(arrays, setting, given), given["steps_per_epoch"])
        check(stack.head(1), np.concatenate(losses)[:, 1], arrays)


def start_of(case: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], HeadSetting, Head]:
    """Facts and arrays of a case, its setting, and its head before the first step."""
    given = json.loads(case.read_text())
    arrays = dict(np.load(case.with_suffix(".npz")))
    setting = setting_of(given)
    head = new_head(setting, given["D"], given["C"], seed=0)
    head.load_state_dict({name: torch.from_numpy(arrays[f"init/{theirs(name)}"].copy()) for name in head.state_dict()})
    return given, arrays, setting, head


def check(head: Head, losses: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Every loss to 1e-12, logits and final tensors to 1e-9."""
    logits = head(torch.from_numpy(arrays["view1"]))[1].detach().numpy()
    np.testing.assert_allclose(losses, arrays["losses"].ravel(), rtol=1e-12, atol=0)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-9)
    final = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    assert {theirs(name) for name in final} == {name[6:] for name in arrays if name.startswith("final/")}
    for name, tensor in final.items():
        np.testing.assert_allclose(tensor, arrays[f"final/{theirs(name)}"], rtol=0, atol=1e-9, err_msg=name)


def setting_of(given: dict[str, Any]) -> HeadSetting:
    return head_setting(
        "nmtune",
        "official",
        learning_rate=given["lr"],
        weight_decay=given["weight_decay"],
        epochs=given["epochs"],
        batch=given["batch_size"],
        warmup_steps=given["warmup_steps"],
        dtype=given["dtype"],
        ratio=given["mlp_ratio"],
        layers=given["mlp_hidden_layers"],
        residual=given["residual"],
        residual_init=given["residual_scale_init"],
        mse_weight=given["mse_weight"],
        cov_weight=given["cov_weight"],
        svd_weight=given["svd_weight"],
    )


def epochs_in_order(arrays: dict[str, NDArray[Any]], epochs: int) -> Iterator[Epoch]:
    first, second, labels = (torch.from_numpy(arrays[name]) for name in ("view1", "view2", "labels"))
    for _ in range(epochs):
        yield Epoch(first, second, labels)


def steps_in_order(
    arrays: dict[str, NDArray[Any]], setting: HeadSetting, given: dict[str, Any]
) -> Iterator[Iterator[Batches]]:
    """The same rows for three heads at once."""
    tensors = [torch.from_numpy(arrays[name]) for name in ("view1", "view2", "labels")]
    for _ in range(setting.epochs):
        cuts = [slice(step * setting.batch, (step + 1) * setting.batch) for step in range(given["steps_per_epoch"])]
        yield (Batches(*(torch.stack([tensor[cut]] * 3) for tensor in tensors)) for cut in cuts)


def theirs(name: str) -> str:
    ours = next(ours for ours in NAMES if name.startswith(ours))
    return NAMES[ours] + name[len(ours) :]
