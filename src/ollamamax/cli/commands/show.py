"""`ollamamax show`."""

import sys
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="The model.")],
    license: Annotated[bool, typer.Option("--license", help="Only its license.")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Only its Modelfile.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only its parameters.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only its prompt template.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only its system message.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also metadata and tensors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answer.")] = False,
) -> None:
    """Show what a model is: size, abilities, parameters, texts.

    \b
    Examples:
      ollamamax show tiny
      ollamamax show tiny --modelfile > Modelfile
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.describe import describe, part
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json
    from ollamamax.cli.talk import look_up

    asked = {
        "license": license,
        "modelfile": modelfile,
        "parameters": parameters,
        "system": system,
        "template": template,
    }
    wanted = [name for name, is_wanted in asked.items() if is_wanted]
    if len(wanted) > 1:
        raise CliError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be given"
        )
    with connect() as client:
        info = look_up(client, model, verbose=verbose)
    if as_json:
        print_json(info)
    elif wanted:
        sys.stdout.write(part(info, wanted[0]) + "\n")
    else:
        sys.stdout.write(describe(info, verbose=verbose))
