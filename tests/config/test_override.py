import pytest

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.override import override

TEXT = "noise:\n  ratios: [0, 0.1]\npretrain:\n  epochs: 6\n  encoder: {name: a}\nlist:\n  - head: x\n"


def test_values_are_read_as_yaml_and_placed_at_the_flag() -> None:
    document = override(parse(TEXT, "job.yaml"), ["noise.ratios=[0, 0.20]", "pretrain.epochs=2"])
    assert document.data["noise"]["ratios"] == [0, 0.2]
    assert str(document.data["noise"]["ratios"][1]) == "0.20"
    assert document.where(("noise", "ratios", 1)) == "--set noise.ratios=[0, 0.20]"
    assert document.where(("pretrain", "epochs")) == "--set pretrain.epochs=2"
    assert document.where(("pretrain", "encoder", "name")) == "job.yaml:5"
    assert document.where(("noise",)) == "job.yaml:1"


def test_places_in_lists_and_one_past_the_end() -> None:
    document = override(parse(TEXT, "job.yaml"), ["list.0.head=y", "list.1.head=z", "noise.ratios.2=0.3"])
    assert document.data["list"] == [{"head": "y"}, {"head": "z"}]
    assert document.data["noise"]["ratios"] == [0, 0.1, 0.3]
    assert document.where(("list", 0, "head")) == "--set list.0.head=y"


def test_missing_sections_are_made_and_null_empties_one() -> None:
    document = override(parse(TEXT, "job.yaml"), ["run.storage=x", "pretrain=null"])
    assert document.data["run"] == {"storage": "x"}
    assert document.data["pretrain"] is None
    assert document.where(("run",)) == "--set run.storage=x"
    assert document.where(("pretrain", "epochs")) == "--set pretrain=null"


def test_the_document_given_is_left_alone() -> None:
    document = parse(TEXT, "job.yaml")
    override(document, ["list.0.head=y"])
    assert document.data["list"] == [{"head": "x"}]


def test_the_last_assignment_wins() -> None:
    assert override(parse(TEXT, "f"), ["a=1", "a=2"]).data["a"] == 2


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("pretrain", "--set pretrain: no assignment"),
        ("a..b=1", "no assignment"),
        ("list.x=1", "a place from 0 to 1"),
        ("list.2=1", "a place from 0 to 1"),
        ("pretrain.epochs.deep=1", "'pretrain.epochs' is 6"),
        ("a=[1", "not valid YAML"),
    ],
)
def test_what_cannot_be_set(assignment: str, words: str) -> None:
    with pytest.raises(UserError, match="--set") as caught:
        override(parse(TEXT, "f"), [assignment])
    assert words in str(caught.value)
