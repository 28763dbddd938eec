"""Every second row dropped, so that a record stays within its size."""

from __future__ import annotations

import sqlite3
from typing import Final

KEPT: Final = "step % :period = 0"

# A changed lr is kept at the first step that stays and still sees it, so that filling forward is exact at every
# step that stays. With a lone max(), SQLite takes the bare columns from the row of the maximum.
_MOVED: Final = """
SELECT optimizer, step, param_group, lr FROM (
    SELECT optimizer, param_group, lr, max(step) AS latest,
        CASE WHEN (step + :period - 1) / :period * :period <= last
            THEN (step + :period - 1) / :period * :period ELSE step END AS step
    FROM (SELECT *, (SELECT max(step) FROM step WHERE step.optimizer = old.optimizer) AS last FROM old)
    GROUP BY optimizer, param_group, 5)
ORDER BY optimizer, step, param_group"""


# Tables with rows of recorded steps only, and the rest of their keys.
RECORDED: Final = {"block_step": ", block", "balance_step": "", "task_step": ", task"}

# Tables of what was measured on demand, at any step: not the step's number says what is kept of them.
MEASURED: Final = {"shift_step": "", "layer_shift": ", layer"}
_EVERY_SECOND: Final = """
SELECT * FROM old WHERE (optimizer, step) IN (
    SELECT optimizer, step FROM (
        SELECT optimizer, step, dense_rank() OVER (PARTITION BY optimizer ORDER BY step) AS place FROM old)
    WHERE place % 2 = 1)
ORDER BY optimizer, step"""


def thin_blocks(connection: sqlite3.Connection, period: int) -> None:
    """Keep the recorded steps that are divisible by `period`, with all that was recorded at them."""
    for table, key in RECORDED.items():
        _rebuild(connection, table, f"SELECT * FROM old WHERE {KEPT} ORDER BY optimizer, step{key}", period)


def thin_scalars(connection: sqlite3.Connection, period: int) -> None:
    """Keep the rows of `step` that are divisible by `period`, and of `schedule` what they need."""
    _rebuild(connection, "schedule", _MOVED, period)
    _rebuild(connection, "step", f"SELECT * FROM old WHERE {KEPT} ORDER BY optimizer, step", period)


def thin_measured(connection: sqlite3.Connection) -> None:
    """Keep every second of the steps at which something was measured on demand."""
    for table, key in MEASURED.items():
        _rebuild(connection, table, f"{_EVERY_SECOND}{key}")


def _rebuild(connection: sqlite3.Connection, table: str, kept: str, period: int = 1) -> None:
    """Fill the table anew from `kept`, a SELECT on its old self.

    Deleting every second row would leave half-empty pages, and no page to be used again.
    """
    (definition,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.execute(f"ALTER TABLE {table} RENAME TO old")
    connection.execute(definition)
    connection.execute(f"INSERT INTO {table} {kept}", {"period": period})
    connection.execute("DROP TABLE old")
