"""`nml-ray tasks`: the downstream tasks that ship with the package, and how their shards are made."""

import click

from nml_ray.config.errors import UserError


@click.group()
def tasks() -> None:
    """Downstream tasks: which there are, what they hold, how their shards are made.

    \b
    Examples:
      nml-ray tasks list
      nml-ray tasks show dtd
      nml-ray tasks shard dtd --downloads /data
    """


@tasks.command("list")
def list_tasks() -> None:
    """List the tasks that ship with the package.

    \b
    Examples:
      nml-ray tasks list
    """
    from nml_ray.tasks.find import find_task, shipped

    found = [find_task(name) for name in shipped()]
    width = max(len(task.name) for task in found)
    for task in found:
        other = f", {len(task.ood)} other domain{'s' * (len(task.ood) != 1)}" if task.ood else ""
        click.echo(f"{task.name.ljust(width)}  {task.title}: {task.metric.replace('_', ' ')}{other}")


@tasks.command()
@click.argument("task", metavar="TASK")
@click.option("--downloads", metavar="DIR", default="DOWNLOADS", help="Where the sets lie as they are distributed.")
@click.option("--task-data", metavar="DIR", default="task_data", show_default=True, help="Where the shards go.")
def show(task: str, downloads: str, task_data: str) -> None:
    """Say what TASK is, a name or a task file, and print the commands that make its shards.

    \b
    Examples:
      nml-ray tasks show cifar10
      nml-ray tasks show imagenet --downloads /data --task-data /shards
    """
    from nml_ray.tasks.command import shard_command
    from nml_ray.tasks.find import find_task

    found = find_task(task)
    click.echo(f"{found.title or found.name}. {found.about}".strip())
    chance = "" if found.chance is None else f"; a guess has {found.chance:g}"
    click.echo(f"metric: {found.metric}{chance}")
    for split, how in found.cuts().items():
        words = (
            f"{how['share']} of train" if "share" in how else f"all but {how['keep']} samples of each class of train"
        )
        click.echo(f"{split}: {words}, drawn by key")
    for split, one in found.sets().items():
        command = shard_command(found, split, downloads=downloads, task_data=task_data)
        click.echo(f"{split}: {command or one.shards}")
        if one.make and one.make.note:
            click.echo(f"  first: {one.make.note}")


@tasks.command()
@click.argument("task", metavar="TASK")
@click.option("--downloads", metavar="DIR", required=True, help="Where the sets lie as they are distributed.")
@click.option("--task-data", metavar="DIR", default="task_data", show_default=True, help="Where the shards go.")
@click.argument("more", metavar="[OPTION OF DATA SHARD]...", nargs=-1, type=click.UNPROCESSED)
def shard(task: str, downloads: str, task_data: str, more: tuple[str, ...]) -> None:
    """Make the shards of all sets of TASK, one after another; what is finished is kept.

    Options after `--` go to every `nml-ray data shard`.

    \b
    Examples:
      nml-ray tasks shard dtd --downloads /data
      nml-ray tasks shard dtd --downloads /data -- --workers 4 --short-side 256 --quality 90
    """
    from nml_ray.cli.data_shard import shard as data_shard
    from nml_ray.tasks.command import shard_arguments
    from nml_ray.tasks.find import beside, find_task

    found = find_task(task)
    for split, one in found.sets().items():
        if one.make is None:
            raise UserError(f"does not say how its {split} set is made", where=f"task {found.name}", expected="`make`")
    for split, one in found.sets().items():
        assert one.make is not None
        click.echo(f"{split}: {one.shards}")
        arguments = [*shard_arguments(one.make, beside(one.shards, task_data), downloads), *more]
        data_shard.main(arguments, prog_name="nml-ray data shard", standalone_mode=False)
