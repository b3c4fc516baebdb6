"""The published implementation's training runs, reproduced by the fit that every study uses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.fit import Epoch, optimise
from nml_ray.heads.modules import new_head
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
    given = json.loads(case.read_text())
    arrays = dict(np.load(case.with_suffix(".npz")))
    setting = setting_of(given)
    head = new_head(setting, given["D"], given["C"], seed=0)
    head.load_state_dict({name: torch.from_numpy(arrays[f"init/{theirs(name)}"].copy()) for name in head.state_dict()})
    with single_thread():
        epochs = epochs_in_order(arrays, setting.epochs)
        losses = optimise(head, setting, epochs, setting.batch, given["steps_per_epoch"])
        head.eval()
        logits = head(torch.from_numpy(arrays["view1"]))[1].detach().numpy()
    np.testing.assert_allclose(np.concatenate(losses), arrays["losses"].ravel(), rtol=1e-12, atol=0)
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


def theirs(name: str) -> str:
    ours = next(ours for ours in NAMES if name.startswith(ours))
    return NAMES[ours] + name[len(ours) :]
