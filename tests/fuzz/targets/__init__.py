"""Every target, by name."""

from ..running import Target
from . import calls, checkpoints, command, data, passes, pictures, results, runs, threads, zoo

TARGETS: dict[str, Target] = {
    target.name: target
    for part in (command, calls, passes, threads, checkpoints, pictures, results, runs, data, zoo)
    for target in part.TARGETS
}
