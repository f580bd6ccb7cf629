"""Published summaries of Fast-SCNN: every count, exactly, from the captured graph."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bitfront.graph import capture
from bitfront.graph.count import count
from bitfront.models.fast_scnn import FastScnn

N_ROWS = 86
QUICK = 8
"""Every so many rows in the quick suite; all of them in the slow one."""


def rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "golden" / "fastscnn_summaries_checked.csv").open() as file:
        return list(csv.DictReader(file))


def check(row: dict[str, str]) -> None:
    channels, size = int(row["in_ch"]), int(row["H"])
    family = FastScnn(
        classes=1,
        channels=channels,
        width=float(row["a"]),
        expansion=int(row["t"]),
        repeats=int(row["r"]),
        pyramid=row["pp"] == "1",
    )
    counts = count(capture.from_module(family.build(), (1, channels, size, size)))
    assert counts.parameters == int(row["params"])
    assert counts.executed_parameters == int(row["params_executed"])
    assert counts.macs == round(float(row["macs_M_true(torchinfo>=1.7.2)"]) * 1e6)
    assert counts.conv_macs == int(row["conv_only_macs"])


@pytest.mark.shared
@pytest.mark.parametrize("index", range(3, N_ROWS, QUICK))
def test_some_rows(shared: Path, index: int) -> None:
    check(rows(shared)[index])


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("index", range(N_ROWS))
def test_all_rows(shared: Path, index: int) -> None:
    assert len(rows(shared)) == N_ROWS
    check(rows(shared)[index])
