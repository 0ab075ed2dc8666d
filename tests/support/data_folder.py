"""Where tests find real data: MAMBASCOPE_DATA, or shared/data beside the repository."""

import os
from pathlib import Path


def data_folder() -> Path | None:
    folder = Path(os.environ.get("MAMBASCOPE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return folder if folder.is_dir() else None
