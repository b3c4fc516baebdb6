"""How names and numbers are written for people."""

from decimal import Decimal

from nml_ray.analysis.statistics import Estimate

MINUS = "\N{MINUS SIGN}"
HEADS = {"linear_probe": "Linear probe", "mlp": "MLP", "nmtune": "NMTune", "features": "Encoder's features"}
SPLITS = {"test": "In domain", "ood": "Out of domain"}


def head_label(method: str) -> str:
    """ "nmtune:paper" as "NMTune (paper)"."""
    head, _, preset = method.partition(":")
    name = HEADS.get(head, head)
    return f"{name} ({preset})" if preset else name


def in_sentence(method: str) -> str:
    """A head's label inside a sentence: "linear probe", "MLP"."""
    return head_label(method).replace("Linear", "linear")


def split_label(split: str) -> str:
    """ "ood" as "Out of domain"."""
    return SPLITS.get(split, split)


def ratio_label(ratio: str) -> str:
    """The exact decimal text "0.05" as "5 %", without loss."""
    percent = Decimal(ratio) * 100
    return f"{percent.normalize():f} %".replace(" ", "\N{NO-BREAK SPACE}")


def number(value: float, digits: int, signed: bool = False) -> str:
    """A number with a true minus sign, and a plus sign where asked; nothing rounds to a negative zero."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as "52.3 %"."""
    return f"{number(100 * value, digits)}\N{NO-BREAK SPACE}%"


def points(difference: Estimate) -> str:
    """A difference of shares as "−2.4" or "−2.4 ± 1.1" percentage points."""
    return with_interval(difference, scale=100, digits=1, signed=True)


def with_interval(value: Estimate, scale: float = 1, digits: int = 1, signed: bool = False) -> str:
    """Mean and half width of the interval; the mean alone where there is no interval."""
    text = number(scale * value.mean, digits, signed)
    if value.half_width is None:
        return text
    return f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{number(scale * value.half_width, digits)}"
