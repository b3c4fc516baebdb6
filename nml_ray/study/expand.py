"""From a job to its stages: what each is called, what it reads, and what is hashed of it.

Names and roles:

    shards                    icons as tars                                            (or given: shards/pretrain ...)
    ledger/ARM                shards
    pretrain/ARM/seed-N       shards; validation and zero_shot, the images that it is evaluated on, where there are
    encoder/NAME              weights, where a file of them is given
    extract/ENCODER           shards, encoder (an artifact of `pretrain` or `encoder`: load_encoder reads either)
    extract/given             features (the user's files)
    spectrum/ENCODER          extract
    heads/ENCODER             extract
    shards/task/TASK, extract/ENCODER/TASK, spectrum/..., heads/...    the same for each of the job's tasks
    report                    every artifact it shows, under the name of its stage

Data given by path is hashed by its content (dataset.json's digest, a file's sha256), never by where it lies. It enters
as a stage that is not run: `given` says which links make up the directory that readers of that stage see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nml_ray.config.document import plain
from nml_ray.data.config import NoiseArm, NoiseSettings
from nml_ray.features.config import ExtractSettings
from nml_ray.models.config import EncoderSettings
from nml_ray.models.given import given_files
from nml_ray.storage.link import Link
from nml_ray.study import sources
from nml_ray.study.job import DOWNSTREAM, VALIDATION, Job
from nml_ray.study.needs import DRIVER, needs
from nml_ray.study.plan import Given
from nml_ray.study.stage import Resources, Stage
from nml_ray.study.task_data import TaskData, open_tasks, sharing
from nml_ray.tasks.config import TaskSettings

VERSIONS: Mapping[str, int] = {
    "shards": 2,
    "ledger": 1,
    "pretrain": 2,
    "encoder": 1,
    "extract": 2,
    "spectrum": 2,
    "heads": 2,
    "report": 2,
}
"""Raised when a stage's result changes for the same settings, so that old artifacts no longer count."""


@dataclass(frozen=True)
class Study:
    """The stages of a job and, by stage name, what of it the user has given."""

    stages: Sequence[Stage]
    given: Mapping[str, Given]


@dataclass(frozen=True)
class _Encoder:
    """One source of features: the stage that makes it and what the report says of it."""

    name: str
    stage: str
    ratio: str | None
    kind: str
    seed: int
    ledger: str = ""


def given_stage(name: str, kind: str, settings: Mapping[str, Any]) -> Stage:
    """The stage that stands for data of the user's; `settings` identify it by its content."""
    return Stage(name, kind, 1, plain(settings), "")


def expand(job: Job) -> Study:
    """The stages of a job, in no particular order but the same one for the same job.

    Raises:
        UserError: data or a file that the job names cannot be read.
    """
    return _Expansion(job).study()


class _Expansion:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.stages: list[Stage] = []
        self.names: set[str] = set()  # of those that are not given
        self.given: dict[str, Given] = {}
        self.shards: dict[str, str] = {}  # split to the stage that has it
        self.tasks: dict[str, TaskData] = {}
        self.needs: dict[str, Resources] = {}  # by kind

    def study(self) -> Study:
        self.data()
        arms = self.arms()
        encoders = [*self.pretrained(arms), *self.given_encoders()]
        if self.job.extracts_data():
            for encoder in encoders:
                self.extract(encoder)
        self.on_tasks(encoders)
        if self.job.features:
            encoders.append(self.given_features())
        measured = encoders if self.job.extracts_data() else encoders[-1:] if self.job.features else []
        for encoder in measured:
            self.measure(encoder)
        self.report(encoders)
        return Study(self.stages, self.given)

    def add(self, name: str, kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str], group: str = "") -> str:
        if kind not in self.needs:
            self.needs[kind] = needs(self.job, kind)
        resources = DRIVER if "features" in inputs else self.needs[kind]
        function = f"nml_ray.study.stages.{kind}:run"
        stage = Stage(name, kind, VERSIONS[kind], plain(settings), function, dict(inputs), group, resources)
        self.stages.append(stage)
        self.names.add(name)
        return name

    def add_given(self, name: str, kind: str, settings: Mapping[str, Any], links: Mapping[str, Path | Link]) -> str:
        self.stages.append(given_stage(name, kind, settings))
        self.given[name] = Given(links)
        return name

    def data(self) -> None:
        data = self.job.data
        if data is None:
            return
        if data.icons:
            settings = {"source": "icons", "digest": sources.icons_digest(), "shard_size": data.icons.shard_size}
            self.shards = dict.fromkeys(self.job.given_splits(), self.add("shards", "shards", settings, {}))
            return
        assert data.shards is not None
        lanes = self.job.pretrain is not None and self.job.pretrain.order.kind == "lanes"
        run = self.job.run
        directories = {
            split: sources.place(split, path, run.shard_cache, run.shard_cache_size)
            for split, path in data.shards.splits().items()
        }
        for use, splits in (("pretrain", ("pretrain",)), (VALIDATION, (VALIDATION,)), ("downstream", DOWNSTREAM)):
            links = {split: directories[split] for split in splits if split in directories}
            wanted = self.uses_downstream() if use == "downstream" else bool(self.job.pretrain or self.job.noise)
            if links and wanted:
                # Features are stored by shard, in its order.
                layout = lanes or use == "downstream"
                digests = {split: sources.dataset_identity(split, path, layout) for split, path in links.items()}
                beside = {"pretrain": directories["pretrain"]} if use == VALIDATION and self.supervised() else {}
                sources.refuse_other_classes({**beside, **links})
                if use == "pretrain" and self.job.pretrain and not lanes:
                    sources.refuse_full_order(links[use])
                name = self.add_given(f"shards/{use}", "shards", {"given": digests}, links)
                self.shards |= dict.fromkeys(links, name)

    def supervised(self) -> bool:
        return self.job.pretrain is not None and self.job.pretrain.objective == "supervised"

    def uses_downstream(self) -> bool:
        zero_shot = self.job.pretrain.zero_shot() if self.job.pretrain else None
        return self.job.extracts_data() or bool(zero_shot and zero_shot.split in DOWNSTREAM)

    def arms(self) -> list[NoiseArm]:
        noise, pretrain = self.job.noise, self.job.pretrain
        if noise is None and pretrain:
            noise = NoiseSettings(kind="caption_swap" if pretrain.objective == "clip" else "symmetric", ratios=("0",))
        arms = noise.arms() if noise else []
        for arm in arms:
            inputs = {"shards": self.shards["pretrain"], **self.label_file(arm)}
            self.add(f"ledger/{arm.name}", "ledger", {"noise": arm.hashed()}, inputs, "all")
        return arms

    def label_file(self, arm: NoiseArm) -> dict[str, str]:
        """The file of `kind: file` as a given stage with the link "labels.parquet"."""
        if not arm.file:
            return {}
        name = f"labels/{arm.name}"
        if name not in self.given:
            self.add_given(name, "labels", {"digest": arm.options["digest"]}, {"labels.parquet": Path(arm.file)})
        return {"labels": name}

    def pretrained(self, arms: Sequence[NoiseArm]) -> list[_Encoder]:
        pretrain, job = self.job.pretrain, self.job
        if pretrain is None:
            return []
        recipe = pretrain.model_dump(mode="json", exclude={"seeds"})
        recipe |= {"order": pretrain.order.hashed(), "microbatch": pretrain.microbatch_size()}
        recipe["encoder"], weights = self.weights(pretrain.encoder, "pretrain")
        evaluated = pretrain.zero_shot()
        zero_shot = {"zero_shot": self.shards[evaluated.split]} if evaluated else {}
        labelled = VALIDATION in self.shards and self.supervised()
        validation = {"validation": self.shards[VALIDATION]} if labelled else {}
        evaluated_on = {**validation, **zero_shot}
        encoders = []
        for seed in pretrain.seeds:
            for arm in arms:
                name = f"{arm.name}/seed-{seed}"
                settings = {"pretrain": recipe, "noise": arm.hashed(), "seed": seed, "threads": job.threads}
                inputs = {"shards": self.shards["pretrain"], **self.label_file(arm), **weights, **evaluated_on}
                group = "sweep" if job.run.arms == "sweep" else f"seed-{seed}"
                stage = self.add(f"pretrain/{name}", "pretrain", settings, inputs, group)
                encoders.append(_Encoder(name, stage, arm.ratio, arm.kind, seed, f"ledger/{arm.name}"))
        return encoders

    def weights(self, encoder: EncoderSettings, owner: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings with the weights' sha256 instead of their path, and the role `weights` of links to their files."""
        settings, links = encoder.hashed(), given_files(encoder)
        if not links:
            return settings, {}
        settings["weights"] = f"sha256:{sources.files_digest(links, 'weights')}"
        return settings, {
            "weights": self.add_given(f"weights/{owner}", "weights", {"digest": settings["weights"]}, links)
        }

    def given_encoders(self) -> list[_Encoder]:
        encoders: list[_Encoder] = []
        for number, encoder in enumerate(self.job.encoders):
            name = encoder.name.replace(":", "-").replace("/", "-")
            if any(other.name == name for other in encoders):
                name += f"-{number}"
            settings, weights = self.weights(encoder, name)
            stage = self.add(f"encoder/{name}", "encoder", {"encoder": settings, "threads": self.job.threads}, weights)
            encoders.append(_Encoder(name, stage, "0", name, 0))
        return encoders

    def transforms(self) -> list[str]:
        return list(self.job.spectrum.transforms) if self.job.spectrum else []

    def extract(self, encoder: _Encoder) -> None:
        splits = self.job.extracted_splits()
        self.extract_from(encoder, encoder.name, self.shards[splits[0]], splits, "all")

    def extract_from(self, encoder: _Encoder, name: str, shards: str, splits: Sequence[str], group: str) -> None:
        chosen = (self.job.extract or ExtractSettings()).hashed()
        settings = {
            "extract": {**chosen, "splits": list(splits)},
            "transforms": self.transforms(),
            "threads": self.job.threads,
        }
        self.add(f"extract/{name}", "extract", settings, {"shards": shards, "encoder": encoder.stage}, group)

    def on_tasks(self, encoders: Sequence[_Encoder]) -> None:
        """Every task's shards, and for every encoder features, spectra and heads of it."""
        tasks = open_tasks(self.job.tasks, self.job.run)
        groups = sharing(tasks)
        for task in tasks:
            name = task.settings.name
            self.tasks[name] = task
            shards = self.add_given(f"shards/task/{name}", "shards", {"given": task.identity}, task.links)
            for encoder in encoders:
                place = f"{encoder.name}/{name}"
                self.extract_from(encoder, place, shards, tuple(task.links), f"task-{groups[name]}")
                self.measure_features(place, {"task": task.facts})

    def given_features(self) -> _Encoder:
        features = self.job.features
        assert features is not None
        links = sources.feature_links({split: Path(path) for split, path in features.paths().items()})
        digests = {name: sources.file_digest(path, "features") for name, path in links.items()}
        source = self.add_given("features", "features", {"digests": digests}, links)
        settings = {"splits": list(features.paths()), "transforms": self.transforms()}
        self.add("extract/given", "extract", settings, {"features": source}, "given")
        return _Encoder("given", "", "0", features.name, 0)

    def measure(self, encoder: _Encoder) -> None:
        self.measure_features(encoder.name, {})

    def measure_features(self, name: str, task: Mapping[str, Any]) -> None:
        inputs = {"extract": f"extract/{name}"}
        if self.job.spectrum:
            classes = {"per_class": True} if self.job.spectrum.per_class else {}
            settings = {"transforms": self.transforms(), **classes, **_cut(task)}
            self.add(f"spectrum/{name}", "spectrum", settings, inputs, "all")
        if self.job.heads:
            settings = {"heads": self.job.heads.hashed(), "threads": self.job.threads, **task}
            self.add(f"heads/{name}", "heads", settings, inputs, "all")

    def report(self, encoders: Sequence[_Encoder]) -> None:
        arms = [(encoder, roles) for encoder in encoders if (roles := self.shown(encoder))]
        tasks = {name: self.on_task(name, encoders) for name in self.tasks}
        if not arms and not any(tasks.values()):
            return
        shown = [roles for one in (arms, *tasks.values()) for _, roles in one]
        inputs = {name: name for roles in shown for name in roles.values()}
        inputs |= {name: name for name in (*self.shards.values(), *(f"shards/task/{name}" for name in tasks))}
        settings = {
            "name": self.job.name,
            "title": self.job.title or self.job.name,
            "arms": _arms(arms),
            "data": dict(self.shards),
        }
        if tasks:
            settings["tasks"] = [
                {**_account(self.tasks[name].settings), "shards": f"shards/task/{name}", "arms": _arms(found)}
                for name, found in tasks.items()
            ]
        self.add("report", "report", settings, inputs)

    def on_task(self, task: str, encoders: Sequence[_Encoder]) -> "list[tuple[_Encoder, dict[str, str]]]":
        """The encoders that were measured on a task, with the stages that the report shows of them."""
        found = []
        for encoder in encoders:
            roles = {kind: f"{kind}/{encoder.name}/{task}" for kind in ("spectrum", "heads")}
            roles = {kind: name for kind, name in roles.items() if name in self.names}
            if roles:
                found.append((encoder, {**({"ledger": encoder.ledger} if encoder.ledger else {}), **roles}))
        return found

    def shown(self, encoder: _Encoder) -> dict[str, str]:
        """The stages that the report shows of an encoder, by role; none where there is only a ledger."""
        roles = {kind: f"{kind}/{encoder.name}" for kind in ("pretrain", "spectrum", "heads")}
        roles = {kind: name for kind, name in roles.items() if name in self.names}
        return {"ledger": encoder.ledger, **roles} if roles and encoder.ledger else roles


def _cut(task: Mapping[str, Any]) -> dict[str, Any]:
    """What spectra are told of a task: how its sets are cut from train, where they are."""
    facts = task.get("task", {})
    return (
        {"task": {name: facts[name] for name in ("cuts", "seed", "values") if name in facts}} if "cuts" in facts else {}
    )


def _arms(shown: Sequence[tuple[_Encoder, dict[str, str]]]) -> list[dict[str, Any]]:
    return [
        {"ratio": encoder.ratio, "kind": encoder.kind, "seed": encoder.seed, "roles": roles} for encoder, roles in shown
    ]


def _account(task: TaskSettings) -> dict[str, Any]:
    """What the report says of a task."""
    return {
        "name": task.name,
        "title": task.title or task.name,
        "metric": task.metric,
        "chance": task.chance,
        "counts_for": list(task.counts_for()),
        "ood": list(task.ood),
    }
