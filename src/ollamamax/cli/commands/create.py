"""`ollamamax create`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Name of the new model.")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The Modelfile. [Modelfile, else FROM .]", metavar="FILE")
    ] = None,
    quantize: Annotated[
        str, typer.Option("--quantize", "-q", help="Quantise to this type: q8_0, q4_K_M, q4_K_S.")
    ] = "",
    nodes: Annotated[
        str, typer.Option("--nodes", help="Then there, too: all, how many, or labels.", metavar="all|N|KEY=VALUE,...")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON when it is done, and no progress.")] = False,
) -> None:
    """Make a model from a Modelfile: from GGUF files, a directory of safetensors, or another model.

    \b
    A Modelfile, next to llama.gguf:
      FROM ./llama.gguf
      SYSTEM You answer in one sentence.
      PARAMETER temperature 0.2

    \b
    Examples:
      ollamamax create mine
      ollamamax create mine -f path/to/Modelfile
      ollamamax create mine -q q4_K_M
    """
    from ollamamax.cli.building import create, read_plan
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json
    from ollamamax.cli.progress import ProgressView
    from ollamamax.cli.transferring import spread

    plan = read_plan(file)
    for warning in plan.modelfile.warnings:
        sys.stderr.write(f"Warning: {warning}\n")
    with connect() as client:
        with ProgressView(quiet=as_json) as view:
            done = create(client, model, plan, quantize=quantize, view=view)
        if nodes:
            spread(client, model, nodes, quiet=as_json)
    if as_json:
        print_json(done | {"model": model})
