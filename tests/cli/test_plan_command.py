"""What `nml-ray plan` says of how the training data will be fed."""

import pytest

from nml_ray.cli.main import call
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.shards import write_tar

JOB = """
name: fed
data:
  shards: {pretrain: tars}
noise: {ratios: [0]}
pretrain:
  batch: 48
  microbatch: 12
  epochs: 1
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job over two tars of 150 samples, sorted by class: 30 classes of 10."""
    (tmp_path / "tars").mkdir()
    for shard in range(2):
        numbers = range(150 * shard, 150 * shard + 150)
        samples = ((f"k{number:03d}", {"png": b"image", "cls": b"%d" % (number // 10)}) for number in numbers)
        write_tar(tmp_path / f"tars/x-{shard}.tar", samples)
    index_directory(tmp_path / "tars")
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(capsys, *assignments):
    """Exit code, and the lines after the stages."""
    code = call(["plan", "job.yaml", *(word for one in assignments for word in ("--set", one))])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    start = next((n for n, line in enumerate(lines) if " stages: " in line), len(lines))
    return code, lines[start + 1 :], err


def test_samples_steps_and_what_is_dropped(job, capsys):
    assert plan(capsys) == (0, ["samples: 300: 6 steps an epoch of 48 samples; 12 are dropped each epoch"], "")
    set_known_bad(job / "tars", ["k000", "k001"])
    _, (line,), _ = plan(capsys, "pretrain.repeats=4")
    assert line == (
        "samples: 298 (2 known to be bad are excluded): 6 steps an epoch of 12 samples, each 4 times; "
        "226 wait for a later epoch"
    )


def test_workers_that_do_not_divide_the_microbatches_idle(job, capsys):
    _, (_, line), _ = plan(capsys, "run.workers=3")
    assert line == (
        "idle: 3 workers share 4 microbatches unevenly: 33% of their time is spent waiting; "
        "even are run.workers 1, 2, 4"
    )
    assert len(plan(capsys, "run.workers=2")[1]) == 1
    _, (_, *lines), _ = plan(capsys, "run.workers=[1,4]")
    assert lines == [line]


def test_lanes_over_shards_sorted_by_class_are_warned_of(job, capsys):
    _, (_, told, warning), _ = plan(capsys, "pretrain.order={kind: lanes, lanes: 4, shuffle_block: 10}")
    assert told.startswith("mixing: ") and "distinct classes in a batch of 48 read in lanes" in told
    assert warning == (
        "warning: below 80 %: the shards are sorted by class. Use `order: full`, or shuffled shards: "
        "nml-ray data shard tars OUT"
    )
    _, lines, _ = plan(capsys, "pretrain.order={kind: lanes, lanes: 4, shuffle_block: 4096}")
    assert len(lines) == 2 and not any(line.startswith("warning") for line in lines)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_fewer_samples_than_a_batch_are_refused_at_their_place_before_anything_runs(job, capsys, command):
    (job / "job.yaml").write_text(JOB.replace("batch: 48", "batch: 400").replace("microbatch: 12", "microbatch: 40"))
    assert call([command, "job.yaml"]) == 2
    assert capsys.readouterr().err.strip() == (
        "nml-ray: job.yaml:7: 300 good samples are fewer than one batch of 400; expected a batch of at most 300"
    )
    assert not (job / "runs").exists()


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("pretrain.microbatch=7", "--set pretrain.microbatch=7: microbatch 7 does not divide batch 48 (6 does)"),
        ("pretrain.repeats=5", "--set pretrain.repeats=5: repeats 5 does not divide batch 48 (4 does)"),
        (
            "pretrain.order={kind: lanes, lanes: 5}",
            "--set pretrain.order={kind: lanes, lanes: 5}: 5 lanes do not divide the 48 samples of a batch (4 do)",
        ),
        ("run.workers=5", "--set run.workers=5: a batch of 48 is cut into 4 microbatch(es), too few for 5 workers"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_at_their_place(job, capsys, assignment, text):
    code, _, err = plan(capsys, assignment)
    assert code == 2 and text in err


def test_nothing_is_said_of_data_that_is_not_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("name: icons\ndata: {icons: {}}\npretrain: {}\n")
    assert plan(capsys) == (0, [], "")
