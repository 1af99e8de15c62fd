"""`ranksieve compare`: what a user would pick instead of a pruned model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ranksieve.api.cli.errors import only_json
from ranksieve.api.cli.options import AsJson, DataDir, Roots, SpecFile, parts_of
from ranksieve.api.cli.output.terminal import echo_json, log_beside, stdout
from ranksieve.api.cli.spec_file import load_spec
from ranksieve.workers.types.metrics import drop_unit

app = typer.Typer()


@app.command()
def compare(
    ctx: typer.Context,
    spec: SpecFile,
    chart: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Chart to write: .svg, .png or .pdf."),
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this one beside the dense model: tfidf, probe, first-blocks, few-shot, 8-bit, 4-bit or lora. "
            "May be given several times.",
            show_default="all",
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Fit and score what you could use instead, with the job's own records."""
    from ranksieve.api.http.settings import local_settings
    from ranksieve.api.plots.files import check_file, save

    with only_json(as_json):
        console = Console(stderr=True)
        log_beside(console)
        if chart is not None:
            check_file(chart)
        settings = local_settings(data_dir, *(root or ()), spec.resolve().parent)
        job = load_spec(spec, settings.roots)
        values = parts_of(ctx).compare(settings, job, rival or (), lambda line: typer.echo(line, err=True))
        if chart is not None:
            from ranksieve.api.plots.rivals import comparison_figure

            save(comparison_figure(values), chart)
    if as_json:
        echo_json(values)
    else:
        stdout().print(comparison_table(values))


def comparison_table(values: Mapping[str, Any]) -> Table:
    """Build the table of the rivals, the smallest first.

    Args:
        values: See `service.pipeline.compare.compare_rivals`.
    """
    metric = values["metric_name"]
    table = Table(
        "", title=f"{values['examples']:,} test records", caption=_caption(values), caption_justify="left"
    )
    for column in ("MB", "tokens/s", "x dense", metric, f"drop, {drop_unit(metric)}"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in sorted(values["rivals"], key=lambda one: one["file_bytes"]):
        estimate, low, high = one["drop_points"]
        interval = "" if one["interval"] is None else " [{:.3f}, {:.3f}]".format(*one["interval"])
        table.add_row(
            one["name"],
            f"{one['file_bytes'] / 1e6:,.1f}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['speedup']:.2f}",
            f"{one['metric']:.3f}{interval}",
            "" if one["name"] == values["reference"] else f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]",
        )
    return table


def _caption(values: Mapping[str, Any]) -> str:
    allowed = f"at most {values['points']:g} {drop_unit(values['metric_name'])} (95 %)"
    verdict = (
        f"none smaller than it is sure to lose {allowed}"
        if values["enough"] is None
        else f"the smallest that loses {allowed}: {values['enough']}; you may not need a pruned model"
    )
    return "\n".join(
        [
            f"drops from: {values['reference']}; in brackets 95 % intervals",
            verdict,
            *(f"left out: {one['kind']}, {one['reason']}" for one in values["skipped"]),
        ]
    )
