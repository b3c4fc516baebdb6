"""`nml-ray schema`: the settings as JSON Schema."""

import json
from typing import Annotated, Any

import click


@click.command()
@click.argument("what", type=click.Choice(["job", "cluster", "task"]))
def schema(what: str) -> None:
    """Print the JSON Schema of a job file, of a cluster file of any kind, or of a task file.

    Editors complete and check YAML by it.

    \b
    Examples:
      nml-ray schema job > job.schema.json
      nml-ray schema cluster > cluster.schema.json
      nml-ray schema task > task.schema.json
    """
    made = {"job": job_schema, "cluster": cluster_schema, "task": task_schema}[what]()
    click.echo(json.dumps(made, indent=1))


def job_schema() -> dict[str, Any]:
    """Of a job file."""
    from nml_ray.study.job import Job

    return Job.model_json_schema()


def cluster_schema() -> dict[str, Any]:
    """Of a cluster file; which keys there are depends on its kind."""
    from pydantic import Field, TypeAdapter

    from nml_ray.cluster.config import AnyCluster

    kinds: TypeAdapter[AnyCluster] = TypeAdapter(Annotated[AnyCluster, Field(discriminator="kind")])
    return {"title": "Cluster", **kinds.json_schema()}


def task_schema() -> dict[str, Any]:
    """Of a task file."""
    from nml_ray.tasks.config import TaskSettings

    return TaskSettings.model_json_schema()
