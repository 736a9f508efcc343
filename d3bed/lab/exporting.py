"""The `d3bed export` command: a user's network becomes one file that any board runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError

__all__ = ["exporting"]

exporting = typer.Typer()
console = Console()
errors = Console(stderr=True)


@exporting.command("export")
def export_network(
    model: Annotated[str, typer.Argument(help="package.module:factory, a .pt2 file, or a zoo name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    weights: Annotated[
        str | None, typer.Option(help="random:SEED, pretrained or a .safetensors file; default: its own.")
    ] = None,
    input: Annotated[str | None, typer.Option(help="Its input size, as 3x224x224.")] = None,
) -> None:
    """Write a network of yours, with its weights, to one file that boards run without its code.

    Once, where its code and torch are. With --model FILE the server sends it to the boards that need it.
    Nothing in the file is code.
    """
    from d3bed.config import check_model, check_weights, input_size
    from d3bed.core.messages import ModelSpec
    from d3bed.model import write_file

    check_model(model, "MODEL", "")
    if weights is not None:
        check_weights(weights, "--weights", "")
    if output.suffix != ".safetensors" or not output.resolve().parent.is_dir():
        remedy = "name a .safetensors file in a folder that is there"
        raise ConfigError("--output", "", f"{output} is no place for it", remedy)
    own = "pretrained" if ":" in model else ModelSpec(model).weights
    content, graph = write_file(ModelSpec(model, weights or own, input_size(input, "--input", "")))
    try:
        output.write_bytes(content)
    except OSError as error:
        raise ConfigError("--output", "", f"{output}: {error.strerror}", "choose another file") from error
    size = "x".join(map(str, graph.vertices[0].outputs[0].shape[1:]))
    gigaflops = sum(vertex.flops for vertex in graph.vertices) * 1e-9
    console.print(
        f"{output}: {len(graph.vertices)} vertices, {gigaflops:.3g} GFLOPs for {size}, "
        f"{len(content) * 1e-6:.3g} MB",
        highlight=False,
        soft_wrap=True,
    )
    errors.print(f"try it: d3bed demo --model {output}", style="dim", highlight=False, soft_wrap=True)
