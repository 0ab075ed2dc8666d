"""Run by itself: prints what a page of many scores adds to the process's peak, and what it was said to, in MiB."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from mambascope.show.page import bytes_of_page, html_page
from pass_peaks import held
from show_results import result


def main(layers: int, tokens: int) -> None:
    html_page(result(8, layers=1))
    made = result(tokens, layers=layers, reach=1e9)  # scores that hardly fall off are the hardest to pack
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = held("VmRSS")
    html_page(made).encode()
    print(json.dumps([held("VmHWM") - before, bytes_of_page(*made.scores.shape) / 2**20]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
