"""Check the site that `make docs` built: links lead somewhere, nothing comes from elsewhere, the reference is complete.

python -m docs.check_site build/docs

Links to other sites are not followed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mambascope
from mambascope import Attribution

#: What a browser loads by itself: element → attribute.
LOADED = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data",
}  # fmt: skip
IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class Page(HTMLParser):
    """One page: its anchors, its links, and what it loads from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = IN_STYLES.findall(text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names, leads to or loads; a frame's own page is read too."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and is_elsewhere(given.get(LOADED[tag], "")):
            self.loads.append(given[LOADED[tag]])
        if "srcdoc" in given:
            self.loads += Page(given["srcdoc"]).loads


def is_elsewhere(address: str) -> bool:
    """Return whether an address is on another machine."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")


def public_names() -> list[str]:
    """Return the full names of everything public: of the package, its methods and readouts, and a result's verbs."""
    names = [f"mambascope.{name}" for name in mambascope.__all__]
    names += [
        f"mambascope.{room}.{name}" for room in ("methods", "readouts") for name in getattr(mambascope, room).__all__
    ]
    verbs = [
        name for name in dir(Attribution) if not name.startswith("_") and name not in Attribution.__dataclass_fields__
    ]
    return names + [f"mambascope.Attribution.{name}" for name in verbs]


def problems(folder: Path) -> Iterator[str]:
    """Yield everything that is wrong with a site, a line each."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder} holds no pages"
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        yield from (f"{name} loads {address}" for address in page.loads)
        for link in page.links:
            if (wrong := _leads_nowhere(link, path, pages)) is not None:
                yield f"{name} links to {link}, {wrong}"
    for style in sorted(folder.rglob("*.css")):
        for address in IN_STYLES.findall(style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(folder)} loads {address}"
    anchors = {anchor for path, page in pages.items() if path.parent.name == "api" for anchor in page.anchors}
    for name in public_names():
        if not {name, f"module-{name}"} & anchors:
            yield f"the reference lacks {name}"


def _leads_nowhere(link: str, path: Path, pages: dict[Path, Page]) -> str | None:
    """Return what is wrong with a link of a page, or None."""
    parts = urlsplit(link)
    if parts.scheme or link.startswith("//"):
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return "which does not exist"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "a place that is not on that page"
    return None


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = list(problems(folder))
    if found:
        raise SystemExit("\n".join(found))
    print(f"{folder}: every link leads somewhere, no page loads anything from elsewhere, the reference is complete")


if __name__ == "__main__":
    main()
