"""How to run a stock model once and record what each token mixer consumed."""

from mambascope.trace.block import Block, Branch
from mambascope.trace.capture import capture
from mambascope.trace.trace import Trace, check_trace

__all__ = ["Block", "Branch", "Trace", "capture", "check_trace"]
