"""`nml-ray schema`: the settings as JSON Schema."""

import json

import click


@click.command()
@click.argument("what", type=click.Choice(["job"]))
def schema(what: str) -> None:
    """Print the JSON Schema of a job file.

    Editors complete and check YAML by it.

    \b
    Examples:
      nml-ray schema job > job.schema.json
    """
    from nml_ray.study.job import Job

    click.echo(json.dumps(Job.model_json_schema(), indent=1))
