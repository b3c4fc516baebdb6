"""Test sets of other domains: their classes among those of train, by name or by map."""

import numpy as np
import pytest

from nml_ray.config.errors import UserError
from nml_ray.tasks.subset import groups_of, kept, predict

TRAIN = ("cat", "dog", "owl", "pig")


def test_labels_that_mean_the_same_need_no_groups() -> None:
    assert groups_of(TRAIN, TRAIN, "here") is None
    assert groups_of(TRAIN, ("0", "1", "2"), "here") is None
    assert groups_of(("0", "1"), ("a", "b"), "here") is None


@pytest.mark.parametrize(
    ("other", "classes", "groups"),
    [
        (("owl", "cat"), None, [[2], [0]]),
        (("pet", "bird", "stone"), {"pet": ["dog", "cat"], "bird": ["owl"]}, [[0, 1], [2], []]),
        (("0", "1", "10", "2"), None, None),  # only digits that train does not have
        (("0", "1", "3", "2"), None, [[0], [1], [3], [2]]),
    ],
)
def test_classes_are_found_by_name(other: tuple, classes: dict | None, groups: list | None) -> None:
    if groups is None:
        with pytest.raises(UserError, match="class '10' is none"):
            groups_of(TRAIN, other, "here", classes)
    else:
        assert groups_of(TRAIN, other, "here", classes) == groups


@pytest.mark.parametrize(
    ("train", "other", "classes", "text"),
    [
        (TRAIN, ("owl", "cow", "hen"), None, "here: class 'cow' (and 1 more) is none of the training set's; expected"),
        (TRAIN, ("owls",), None, "did you mean 'owl'?"),
        (TRAIN, ("bird",), {"bird": ["owl", "hen"]}, "here, classes.bird: class 'hen' is none"),
        (TRAIN, ("bird",), {"birds": ["owl"]}, "no class 'birds' in this set; expected its own names; did you mean"),
        (("0", "1"), ("0", "1", "2"), None, "here: 3 classes; expected at most the 2 of the training set"),
    ],
)
def test_other_classes_are_refused(train: tuple, other: tuple, classes: dict | None, text: str) -> None:
    with pytest.raises(UserError) as error:
        groups_of(train, other, "here", classes)
    assert text in str(error.value)


def test_predictions_are_made_among_the_groups() -> None:
    groups = [[2], [0, 1], []]
    logits = np.array([[1.0, 5, 2, 9], [3, 1, 4, 9]])
    assert predict(logits, np.array([0, 1, 2, 3]), groups).tolist() == [1, 0]
    # a head that never saw label 2 cannot predict what stands for it alone
    assert predict(logits[:, :2], np.array([0, 3]), groups).tolist() == [1, 1]
    assert kept(np.array([0, 1, 2, 2]), groups).tolist() == [True, True, False, False]
