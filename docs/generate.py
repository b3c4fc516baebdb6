"""Writes docs/reference/ from the typed settings and the commands: `make docs`.

A test compares what is there with what this would write, so the pages are never older than the code.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

REFERENCE = Path(__file__).parent / "reference"
Schema = Mapping[str, Any]

JOB = """# The job file

Every setting of a job file, with its type and default. [The tutorial](../tutorial.md) shows them at work, the files in
[jobs/](../../jobs) are examples to start from, and [job.schema.json](job.schema.json) lets an editor complete and check
them. A setting that does not exist, or has another type, is refused with its file and line.
"""
CLUSTER = """# The cluster file

Every setting of a cluster file, kind by kind. The files in [cluster/](../../cluster) are examples to copy, and
[cluster.schema.json](cluster.schema.json) lets an editor complete and check them. A cluster file is code, not data: its
lines run as you, here and on the cluster (see [what is trusted](../trust.md)).
"""
COMMANDS = """# The commands

Every command with its options, as `nml-ray COMMAND --help` says it. Exit codes: 0 done, 1 the work failed, 2 your input
is wrong, 130 stopped or let go of.
"""
HEADS = """
## Fields of heads

What `fixed` and `search` of an entry of `heads.sweep` may name, by head. Defaults are those of `preset: paper`;
[nml_ray/heads/config.py](../../nml_ray/heads/config.py) has those of `official`.
"""
TASK = """# The task file

Every setting of a task file: a downstream task that a job names in `tasks`, by path or, of those that ship with the
package, by name. The files in [nml_ray/tasks/files/](../../nml_ray/tasks/files) are examples to copy,
[own data](../how-to/own_data.md#downstream-tasks) says how one is used, and [task.schema.json](task.schema.json) lets
an editor complete and check them.

A task of one set of images, of which a fifth is kept to test on and a tenth of the rest to choose settings by:

```yaml
name: flowers
train: flowers/all        # a directory of indexed tars below run.task_data
test: {cut: 0.2}
validation: {cut: 0.1}
```
"""
FEATURES = """
## Files of features

What a file named in [`features`](#features) holds, by its extension; `nml-ray features import` reads the same. N
samples of D numbers each; no file may hold NaN or infinity, and rows of `train` may not be in `test` or `ood`.

| file | what it holds |
|---|---|
| .arrow, .feather, .parquet | a table of N rows with the columns `label`, `features` (a list of D numbers) and best \
`key` (text, each once) too; `view` (whole numbers from 0), where a key has several |
| .csv, .tsv | a heading; the columns `label`, perhaps `key`, and D columns of numbers under any names |
| .npz | the arrays `features` [N, D] and `labels` [N] |
| .npy | an array [N, D]; the labels [N] lie beside NAME.npy in NAME.labels.npy |

Labels are whole numbers from 0, or names, which are numbered in the order of the sorted names of all splits. Samples
without keys are known by their row, so the order of rows then matters as a seed does.
"""
NOTE = "\nThis page is written by `make docs`.\n"


def pages() -> dict[str, str]:
    """The content of every file of the reference, by name."""
    from nml_ray.cli.schema import cluster_schema, job_schema, task_schema

    job, cluster, task = job_schema(), cluster_schema(), task_schema()
    return {
        "job.md": JOB + NOTE + "".join(_job(job)),
        "cluster.md": CLUSTER + NOTE + "".join(_cluster(cluster)),
        "task.md": TASK + NOTE + "".join(_models("The task", task)),
        "commands.md": COMMANDS + NOTE + "".join(_commands()),
        "job.schema.json": _json(job),
        "cluster.schema.json": _json(cluster),
        "task.schema.json": _json(task),
    }


def _json(schema: Schema) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _job(schema: Schema) -> Iterator[str]:
    yield from _models("The job", schema)
    yield from _heads()
    yield FEATURES


def _models(title: str, schema: Schema) -> Iterator[str]:
    """A section for a model, and one for each that stands in it."""
    yield from _section(title, schema, places := _places(schema["$defs"], schema, ""))
    for name, paths in places.items():
        model = _model(schema["$defs"][name])
        yield from _section(f"`{paths[0]}`", model, places, _also(paths))


def _also(paths: list[str]) -> str:
    return f"\nThe same settings stand at {', '.join(f'`{path}`' for path in paths[1:])}.\n" if paths[1:] else ""


def _heads() -> Iterator[str]:
    from nml_ray.heads.config import KINDS

    yield HEADS
    for name, model in KINDS.items():
        schema = model.model_json_schema()
        own = {key: value for key, value in schema["properties"].items() if key not in ("head", "preset")}
        schema = {**schema, "properties": own}
        yield from _section(f"Head `{name}`", schema, {}, level=3)


def _cluster(schema: Schema) -> Iterator[str]:
    from nml_ray.cluster.config import KINDS, ClusterSettings

    kinds = {kind: schema["$defs"][model.__name__] for kind, model in KINDS.items()}
    places = {name: paths for model in kinds.values() for name, paths in _places(schema["$defs"], model, "").items()}
    common = ClusterSettings.model_json_schema()
    yield from _section("All kinds", common, places)
    for name, paths in places.items():
        if name not in common.get("$defs", {}):
            continue
        yield from _section(f"`{paths[0]}`", _model(schema["$defs"][name]), places, level=3)
    for kind, model in kinds.items():
        own = {key: value for key, value in model["properties"].items() if key not in common["properties"]}
        yield from _section(f"`kind: {kind}`", {**model, "properties": own}, places)
        for name, paths in _places(schema["$defs"], {"properties": own}, "").items():
            yield from _section(f"`{paths[0]}`", _model(schema["$defs"][name]), places, _also(paths), level=3)


def _places(defs: Schema, schema: Schema, path: str) -> dict[str, list[str]]:
    """Where each model stands below a schema, by dotted path, in the order in which one reads."""
    found: dict[str, list[str]] = {}
    for name, value in schema.get("properties", {}).items():
        refs = list(_refs(value))
        for ref, suffix in refs:
            kind = _model(defs[ref])["properties"].get("kind", {}).get("const")
            here = f"{path}{name}{suffix}"
            one = f"{here}, kind: {kind}" if kind else f"{here}, {_words(ref)}" if len(refs) > 1 else here
            found.setdefault(ref, []).append(one)
            for inner, paths in _places(defs, _model(defs[ref]), f"{here}.").items():
                found.setdefault(inner, []).extend(paths)
    return found


def _refs(value: Schema, suffix: str = "") -> Iterator[tuple[str, str]]:
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], suffix
    for part in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _refs(part, suffix)
    if isinstance(items := value.get("items"), Mapping):
        yield from _refs(items, f"{suffix}[]")
    if isinstance(rest := value.get("additionalProperties"), Mapping):
        yield from _refs(rest, f"{suffix}.NAME")


def _words(name: str) -> str:
    """The name of a class as words: "shard set" for ShardSet."""
    return re.sub(r"(?<=.)(?=[A-Z])", " ", name).lower()


def _model(schema: Schema) -> Schema:
    """Of a model that has a short form too, the long one."""
    whole: Schema = schema["anyOf"][0] if "anyOf" in schema else schema
    return whole


def _section(
    title: str, schema: Schema, places: Mapping[str, list[str]], also: str = "", level: int = 2
) -> Iterator[str]:
    yield f"\n{'#' * level} {title}\n\n{_text(schema.get('description', ''))}\n{also}\n"
    yield "| setting | type | default | meaning |\n|---|---|---|---|\n"
    needed = schema.get("required", ())
    for name, value in schema["properties"].items():
        default = "required" if name in needed else _default(value)
        cells = (f"`{name}`", _type(value, places), default, _text(value.get("description", "")))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _text(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _default(value: Schema) -> str:
    default = value.get("default")
    if default in (None, "", [], {}) or (isinstance(default, dict) and any(_refs(value))):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type(value: Schema, places: Mapping[str, list[str]]) -> str:
    if "$ref" in value:
        title = f"`{places[value['$ref'].rpartition('/')[2]][0]}`"
        return f"[{title}](#{anchor(title)})"
    if parts := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(part, places) for part in parts if part.get("type") != "null"))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    kind = value.get("type")
    if kind == "array":
        if "prefixItems" in value:
            return f"[{', '.join(_type(one, places) for one in value['prefixItems'])}]"
        return f"list of {_type(value.get('items', {}), places)}"
    if kind == "object":
        rest = value.get("additionalProperties")
        return f"map to {_type(rest, places)}" if isinstance(rest, Mapping) else "map"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return words.get(str(kind), "anything") + _bounds(value)


def _bounds(value: Schema) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    found = [f"{sign} {_number(value[name])}" for name, sign in signs if name in value]
    return f" {', '.join(found)}" if found else ""


def _number(value: float) -> str:
    return "2^64" if value == 2**64 else f"{value:g}"


def anchor(title: str) -> str:
    """What a heading is linked by, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _commands() -> Iterator[str]:
    for words, command in commands():
        name = " ".join(("nml-ray", *words))
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"\n## {name}\n\n    {name} {usage}\n\n{_prose(command.help or '')}\n"
        options = [row for param in command.params if (row := param.get_help_record(context)) and row[1]]
        if options:
            yield "\n| option | meaning |\n|---|---|\n"
            for option, meaning in options:
                yield f"| `{option}` | {_text(meaning)} |\n".replace("[default: ", "[default ")


def commands() -> list[tuple[tuple[str, ...], click.Command]]:
    """All commands with their words, groups before what is in them."""
    from nml_ray.cli.main import cli

    def below(words: tuple[str, ...], group: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield (*words, name), command
            if isinstance(command, click.Group):
                yield from below((*words, name), command)

    return list(below((), cli))


def _prose(text: str) -> str:
    """The text of a help: paragraphs, and blocks as they stand after click's mark for them."""
    parts = []
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            head, *lines = part.removeprefix("\b\n").splitlines()
            parts.append("\n".join([head, "", *(f"    {line.strip()}" for line in lines)]))
        else:
            parts.append(_text(part))
    return "\n\n".join(parts)


def main() -> None:
    """Write all files; remove those that are no longer written."""
    REFERENCE.mkdir(exist_ok=True)
    written = pages()
    for old in REFERENCE.iterdir():
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    print(f"{len(written)} files in {REFERENCE}", file=sys.stderr)


if __name__ == "__main__":
    main()
