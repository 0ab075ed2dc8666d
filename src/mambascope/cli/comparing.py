"""The options of `mambascope compare`, which compares texts or pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mambascope.cli.options import (
    AsTextOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    SizeOption,
    TokenizerOption,
    TrustOption,
)


def compare(
    text: Annotated[
        str,
        typer.Argument(
            help="What the models read: a text (`-` for standard input) or a picture file.", metavar="TEXT|PICTURE"
        ),
    ],
    models: Annotated[str, typer.Option(help="Bundled names, zoo:NAME, folders or hub ids, separated by commas.")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="The methods, separated by commas; default for texts: those that explain predictions best; for "
            "pictures: raw attention, rollout, attribution, relevance."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The token (or class) to explain; default: each model's likeliest.", metavar="TOKEN"),
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="A token (or class) to contrast the target with.", metavar="TOKEN")
    ] = None,
    position: Annotated[
        int | None, typer.Option(help="The position to explain, from 0; negative numbers count from the end.")
    ] = None,
    other: Annotated[
        str | None, typer.Option(help="Another text, to be aligned with the first: what changed?", metavar="TEXT")
    ] = None,
    patch_in: Annotated[
        Literal["stream", "mixer", "state"] | None,
        typer.Option(
            help="With --other: the part of the first text's run to put into the other's, by layer and position."
        ),
    ] = None,
    patch: Annotated[
        str | None, typer.Option(help="For pictures: the patch to explain, from 0.", metavar="ROW,COLUMN")
    ] = None,
    image: Annotated[bool, typer.Option("--image", help="Treat the argument as a picture file, whatever it is.")] = (
        False
    ),
    as_text: AsTextOption = False,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Read the picture at its own size, without resizing.")
    ] = False,
    json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write a .html, .png, .pdf, .svg or .json file.", metavar="FILE")
    ] = None,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show what models drew from by several methods, in one text or picture, or in two texts that differ."""
    from mambascope.cli import comparing_pictures, comparing_texts, loading, pictures_asked

    def load(name: str, size: int | None) -> Any:
        return loading.load(name, tokenizer, dtype, device, trust_remote_code, size)

    if pictures_asked.is_asked(text, image, as_text, patch=patch, stage=None, keep_size=keep_size, verb="compare"):
        pictures_asked.check_alone(position=position, other=other, patch_in=patch_in, tokenizer=tokenizer)
        comparing_pictures.compare(
            text,
            load,
            models=models,
            image_size=image_size,
            methods=methods,
            target=target,
            foil=foil,
            patch=patch,
            keep_size=keep_size,
            as_json=json,
            out=out,
        )
        return
    comparing_texts.compare(
        text,
        lambda name: load(name, image_size),
        other=other,
        models=models,
        methods=methods,
        target=target,
        foil=foil,
        position=position,
        patch_in=patch_in,
        as_json=json,
        out=out,
    )
