"""When too much of what is consumed has to be set aside, the deploy is wrong and not the data."""

from collections import deque
from collections.abc import Sequence

WINDOW_RECORDS = 1000
LIMIT_IN_WINDOW = WINDOW_RECORDS * 5 // 100
LIMIT_IN_A_ROW = 50


class Breaker:
    """Counts what was set aside among the last records of one source.

    Only positions of what was set aside are kept: good records cost nothing. A batch is judged before its dead letters
    are published and counted after, so that a batch which comes again is not counted twice.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._set_aside: deque[int] = deque()

    def judge(self, set_aside: Sequence[int]) -> str | None:
        """Why the limit would be passed by a batch of which these, by their index, are set aside; None if it isn't."""
        positions = self._set_aside.copy()
        for index in set_aside:
            position = self._seen + index
            positions.append(position)
            while positions[0] <= position - WINDOW_RECORDS:
                positions.popleft()
            if len(positions) > LIMIT_IN_WINDOW:
                return f"{len(positions)} of the last {WINDOW_RECORDS} records could not be processed"
            if len(positions) >= LIMIT_IN_A_ROW and positions[-LIMIT_IN_A_ROW] == position - LIMIT_IN_A_ROW + 1:
                return f"{LIMIT_IN_A_ROW} records in a row could not be processed"
        return None

    def count(self, records: int, set_aside: Sequence[int]) -> None:
        """Take a batch of so many records into account, of which these were set aside."""
        self._set_aside.extend(self._seen + index for index in set_aside)
        self._seen += records
        while self._set_aside and self._set_aside[0] < self._seen - WINDOW_RECORDS:
            self._set_aside.popleft()
