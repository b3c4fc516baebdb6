"""The `nml-ray` command. Commands are imported when they are named, and import what they need when they run."""

import importlib
import sys
from collections.abc import Mapping

import click

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.config.terminal import plain

COMMANDS: Mapping[str, str] = {
    "run": "nml_ray.cli.run:run",
    "plan": "nml_ray.cli.plan:plan",
    "submit": "nml_ray.cli.submit:submit",
    "list": "nml_ray.cli.submissions:list_submissions",
    "status": "nml_ray.cli.submissions:status",
    "logs": "nml_ray.cli.submissions:logs",
    "stop": "nml_ray.cli.submissions:stop",
    "cluster": "nml_ray.cli.cluster:cluster",
    "report": "nml_ray.cli.report:report",
    "audit": "nml_ray.cli.audit:audit",
    "doctor": "nml_ray.cli.doctor:doctor",
    "tasks": "nml_ray.cli.tasks:tasks",
    "gc": "nml_ray.cli.gc:gc",
    "ledger": "nml_ray.cli.ledger:ledger",
    "data": "nml_ray.cli.data:data",
    "features": "nml_ray.cli.features:features",
    "schema": "nml_ray.cli.schema:schema",
    "init": "nml_ray.cli.init:init",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            names = ", ".join(COMMANDS)
            raise UserError(
                f"no command '{cmd_name}'", expected=f"one of {names}", nearest=nearest_name(cmd_name, COMMANDS)
            )
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the work failed, 2 the input is wrong.",
)
@click.version_option(package_name="nml_ray", prog_name="nml-ray")
def cli() -> None:
    """Noisy Model Learning on Ray: pre-train under label noise, measure what it did, repair it with NMTune.

    \b
    Examples:
      nml-ray run demo                        the whole study on the icons that ship with it
      nml-ray plan demo                       what that would do
      nml-ray run my.yaml --set pretrain.epochs=20 --until extract
      nml-ray submit my.yaml --cluster lab.yaml --follow
      nml-ray init study                      copies of all job files to start from
    """


def main() -> None:
    """Run the command line and exit: mistakes of the user's are one message on standard error and code 2."""
    sys.exit(call())


def call(arguments: list[str] | None = None) -> int:
    """The exit code of a command line."""
    goes_on = (sys.argv[1:] if arguments is None else arguments)[:1] == ["run"]
    try:
        result = cli.main(arguments, prog_name="nml-ray", standalone_mode=False)
    except UserError as error:
        click.echo(f"nml-ray: {plain(str(error))}", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        kept = "; what was finished is kept, the same command goes on from there" if goes_on else ""
        click.echo(f"nml-ray: stopped{kept}", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0
