"""The options that several verbs of the command have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

MODEL = "A bundled name, zoo:NAME, constructed:NAME, a folder or a hub id."

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=MODEL,
        metavar="NAME|PATH|HUB_ID",
    ),
]
TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder or hub id of the tokenizer, if the model's folder has none.")
]
DtypeOption = Annotated[
    Literal["float32", "float64", "bfloat16", "float16"], typer.Option(help="Precision to run the model in.")
]
DeviceOption = Annotated[str, typer.Option(help="Device to run the model on, such as cpu or cuda.")]
SizeOption = Annotated[
    int | None,
    typer.Option("--image-size", help="For a released picture model: the side of its pictures in pixels.", metavar="N"),
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")]
AsTextOption = Annotated[
    bool, typer.Option("--text", help="Treat the argument as a text, even if it looks like a path.")
]
FormerOption = Annotated[str | None, typer.Option(hidden=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
