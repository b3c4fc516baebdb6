"""`nml-ray ledger`: which labels a job makes wrong."""

import json

import click

from nml_ray.cli.options import job_options, open_job
from nml_ray.config.errors import UserError


@click.command()
@job_options
def ledger(job: str, assignments: tuple[str, ...], storage: str | None) -> int:
    """Write which labels each arm makes wrong.

    Writes one Parquet file an arm (key, clean, given, selected, draw) and says what came of each ratio.

    \b
    Examples:
      nml-ray ledger demo
      nml-ray ledger my.yaml --set noise.ratios=[0.05,0.1]
    """
    from nml_ray.cli.run import tell
    from nml_ray.study.execute import execute
    from nml_ray.study.progress import display

    settings = open_job(job, assignments, storage)
    if settings.noise is None and settings.pretrain is None:
        raise UserError("the job has no noise", where=job, expected="a section 'noise'")
    done = execute(settings, display(), target="ledger", inline=True)
    if done.outcome.failures:
        return tell(done)
    for name, artifact in done.outcome.artifacts.items():
        if name.startswith("ledger/"):
            facts = json.loads((artifact.path / "summary.json").read_text())
            click.echo(
                f"{name.removeprefix('ledger/')}: {facts['changed']:,} of {facts['samples']:,} labels changed "
                f"({facts['realised']:.4%})  {artifact.path / 'ledger.parquet'}"
            )
            for warning in facts["warnings"]:
                click.echo(f"  {warning}", err=True)
    return 0
