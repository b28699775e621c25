"""`dagmill schema`: the JSON Schema of workflow files, made from the models that read them.

Writes text. One rule: what it prints is what this version accepts, so an editor that uses it says
nothing else than `dagmill validate`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to this file instead.",
)
def schema(output: Path | None) -> None:
    """Print the JSON Schema of workflow files.

    An editor checks a file that begins with the line
    `# yaml-language-server: $schema=FILE` against it.
    """
    from runner.language import schema as language_schema

    text = json.dumps(language_schema.schema(), indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {output}; an editor uses it in a file that begins with")
    click.echo(f"  # yaml-language-server: $schema={output}")
