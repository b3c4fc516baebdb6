"""What a trial is judged by, from the tables of its artifacts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nml_ray.storage.artifact import Store
from nml_ray.sweep.metric import NotMeasured, judge, kind_of


def artifact(store, kind, digest, table, rows):
    attempt = store.attempt(kind, digest)
    pq.write_table(pa.Table.from_pylist(rows), attempt.path / table)
    return attempt.finish()


def head(name, accuracy, preset="paper", chosen=True, fraction="1", f1=0.5):
    return {
        "head": name,
        "preset": preset,
        "fraction": fraction,
        "chosen": chosen,
        "validation": accuracy / 2,
        "validation_accuracy": accuracy,
        "validation_macro_f1": f1,
    }


def test_of_heads_the_best_one_counts_or_the_one_named(tmp_path):
    store = Store(tmp_path)
    one = [head("mlp", 0.4), head("mlp", 0.6), head("nmtune", 0.7), head("nmtune", 0.3, "official")]
    one += [head("mlp", 1.0, chosen=False), head("mlp", 1.0, fraction="0.1")]
    two = [head("mlp", 0.9), head("nmtune", 0.1), head("nmtune", 0.5, "official")]
    made = [artifact(store, "heads", str(n), "trials.parquet", rows) for n, rows in enumerate((one, two))]
    assert judge("heads.accuracy", True, made).value == pytest.approx((0.7 + 0.9) / 2)
    assert judge("heads.score", True, made).value == pytest.approx((0.35 + 0.45) / 2)
    assert judge("heads.mlp.accuracy", True, made).value == pytest.approx((0.5 + 0.9) / 2)
    assert judge("heads.nmtune:official.accuracy", True, made).value == pytest.approx((0.3 + 0.5) / 2)
    assert judge("heads.accuracy", False, made).value == pytest.approx((0.3 + 0.1) / 2)
    official = artifact(store, "heads", "2", "trials.parquet", [head("mlp", 0.2), head("mlp", 0.8, "official")])
    assert judge("heads.accuracy", True, [official]).value == 0.8  # of two searches, not of their mean
    assert judge("heads.mlp:official.accuracy", True, [official]).value == 0.8
    with pytest.raises(NotMeasured, match="has no head 'linear_probe'"):
        judge("heads.linear_probe.accuracy", True, made)


def test_a_regression_has_no_f1(tmp_path):
    made = [artifact(Store(tmp_path), "heads", "a", "trials.parquet", [head("mlp", 0.5, f1=None)])]
    with pytest.raises(NotMeasured, match="heads/a has no macro_f1"):
        judge("heads.macro_f1", True, made)


def test_of_pre_training_the_last_epoch_counts_and_all_are_kept(tmp_path):
    store = Store(tmp_path)
    made = [
        artifact(store, "pretrain", str(n), "curves.parquet", rows)
        for n, rows in enumerate(
            (
                [{"epoch": 1, "validation_loss": 0.4}, {"epoch": 0, "validation_loss": 0.8}],
                [{"epoch": 0, "validation_loss": 0.6}, {"epoch": 1, "validation_loss": 0.2}],
            )
        )
    ]
    judged = judge("pretrain.validation_loss", False, made)
    assert judged.value == pytest.approx(0.3) and judged.by_epoch == pytest.approx([0.7, 0.3])
    with pytest.raises(NotMeasured, match="has no validation_accuracy"):
        judge("pretrain.validation_accuracy", True, made)
    assert kind_of("pretrain.validation_loss") == "pretrain"
