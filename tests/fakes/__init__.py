"""Stand-ins that keep the promise of their port; tests/contract holds them to it, beside the real parts.

Each can be told to fail as the real part does: before it did anything, after it did all, or in the middle.
"""

from tests.fakes.bus import MemoryConsumer, MemoryLog
from tests.fakes.fates import Crash, Ending, Fate, Fates
from tests.fakes.publisher import MemoryPublisher
from tests.fakes.store import MemoryStore

__all__ = ["Crash", "Ending", "Fate", "Fates", "MemoryConsumer", "MemoryLog", "MemoryPublisher", "MemoryStore"]
