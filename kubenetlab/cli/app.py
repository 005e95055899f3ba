"""All commands, in the order in which help shows them. Each lives in the file of its group."""

from __future__ import annotations

import typer

from kubenetlab import __version__
from kubenetlab.cli import check, completion, doctor, explain, get, inspect, labs, modes, ping, port_forward, rollout, schema, work

LIFE, LOOK, ACT, MACHINE = "A lab's life", "Look", "Act", "This machine, and what can be chosen"

app = typer.Typer(
    help="Kubernetes' whole networking model on one Linux machine, made of real kernel objects. Begin with: kubenetlab up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="`--debug` before or behind any command shows where an error comes from.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kubenetlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("up", rich_help_panel=LIFE)(labs.up)
app.command("apply", rich_help_panel=LIFE)(labs.apply)
app.command("delete", rich_help_panel=LIFE)(labs.delete)
app.command("down", rich_help_panel=LIFE)(labs.down)
app.command("plan", rich_help_panel=LIFE)(labs.plan)
app.command("list", rich_help_panel=LIFE)(labs.list_)
app.command("get", rich_help_panel=LOOK)(get.get)
app.command("describe", rich_help_panel=LOOK)(get.describe)
app.command("ping", rich_help_panel=LOOK)(ping.ping)
app.command("check", rich_help_panel=LOOK)(check.check)
app.command("logs", rich_help_panel=LOOK)(work.logs)
app.command("inspect", rich_help_panel=LOOK)(inspect.inspect)
app.command("diff", rich_help_panel=LOOK)(inspect.diff)
app.command("exec", rich_help_panel=ACT)(work.exec_)
app.command("shell", rich_help_panel=ACT)(work.shell)
app.command("port-forward", rich_help_panel=ACT)(port_forward.port_forward)
app.command("scale", rich_help_panel=ACT)(work.scale)
app.add_typer(rollout.app, name="rollout", rich_help_panel=ACT)
app.command("modes", rich_help_panel=MACHINE)(modes.modes)
app.command("explain", rich_help_panel=MACHINE)(explain.explain)
app.command("schema", rich_help_panel=MACHINE)(schema.schema)
app.command("completion", rich_help_panel=MACHINE)(completion.completion)
app.command("doctor", rich_help_panel=MACHINE)(doctor.doctor)
