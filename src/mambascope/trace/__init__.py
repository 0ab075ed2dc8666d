"""Run a stock model once and record the inputs, outputs and coefficients of every token mixer."""

from mambascope.trace.block import Block, Branch
from mambascope.trace.capture import capture
from mambascope.trace.trace import Trace, check_trace, check_whole

__all__ = ["Block", "Branch", "Trace", "capture", "check_trace", "check_whole"]
