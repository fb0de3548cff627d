"""Which adapter of a bank each row of a batch belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class Grouping:
    """What the LoRA layers of one network share: the adapters at work now, and how many rows each of them has.

    A batch holds the rows of the first member, then those of the second, and so on. With one member all rows are its
    own; with none the network is the base model. The rows of a bank are equal shares unless `split` says otherwise.
    """

    def __init__(self, members: Sequence[int] = (0,)) -> None:
        self.members: tuple[int, ...] = tuple(members)
        self.rows: tuple[int, ...] | None = None

    def spans(self, rows: int) -> list[tuple[int, int, int]]:
        """(member, first row, row after the last) for a batch of `rows` rows.

        Raises:
            ValueError: the rows cannot be shared out like that.
        """
        counts = self.rows or (rows // len(self.members),) * len(self.members)
        if sum(counts) != rows:
            raise ValueError(f"{rows} rows for a bank of {len(self.members)} with {self.rows or 'equal'} rows each")
        spans, start = [], 0
        for member, count in zip(self.members, counts, strict=True):
            spans.append((member, start, start + count))
            start += count
        return spans

    def only(self, member: int) -> contextlib.AbstractContextManager[None]:
        """Within the block every row belongs to `member`."""
        return self._set((member,), None)

    def off(self) -> contextlib.AbstractContextManager[None]:
        """Within the block no adapter acts."""
        return self._set((), None)

    def split(self, members: Sequence[int], rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Within the block the batch is `rows[i]` rows of each `members[i]`, in that order."""
        return self._set(tuple(members), tuple(rows) if len(members) > 1 else None)

    @contextlib.contextmanager
    def _set(self, members: tuple[int, ...], rows: tuple[int, ...] | None) -> Iterator[None]:
        before = self.members, self.rows
        self.members, self.rows = members, rows
        try:
            yield
        finally:
            self.members, self.rows = before
