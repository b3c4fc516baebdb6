"""The job file: what is made, from what, and how it is run. Every section but the name may be left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from nml_ray.analysis.config import SpectrumSettings
from nml_ray.config.document import Document, load
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.config.patterns import NAME
from nml_ray.config.settings import Count, Settings
from nml_ray.config.validate import Misplaced, validate
from nml_ray.data.config import DataSettings, NoiseSettings
from nml_ray.features.config import ExtractSettings, GivenFeatures
from nml_ray.heads.config import HeadsSettings
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.tracker_names import TrackerName
from nml_ray.storage.location import locate
from nml_ray.storage.shard_cache import DEFAULT_SIZE, size_of
from nml_ray.study.sweep_check import assignments, check_sweep
from nml_ray.sweep.config import SweepSettings

VALIDATION = "pretrain_validation"
DOWNSTREAM = ("train", "validation", "test", "ood")


class RunSettings(Settings):
    """How a job runs. Nothing here changes a result, so nothing here is hashed."""

    storage: str = "runs"
    """Directory of all artifacts and studies, a relative one below the current directory; or an s3:// or gs:// URL,
    credentials for which come from the environment."""
    scratch: str = ""
    """Directory on each machine's own disk in which it works on the storage of a URL; in the user's cache directory
    when left out."""
    cpus: Count | None = None
    """CPUs that Ray may hand out; all of the machine's when left out. A worker takes `threads` + `decode_threads`."""
    workers: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 1
    """Workers of one pre-training run (data parallel). `[MIN, MAX]`: as many as the cluster has room for, and while the
    run goes on more as nodes come, fewer as they go. `--inline` computes with one worker, whatever is said here."""
    wait_minutes: Annotated[float, Field(ge=0)] = 0
    """Minutes that pre-training waits for a cluster that grows by itself to have room for its workers (MIN of them);
    0 refuses at once. Extraction, which begins with what room there is, waits 10 minutes or these for room for one
    process."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where pre-training and extraction compute; under Ray each worker takes one GPU for `cuda`."""
    arms: Literal["shared", "sweep"] = "shared"
    """`shared`: arms share workers and one decoded image stream, one seed after the other; `sweep`: each arm and seed
    is a Ray Tune trial, as many at once as the cluster has room for."""
    arms_per_worker: Count | None = None
    """Noise arms of a seed that share a worker; when left out all (`shared`), or one (`sweep`). A seed's other arms are
    trained side by side with them where the cluster has room, as trials of Ray Tune, otherwise after them."""
    decode_threads: Count = 1
    """Threads of each worker that decode images, beside those that compute."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 for one after every epoch."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 0
    """Minutes after which there is a checkpoint even before its step; 0 for none by time."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept while training, beside the one with the best validation accuracy (where there
    is `data.shards.pretrain_validation`); at least 2 where arms share a worker."""
    undecodable_limit: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """Share of an epoch's images that may turn out undecodable before pre-training is stopped."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Who gets the figures of pre-training beside its files: `tensorboard` (event files in the attempt's directory),
    `mlflow`, `wandb`; `[]` for none."""
    extract_workers: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 1
    """Processes that extract features side by side. `[MIN, MAX]`: more while there is work for them and room, for which
    a cluster that grows by itself is asked."""
    extract_gpus: Annotated[float, Field(gt=0)] = 1.0
    """GPUs that each of them reserves for device `cuda`: 0.5 lets two share one."""
    head_device: Literal["cpu", "cuda"] | None = None
    """Where heads are fitted; `device` when left out. `cpu`: every fit has a thread to itself. `cuda`: fits of one
    encoder and shape are trained as one program, as many together as the GPU's memory has room for."""
    head_workers: Count | None = None
    """Processes that fit heads side by side, on one CPU each, of `cuda` on one GPU each; as many as there are of these
    when left out."""
    shard_cache: str = ""
    """Directory on each machine's own disk that keeps tars of object stores; the user's cache directory when left
    out."""
    task_data: str = "task_data"
    """Directory, or URL, below which the shard sets of `tasks` lie."""
    shard_cache_size: str = DEFAULT_SIZE
    """Most that it may hold, such as 200GB, of all jobs and processes of a machine together."""

    @field_validator("storage")
    @classmethod
    def _is_a_place(cls, text: str) -> str:
        try:
            locate(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("workers", "extract_workers", mode="before")
    @classmethod
    def _is_a_number_or_two(cls, workers: Any) -> Any:
        if not (isinstance(workers, int) or (isinstance(workers, list) and len(workers) == 2)):
            raise ValueError("workers are a whole number, or [MIN, MAX]")
        return workers

    @field_validator("workers", "extract_workers")
    @classmethod
    def _is_a_range(cls, workers: int | list[int]) -> int | list[int]:
        if isinstance(workers, list) and workers[0] > workers[1]:
            raise ValueError(f"MIN {workers[0]} is more than MAX {workers[1]}")
        return workers

    @property
    def heads_on(self) -> str:
        """Where heads are fitted, `cpu` or `cuda`."""
        return self.head_device or self.device

    @property
    def least_workers(self) -> int:
        """The fewest workers that a pre-training run goes on with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """The most workers that a pre-training run takes."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def least_extract_workers(self) -> int:
        """The fewest processes that an extraction begins with."""
        return self.extract_workers if isinstance(self.extract_workers, int) else self.extract_workers[0]

    @property
    def most_extract_workers(self) -> int:
        """The most processes that an extraction takes."""
        return self.extract_workers if isinstance(self.extract_workers, int) else self.extract_workers[1]

    @property
    def arms_together(self) -> int | None:
        """The most arms that share a worker; None for all of a seed's."""
        return self.arms_per_worker or (1 if self.arms == "sweep" else None)

    @model_validator(mode="after")
    def _can_go_back(self) -> Self:
        if self.keep_checkpoints < 2 and self.arms_together != 1:
            words = "arms that share a worker may be a checkpoint apart when it is killed: keep at least 2"
            raise Misplaced(f"{words}, or set arms_per_worker: 1", "keep_checkpoints")
        return self

    @field_validator("extract_gpus")
    @classmethod
    def _is_a_share_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs: below 1 a process has a share of one, above a whole number")
        return gpus

    @field_validator("shard_cache_size")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        try:
            size_of(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text


class Job(Settings):
    """A study of label noise, or any part of one: sections that are absent are not made."""

    name: Annotated[str, Field(pattern=NAME, max_length=64)]
    """Name of the study's directory: small letters, digits, - and _."""
    title: str = ""
    """Heading of the report; the name when left out."""
    threads: Count = 1
    """Threads of every process that computes; part of what fixes the bits, so it is hashed."""
    data: DataSettings | None = None
    """Where the images come from."""
    noise: NoiseSettings | None = None
    """Which labels are made wrong; each ratio is an arm. Without it pre-training has one clean arm."""
    pretrain: PretrainSettings | None = None
    """Pre-train an encoder under every arm."""
    encoders: tuple[EncoderSettings, ...] = ()
    """Encoders to extract features from that are there already, instead of or beside pre-trained ones."""
    extract: ExtractSettings | None = None
    """Extract the downstream images' features; done with defaults where `spectrum` or `heads` need it."""
    tasks: tuple[str, ...] = ()
    """Downstream tasks beside the splits of `data`: names of ready ones (`nml-ray tasks list`), or task files."""
    spectrum: SpectrumSettings | None = None
    """Measure the singular-value spectra of the features."""
    features: GivenFeatures | None = None
    """Features that are there already, as files."""
    heads: HeadsSettings | None = None
    """Tune heads on the features."""
    sweep: SweepSettings | None = None
    """Run the job many times, each with other values in some fields, and report the best on validation."""
    run: RunSettings = RunSettings()
    """How the job runs."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.sweep:
            check_sweep(self.sweep, self)
            return self  # what a trial needs, trials may have in their own fields
        self._check_data()
        self._check_features()
        if self.extracts_data():
            self._check_splits()
        self._check_workers()
        return self

    def at(self, point: Mapping[str, Any]) -> "Job":
        """The job of one point of the sweep: values by dotted path in place of the job's own.

        Raises:
            UserError: a field does not exist, or the values make no valid job.
        """
        own = self.model_dump(mode="json", exclude_unset=True, exclude={"sweep"})
        return validate(Job, override(Document("sweep", own), assignments(point)))

    def _check_workers(self) -> None:
        if self.pretrain and self.run.most_workers > (most := self.pretrain.microbatches()):
            cut = f"a batch of {self.pretrain.batch} is cut into {most} microbatch(es)"
            raise Misplaced(
                f"{cut}, too few for {self.run.most_workers} workers: lower pretrain.microbatch", "run", "workers"
            )
        if self.run.cpus is not None and self.run.cpus < self.least_cpus():
            workers = self.run.least_workers if self.pretrain else 1
            each = f"{self.threads} computing thread(s)"
            if self.pretrain or self.extracts():
                each += f" and {self.run.decode_threads} decoding"
            need = f"{workers} worker(s) of {each} need {self.least_cpus()}"
            raise Misplaced(f"{self.run.cpus} CPUs are too few: {need}", "run", "cpus")

    def least_cpus(self) -> int:
        """CPUs that Ray must have to hand out for the largest stage; a smaller machine shares its own among them."""
        with_images = self.threads + self.run.decode_threads
        if self.pretrain:
            return self.run.least_workers * with_images
        return with_images if self.extracts() else self.threads

    def given_splits(self) -> tuple[str, ...]:
        """The splits that the data has, before anything is opened."""
        if self.data is None:
            return ()
        if self.data.shards is not None:
            return tuple(self.data.shards.splits())
        return ("pretrain", *DOWNSTREAM)

    def extracts(self) -> bool:
        """Whether features are extracted: asked for, or needed by spectra or heads of encoders."""
        has_encoder = self.pretrain is not None or bool(self.encoders)
        return has_encoder and any((self.extract, self.spectrum, self.heads))

    def extracts_data(self) -> bool:
        """Whether features of the splits of `data` are extracted: with `tasks` only where they are one task more."""
        return self.extracts() and (not self.tasks or not set(DOWNSTREAM[:3]) - set(self.extracted_splits()))

    def extracted_splits(self) -> tuple[str, ...]:
        """The splits whose features are extracted."""
        if self.extract is not None and self.extract.splits is not None:
            return self.extract.splits
        return tuple(split for split in DOWNSTREAM if split in self.given_splits())

    def validates(self) -> bool:
        """Whether pre-training is validated with the images of `pretrain_validation`, where there are any."""
        if self.pretrain is None:
            return False
        zero_shot = self.pretrain.zero_shot()
        return self.pretrain.objective == "supervised" or bool(zero_shot and zero_shot.split == VALIDATION)

    def _check_data(self) -> None:
        user = "pretrain" if self.pretrain else "encoders" if self.encoders else "noise" if self.noise else ""
        if user and self.data is None and not (user == "encoders" and self.tasks):
            raise Misplaced(f"'{user}' needs images: add a section 'data', such as data: {{icons: {{}}}}", user)
        if (self.pretrain or self.noise) and "pretrain" not in self.given_splits():
            raise Misplaced(f"'{user}' needs a training set: add data.shards.pretrain", user)
        if self.data and not user:
            raise Misplaced("nothing uses 'data': add a section 'pretrain', 'encoders' or 'noise'", "data")
        if VALIDATION in self.given_splits() and not self.validates():
            words = "only supervised pre-training is validated with images, or clip whose zero_shot.split names them"
            raise Misplaced(words, "data", "shards", VALIDATION)
        if self.pretrain:
            self._check_objective(self.pretrain)

    def _check_objective(self, pretrain: PretrainSettings) -> None:
        swaps = self.noise is not None and self.noise.kind == "caption_swap"
        if pretrain.objective == "supervised" and swaps:
            raise Misplaced(
                "supervised pre-training reads labels, which caption_swap leaves as they are", "noise", "kind"
            )
        if pretrain.objective == "clip" and self.noise and not swaps:
            words = f"objective clip reads captions, which {self.noise.kind} leaves as they are: take caption_swap"
            raise Misplaced(words, "noise", "kind")
        zero_shot = pretrain.zero_shot()
        if zero_shot and zero_shot.split not in self.given_splits():
            words = f"the data has no split '{zero_shot.split}', only {', '.join(self.given_splits())}"
            raise Misplaced(words, "pretrain", "clip", "zero_shot", "split")

    def _check_features(self) -> None:
        encoders = self.pretrain is not None or bool(self.encoders)
        for name in ("heads", "spectrum"):
            if getattr(self, name) and not (encoders or self.features):
                raise Misplaced(f"'{name}' needs features: add a section 'pretrain', 'encoders' or 'features'", name)
        if self.extract and not encoders:
            raise Misplaced("'extract' needs an encoder: add a section 'pretrain' or 'encoders'", "extract")
        if self.features and not (self.heads or self.spectrum):
            raise Misplaced("nothing uses 'features': add a section 'heads' or 'spectrum'", "features")
        if self.tasks and not encoders:
            raise Misplaced("'tasks' need an encoder: add a section 'pretrain' or 'encoders'", "tasks")
        if self.tasks and not self.extracts():
            raise Misplaced("nothing uses 'tasks': add a section 'extract', 'spectrum' or 'heads'", "tasks")
        if self.encoders and not self.extracts():
            raise Misplaced("nothing uses 'encoders': add a section 'extract', 'spectrum' or 'heads'", "encoders")

    def _check_splits(self) -> None:
        splits = self.extracted_splits()
        known = [split for split in self.given_splits() if split in DOWNSTREAM]
        for number, split in enumerate(splits):
            if split not in known:
                words = f"the data has no downstream split '{split}', only {', '.join(known) or 'none'}"
                raise Misplaced(words, "extract", "splits", number)
        if not splits:
            raise Misplaced("the data has no downstream split to extract: train, validation, test or ood", "data")
        missing = [split for split in DOWNSTREAM[:3] if split not in splits]
        if self.heads and missing:
            raise Misplaced(f"'heads' needs features of {', '.join(missing)}, which are not extracted", "heads")


def read_job(path: Path, assignments: tuple[str, ...] = (), name: str = "") -> tuple[Job, Document]:
    """A job file with its `--set` overrides, and the document it came from.

    Raises:
        UserError: see `document.load`, `override` and `validate`.
    """
    document = override(load(path, name), assignments)
    return validate(Job, document), document
