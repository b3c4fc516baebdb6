"""A fitted head: applied to features, saved to and read from a directory."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from nml_ray.heads.config import HeadSetting, parse_setting
from nml_ray.heads.modules import Head, new_head
from nml_ray.heads.threads import single_thread

Values = NDArray[np.floating]
Labels = NDArray[np.int64]

_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head in evaluation mode, with all it needs to be applied to raw features.

    Attributes:
        setting: what it was fitted with.
        classes: the label of each logit, ascending, int64[C]; those that occurred in training. None of a regression.
        head: the module, in the setting's dtype, on any device.
        shift, scale: standardisation (f - shift) / scale of the features, [D] each, or None.
        losses: mean loss of each epoch. Shorter than `setting.epochs` if the fit diverged.
        unit: of a regression, mean and deviation of the numbers that it was fitted to; its one logit is in that unit.
    """

    setting: HeadSetting
    classes: Labels
    head: Head
    shift: Tensor | None
    scale: Tensor | None
    losses: tuple[float, ...]
    unit: tuple[float, float] | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss left the finite numbers, at which the fit was ended."""
        return len(self.losses) < self.setting.epochs

    def transform(self, features: Values) -> Values:
        """Z [N, D] of features [N, D], N >= 0, in the setting's dtype."""
        return self._apply(features, self.head.transform)

    def predict_logits(self, features: Values) -> Values:
        """Logits [N, C] of features [N, D], columns as in `classes`."""
        return self._apply(features, lambda rows: self.head(rows)[1])

    def predict(self, features: Values) -> Labels | Values:
        """The most likely label of each row of features [N, D], int64[N]; of a regression the number, float64[N]."""
        logits = self.predict_logits(features)
        if self.unit:
            return logits[:, 0].astype(np.float64) * self.unit[1] + self.unit[0]
        return self.classes[logits.argmax(axis=1)]

    def prepare(self, features: Values) -> Tensor:
        """Features [..., D] as the head takes them: a copy in its dtype, standardised where the setting says so."""
        rows = torch.tensor(np.ascontiguousarray(features), dtype=getattr(torch, self.setting.dtype))
        return rows if self.shift is None or self.scale is None else rows.sub_(self.shift).div_(self.scale)

    def save(self, directory: Path) -> None:
        """Write `head.safetensors` and `head.json` into an existing directory."""
        tensors = dict(self.head.state_dict())
        if self.shift is not None and self.scale is not None:
            tensors |= {"standardise.shift": self.shift, "standardise.scale": self.scale}
        save_file(tensors, directory / "head.safetensors")
        facts = {
            "setting": self.setting.model_dump(mode="json"),
            "dim": self.head.classifier.in_features,
            "classes": self.classes.tolist(),
            "losses": list(self.losses),
            **({"unit": list(self.unit)} if self.unit else {}),
        }
        (directory / "head.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, directory: Path) -> "FittedHead":
        """The head that `save` wrote."""
        facts = json.loads((directory / "head.json").read_text())
        tensors = load_file(directory / "head.safetensors")
        shift, scale = tensors.pop("standardise.shift", None), tensors.pop("standardise.scale", None)
        setting, classes = parse_setting(facts["setting"]), np.array(facts["classes"], dtype=np.int64)
        unit = tuple(facts["unit"]) if "unit" in facts else None
        head = new_head(setting, facts["dim"], 1 if unit else len(classes), seed=0).eval()
        head.load_state_dict(tensors)
        return cls(setting, classes, head, shift, scale, tuple(facts["losses"]), unit)

    def _apply(self, features: Values, function: Callable[[Tensor], Tensor]) -> Values:
        with single_thread(), torch.no_grad():
            starts = range(0, max(len(features), 1), _CHUNK)
            device = self.head.classifier.weight.device
            parts = [function(self.prepare(features[at : at + _CHUNK]).to(device)).cpu() for at in starts]
            return torch.cat(parts).numpy()
