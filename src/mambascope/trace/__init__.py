"""How to run a stock model once and record what each token mixer consumed."""

from mambascope.trace.capture import capture
from mambascope.trace.trace import LayerRecord, Trace, check_trace

__all__ = ["LayerRecord", "Trace", "capture", "check_trace"]
