"""What can be done with a result: it is shown, saved, merged, added, and given to other libraries.

Each verb opens the door to the room that does it: `mambascope.show` or `mambascope.results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambascope.errors import InputError
from mambascope.numbering import shown
from mambascope.saved_results import COMPLETE, write_saved

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import xarray

    from mambascope.attribution import Attribution


class Verbs:
    """The verbs of `mambascope.Attribution`."""

    def to_dict(self: Any) -> dict[str, Any]:
        """Return the row in focus, and each row if several were asked for, as plain values: what `--json` prints.

        Numbers that are not finite, which JSON does not have, are None.
        """
        from mambascope.results import plain

        return plain.to_dict(self)

    def save(self: Any, path: str | Path, *others: Attribution, gallery: Any = None) -> Path:
        """Write the result in the format of the file's ending, whole or not at all, and return its path.

        `.safetensors` holds everything, and is the one that `load` reads. `.html` is the page of `to_html`, `.png`,
        `.pdf` and `.svg` the figure of `plot`, `.json` what `mambascope explain --json` prints, `.graph.json` the graph
        of `to_neuronpedia`, `.csv` the table of `to_csv`, `.npz` numpy's arrays, with the rest as JSON in `facts`.

        Args:
            path: The file.
            others: For a page, results of other methods on the same text; other formats leave them out.
            gallery: For the page of a text, what `mambascope.head_gallery` returned; other formats leave it out.

        Raises:
            InputError: if the ending is unknown, the folder does not exist, or the result has no such form.
            OutputError: if the file cannot be written, as on a full disk.
        """
        path = path_of(path)
        _check_results(others)
        if path.suffix.lower() != COMPLETE:
            from mambascope import show

            show.save(self, path, *others, gallery=gallery)
            return path
        from mambascope.results.plain import header

        kept = {"scores": self.scores, "image": self.image, "pixels": self.pixels}
        write_saved(path, header(self), {name: tensor for name, tensor in kept.items() if tensor is not None})
        return path

    def to_dataframe(self: Any, *others: Attribution) -> pandas.DataFrame:
        """Return all scores as a pandas data frame with a line for every layer, target and source.

        Its columns are method, layer, target, target_token, source, source_token, score, and share: the absolute score
        over the sum of its row's.

        Args:
            others: Further results, such as those of a list of texts; a first column, result, then numbers all from 0.

        Raises:
            InputError: if pandas is not installed.
        """
        from mambascope.results import tables

        _check_results(others)
        return tables.to_dataframe(self, *others)

    def to_csv(self: Any, *others: Attribution) -> str:
        """Return the same table as comma-separated values; `save("scores.csv")` writes that of one result."""
        from mambascope.results import tables

        _check_results(others)
        return tables.to_csv(self, *others)

    def to_xarray(self: Any, *others: Attribution) -> xarray.DataArray:
        """Return the scores as an `xarray.DataArray` with the dimensions layer, target and source.

        Its coordinates are the positions and layers, `token` and `target_token`, and `method`, `model` and
        `over_layers`; where a number is explained `asked` and `value`; for generated text `generated`, the position of
        the explained token; for pictures `row` and `column` of each patch, -1 for a class token.

        Args:
            others: Further results, such as those of a list of texts. There is then a first dimension, result; scores
                that one result lacks and another has are NaN.

        Raises:
            InputError: if xarray is not installed, or some results are of pictures and some of texts.
            MapTooLargeError: if several results' array would not fit in memory.
        """
        from mambascope.results import arrays

        _check_results(others)
        return arrays.to_xarray(self, *others)

    def to_bertviz(self: Any) -> dict[str, Any]:
        """Return the arguments of `bertviz.head_view`, with each layer as one head: shares of absolute scores."""
        from mambascope.results import interop

        return interop.to_bertviz(self)

    def to_circuitsvis(self: Any) -> dict[str, Any]:
        """Return the arguments of `circuitsvis.attention.attention_heads`, with each layer as one head."""
        from mambascope.results import interop

        return interop.to_circuitsvis(self)

    def to_neuronpedia(self: Any, position: int | None = None) -> dict[str, Any]:
        """Return the path of the answer as an attribution graph in Neuronpedia's JSON form.

        Its nodes are the tokens, what each layer adds to the number explained, the terms that no token accounts for,
        and the number; the edges into it add up to it. `save("answer.graph.json")` writes it. Of ALTI-Logit only: other
        methods have no parts per layer that add up.

        Args:
            position: The target; by default the one in focus.

        Raises:
            InputError: if the method has no such parts, that position is not in the result, or parts were merged so
                that they no longer add up.
        """
        from mambascope.results import neuronpedia

        return neuronpedia.to_neuronpedia(self, position)

    def words(self: Any, *, sources: str = "sum", targets: str = "mean") -> Attribution:
        """Return a result whose positions are words instead of tokens.

        A word is a run of letters and digits with the space before it; every mark of punctuation is one, every
        character of a script that writes no spaces, and every special token.

        Args:
            sources: What a word as source has: the sum of its tokens' scores, so that what adds up still does, or
                `"max"`, the one of largest absolute value.
            targets: What a word as target has: the mean of its tokens' rows, or their sum.

        Raises:
            InputError: if the result is of a picture, or there is no such way to take tokens together.
        """
        return self.spans("words", sources=sources, targets=targets)

    def spans(
        self: Any,
        spans: str | Mapping[str, tuple[int, int]],
        *,
        sources: str = "sum",
        targets: str = "mean",
    ) -> Attribution:
        """Return a result whose positions are spans of the text.

        Args:
            spans: `"sentences"`, `"lines"`, `"paragraphs"` or `"words"`; or named spans, `{"the question": (12, 40)}`,
                each from its first token up to, not including, its last. Tokens in no span stay as they are.
            sources: As in `words`.
            targets: As in `words`.

        Raises:
            InputError: if the result is of a picture, or a span is not in the text or overlaps another.
        """
        from mambascope.results import merging

        return merging.in_units(self, spans, sources=sources, targets=targets)

    def __add__(self: Any, other: Attribution) -> Attribution:
        """Return the sum of two results with the same layers, targets and sources, by the same method and model.

        Raises:
            InputError: if they differ in one of these.
        """
        from mambascope.results import combining

        return combining.added([self, other])

    def __radd__(self: Any, other: int) -> Attribution:
        """Return the result itself for `0 + result`, with which Python's `sum` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @staticmethod
    def mean(results: Sequence[Attribution]) -> Attribution:
        """Return the mean of results, such as those of texts from one template; a token that varies is named so.

        Args:
            results: Results with the same layers, targets and sources, by the same method and model.

        Raises:
            InputError: if there are none, or they differ in one of these.
        """
        from mambascope.results import combining

        return combining.added(results, mean=True)

    def show(self: Any) -> None:
        """Print the result in the terminal: shaded text, top sources, layers, evidence."""
        from mambascope import show

        show.print_attribution(self)

    def to_html(self: Any, *others: Attribution, gallery: Any = None) -> str:
        """Return a self-contained page; it can switch to the results of other methods on the same text.

        Args:
            others: Results of other methods on the same text or picture.
            gallery: What `mambascope.head_gallery` returned for the same text: the page then shows each head.

        Raises:
            InputError: if they do not belong on one page.
        """
        from mambascope import show

        _check_results(others)

        return show.html_page(self, *others, gallery=gallery)

    def plot(self: Any) -> matplotlib.figure.Figure:
        """Return a matplotlib figure fit for a paper: the map, or for a single target its sources as bars."""
        from mambascope import show

        return show.figure(self)

    def _repr_html_(self: Any) -> str:
        from mambascope import show

        return show.notebook_frame(self)


def _check_results(others: tuple[Any, ...]) -> None:
    """Raise InputError unless these are results."""
    for other in others:
        if not isinstance(other, Verbs):
            raise InputError(f"beside a result stand others that mambascope.explain returned, found {shown(other)}")


def path_of(path: Any) -> Path:
    """Return the path of a file; raises InputError if it is none."""
    if not isinstance(path, (str, Path)):
        raise InputError(f"a file must be named by a text or a path, found {shown(path)}")
    return Path(path)
