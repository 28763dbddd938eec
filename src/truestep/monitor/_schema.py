"""The tables of a run record (`run.db`): the records as they are in memory, no pickle anywhere."""

from __future__ import annotations

from typing import Final

FILE: Final = "run.db"
VERSION: Final = 3  # PRAGMA user_version: what is written; a reader refuses what is not in READS, and names it
READS: Final = (1, 2, 3)  # 1 has no tables of tasks, 1 and 2 none of covariate shift; a resumed run gets them
APPLICATION_ID: Final = 0x74727374  # "trst": tells a run record from any other SQLite file

ASKED: Final = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps")
TOOK: Final = ("ww", "wg", "wd", "gg", "gd", "dd")
OF_TASK: Final = ("weight", "norm", "ratio", "loss")
OF_BALANCE: Final = ("step_factor", "trunk_factor", "updates")
OF_SHIFT: Final = ("nu", "largest", "outlier", "lower", "upper", "ics_share", "direct", "direct_weight")

# nan is stored as NULL (SQLite has no nan) and read back as nan; inf stays inf.
TASKS: Final = f"""
CREATE TABLE task (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE balance_step (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, {", ".join(f"{name} REAL" for name in OF_BALANCE)},
    PRIMARY KEY (optimizer, step)) WITHOUT ROWID;
CREATE TABLE task_step (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, task INTEGER NOT NULL,
    {", ".join(f"{name} REAL" for name in OF_TASK)},
    PRIMARY KEY (optimizer, step, task)) WITHOUT ROWID;
"""
SHIFTS: Final = f"""
CREATE TABLE layer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE shift_step (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, train_mode INTEGER NOT NULL, batches INTEGER NOT NULL,
    PRIMARY KEY (optimizer, step)) WITHOUT ROWID;
CREATE TABLE layer_shift (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, layer INTEGER NOT NULL, n INTEGER, features INTEGER,
    {", ".join(f"{name} REAL" for name in OF_SHIFT)},
    PRIMARY KEY (optimizer, step, layer)) WITHOUT ROWID;
"""
ADDED: Final = {2: TASKS, 3: SHIFTS}  # tables by the version that they came with
SCHEMA: Final = f"""
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE optimizer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rule TEXT NOT NULL, settings TEXT);
CREATE TABLE block (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, shape TEXT, numel INTEGER, kind TEXT,
    symmetry TEXT, optimizer INTEGER REFERENCES optimizer(id));
CREATE TABLE step (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, time REAL, loss REAL, samples REAL, skipped INTEGER NOT NULL,
    PRIMARY KEY (optimizer, step)) WITHOUT ROWID;
CREATE TABLE schedule (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, param_group INTEGER NOT NULL, lr REAL,
    PRIMARY KEY (optimizer, step, param_group)) WITHOUT ROWID;
CREATE TABLE block_step (
    optimizer INTEGER NOT NULL, step INTEGER NOT NULL, block INTEGER NOT NULL,
    {", ".join(f"{name} REAL" for name in (*ASKED, *TOOK))},
    PRIMARY KEY (optimizer, step, block)) WITHOUT ROWID;
CREATE TABLE event (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, optimizer INTEGER, step INTEGER, kind TEXT NOT NULL, text TEXT);
CREATE TABLE finding (
    id INTEGER PRIMARY KEY, rule TEXT NOT NULL, block TEXT, evidence TEXT, confidence REAL, remedy TEXT, expected TEXT);
{TASKS}{SHIFTS}"""
