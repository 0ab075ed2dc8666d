"""The command's verbs and options. Heavy imports wait until a verb needs them, so that listing things is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mambascope import __version__
from mambascope.cli.comparing import compare
from mambascope.cli.options import (
    MODEL,
    AsTextOption,
    DeviceOption,
    DtypeOption,
    FormerOption,
    JsonOption,
    ModelOption,
    SizeOption,
    TokenizerOption,
    TrustOption,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"mambascope {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """See what a Mamba model looked at."""


@app.command()
def explain(
    text: Annotated[
        str,
        typer.Argument(
            help="What the model reads: a text (`-` for standard input) or a picture file.", metavar="TEXT|PICTURE"
        ),
    ],
    model: ModelOption = "tiny-mamba",
    method: Annotated[
        str | None,
        typer.Option(help="How to score the sources; `mambascope methods` lists the methods and the default."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The token (or class) to explain; default: the likeliest.", metavar="TOKEN")
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="A token (or class) to contrast the target with.", metavar="TOKEN")
    ] = None,
    continuation: Annotated[
        str | None,
        typer.Option(
            help="Explain the log-probability of this text as a continuation of the argument.", metavar="TEXT"
        ),
    ] = None,
    generate: Annotated[
        int | None, typer.Option(help="Let the model generate N tokens, and explain each.", metavar="N")
    ] = None,
    layer: Annotated[
        str, typer.Option(help="The layers to score: a number, a range, or all.", metavar="N|N:N|all")
    ] = "all",
    position: Annotated[
        int | None,
        typer.Option(help="The position to explain, from 0; negative numbers count from the end; default: the last."),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Explain several positions, each by itself.", metavar="N,N|N:N|all")
    ] = None,
    patch: Annotated[
        str | None, typer.Option(help="For pictures: the patch to explain, from 0.", metavar="ROW,COLUMN")
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option(
            help="For VMamba and MambaVision: the stage to explain, from 0; default: the last (gradients: the first)."
        ),
    ] = None,
    image: Annotated[bool, typer.Option("--image", help="Treat the argument as a picture file, whatever it is.")] = (
        False
    ),
    as_text: AsTextOption = False,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Read the picture at its own size, without resizing.")
    ] = False,
    variant: Annotated[
        Literal["published", "reference-code"],
        typer.Option(help="The papers' formulas, or what their code does where it differs."),
    ] = "published",
    precision: Annotated[
        Literal["own", "bfloat16"],
        typer.Option(help="Of LaTIM's products, for all positions; what bfloat16 costs is measured."),
    ] = "own",
    words: Annotated[bool, typer.Option("--words", help="Take the tokens of each word together.")] = False,
    span: Annotated[
        list[str] | None,
        typer.Option(
            help="Take tokens together: name=12:40 (may be repeated; knockout removes each as a whole), sentences, "
            "lines or paragraphs.",
            metavar="NAME=N:N|KIND",
        ),
    ] = None,
    verify: Annotated[
        int | None,
        typer.Option(
            help="Remove the K top sources one by one, and measure what is lost; default: 8 for a page, if quick.",
            metavar="K",
        ),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Show what each head does in the page; default: if quick.")
    ] = False,
    json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write a .html, .png, .pdf, .svg, .json, .graph.json, .csv, .npz or .safetensors file.",
            metavar="FILE",
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
    compat: FormerOption = None,
    targets: FormerOption = None,
) -> None:
    """Show what a model predicts, and the tokens of a text or patches of a picture that it drew from."""
    from mambascope.cli import asked, explaining, loading, pictures_asked

    asked.refuse_former({"--compat": (compat, "--variant"), "--targets": (targets, "--positions")})
    is_picture = pictures_asked.is_asked(text, image, as_text, patch=patch, stage=stage, keep_size=keep_size)
    if is_picture:
        pictures_asked.check_alone(continuation=continuation, generate=generate, position=position, tokenizer=tokenizer)
    explaining.explain(
        text,
        lambda: loading.load(model, tokenizer, dtype, device, trust_remote_code, image_size),
        is_picture=is_picture,
        method=method,
        target=target,
        foil=foil,
        continuation=continuation,
        generate=generate,
        position=position,
        positions=positions,
        patch=patch,
        stage=stage,
        layer=layer,
        variant=variant,
        precision=precision,
        keep_size=keep_size,
        words=words,
        span=span or [],
        verify=verify,
        heads=heads,
        as_json=json,
        out=out,
    )


app.command()(compare)


@app.command()
def models() -> None:
    """List the models that come with mambascope, and those in its zoo."""
    from mambascope.cli import listing_models

    listing_models.print_models()


@app.command()
def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the documentation's page on methods.")] = False,
) -> None:
    """List the methods: what each shows, its paper, what it needs and what it costs."""
    from mambascope.cli import listing_methods

    listing_methods.print_methods(markdown=markdown)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help=MODEL, metavar="MODEL")],
    stats: Annotated[
        str | None,
        typer.Option(help="Print what each layer remembers of a text (`-`: standard input).", metavar="TEXT"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --stats: the .png, .pdf or .svg file of the figure.", metavar="FILE")
    ] = None,
    json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Print a model's family, layers and sizes, and how exactly its mixers' outputs are rebuilt on a probe."""
    from mambascope.cli import describing, loading, remembering
    from mambascope.errors import InputError

    if out is not None and stats is None:
        raise InputError("--out is the figure of --stats; pass a text with --stats")
    loaded = loading.load(model, tokenizer, dtype, device, trust_remote_code, image_size)
    if stats is not None:
        remembering.print_stats(stats, *loaded, as_json=json, out=out)
        return
    describing.print_info(model, *loaded, as_json=json)


@app.command()
def classify(
    model: Annotated[
        str | None,
        typer.Argument(help=MODEL, metavar="MODEL"),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="The reference layers of every kind, against theorem 1.")] = False,
    layer: Annotated[int | None, typer.Option(help="One layer of the model; by default all.")] = None,
    json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure how layers mix tokens: fixed, gated, or controlled by the data; of a model, or of every known kind."""
    from mambascope.cli import classifying, loading
    from mambascope.errors import InputError

    if all and model is None:
        if layer is not None:
            raise InputError("--layer names a layer of a model; --all has none")
        classifying.classify_all(as_json=json)
        return
    if all or model is None:
        raise InputError("name a model, or pass --all for the reference layers")
    loaded = loading.load(model, tokenizer, dtype, device, trust_remote_code, image_size)
    classifying.classify_model(*loaded, layer=layer, as_json=json)


@app.command()
def heads(
    model: Annotated[str, typer.Argument(help="A bundled name, zoo:NAME, a folder or a hub id.", metavar="MODEL")],
    text: Annotated[
        str | None, typer.Option(help="The text on which separators are looked for.", metavar="TEXT")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="One layer of the model; by default all.")] = None,
    json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    trust_remote_code: TrustOption = False,
) -> None:
    """Say what each head looks at: the token before, the first, the same token, what followed it, punctuation."""
    from mambascope.cli import listing_heads, loading

    loaded = loading.load(model, tokenizer, dtype, device, trust_remote_code)
    listing_heads.list_heads(*loaded, text=text, layer=layer, as_json=json)


@app.command()
def maps(
    text: Annotated[
        str,
        typer.Argument(
            help="What the model reads: a text (`-` for standard input) or a picture file.", metavar="TEXT|PICTURE"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.", metavar="FILE")],
    layer: Annotated[int, typer.Option(help="The layer's number; negative numbers count from the end.")],
    method: Annotated[
        Literal["hidden-attention", "implicit-attention"], typer.Option(help="Which matrices to write.")
    ] = "hidden-attention",
    channels: Annotated[
        str, typer.Option(help="all, mean, or numbers separated by commas.", metavar="all|mean|N,N")
    ] = "all",
    as_text: AsTextOption = False,
    model: ModelOption = "tiny-mamba",
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write one layer's matrices for a text or picture to a file, one per channel (Mamba-1) or head (Mamba-2)."""
    from mambascope.cli import loading, mapping

    mapping.write_maps(
        text,
        lambda: loading.load(model, tokenizer, dtype, device, trust_remote_code, image_size),
        as_text=as_text,
        out=out,
        layer=layer,
        method=method,
        channels=channels,
    )


@app.command()
def evaluate(
    task: Annotated[str, typer.Argument(help="The task's name.", metavar="TASK")],
    methods: Annotated[str, typer.Option(help="The methods to judge, separated by commas.", metavar="A,B,C")],
    models: Annotated[
        str | None,
        typer.Option(help="Names as in `explain`, separated by commas; default: the task's own."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Other data in the task's format: a path, or for records a hub id.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Judge only the first N samples.", metavar="N")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to keep every result in.", metavar="DIR")] = None,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Print every metric, not only the task's main ones.")
    ] = False,
    json: JsonOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in that folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Run in this process, or on a Ray cluster.")] = (
        "local"
    ),
    address: Annotated[str | None, typer.Option(help="Address of the Ray cluster; default: this machine.")] = None,
    gpus: Annotated[float, typer.Option(help="GPUs for each Ray actor.")] = 0.0,
    shard: Annotated[
        str | None, typer.Option(help="Judge only the K-th of N subsets of the samples, from 0.", metavar="K/N")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed from which each sample's own is derived.")] = 0,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    image_size: SizeOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Judge methods on a task whose answers are known, and print the means; --resume continues an interrupted run."""
    from mambascope.cli import evaluating

    evaluating.evaluate(
        task,
        methods=methods,
        models=models,
        data=data,
        limit=limit,
        out=out,
        resume=resume,
        overwrite=overwrite,
        engine=engine,
        address=address,
        gpus=gpus,
        shard=shard,
        seed=seed,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        image_size=image_size,
        trust_remote_code=trust_remote_code,
        all_metrics=all_metrics,
        as_json=json,
    )


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `evaluate --out` wrote.", metavar="DIR...")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: report/ in the first folder.", metavar="DIR")
    ] = None,
    layers_from: Annotated[
        Path | None, typer.Option(help="Also report each method's best layer, chosen on this run.", metavar="DIR")
    ] = None,
    layers_by: Annotated[str | None, typer.Option(help="The metric to choose it by.", metavar="METRIC")] = None,
    figures: Annotated[Literal[".png", ".pdf", ".svg"], typer.Option(help="The figures' format.")] = ".png",
) -> None:
    """Write tables (Markdown, LaTeX, CSV) and figures for stored runs, with intervals and paired tests."""
    from mambascope.cli import reporting

    reporting.report(folders, out=out, layers_from=layers_from, layers_by=layers_by, figures=figures)


@app.command()
def bench(
    name: Annotated[
        str | None,
        typer.Argument(
            help="What to measure: capture, hidden-attention, channels, implicit-attention, latim, latim-row, rollout "
            "or mamba-lrp; default: all of them.",
            metavar="NAME",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Sizes of the random models, separated by commas.", metavar="tiny|130m|370m|1.4b")
    ] = "tiny",
    length: Annotated[str, typer.Option(help="Numbers of tokens, separated by commas.", metavar="N,N")] = "256",
    repeats: Annotated[int, typer.Option(help="How often each is measured; medians are given.")] = 3,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write a page (.md) or the figures (.json).", metavar="FILE")
    ] = None,
) -> None:
    """Measure what things cost here: beside the least they could, plain loops, dense tensors and the stock model."""
    from mambascope.cli import benchmarking

    benchmarking.print_bench(name, sizes=size, lengths=length, device=device, repeats=repeats, as_json=json, out=out)
