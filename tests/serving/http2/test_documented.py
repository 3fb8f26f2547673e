"""The page of the transports tells every bound as it is."""

import re
from dataclasses import fields
from pathlib import Path

from hlserve.serving.transports.http2 import Http2Limits
from hlserve.serving.transports.http2.frames import ErrorCode

PAGE = Path(__file__).parents[3] / "docs" / "transports.md"
ROW = re.compile(r"^\| `(\w+)` \| ([\d,.]+) \| (.+) \|$", re.MULTILINE)


def test_the_table_names_every_limit_with_its_default() -> None:
    rows = [(name, default) for name, default, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    limits = Http2Limits()
    assert [(name, float(default.replace(",", ""))) for name, default in rows] == [
        (field.name, float(getattr(limits, field.name))) for field in fields(Http2Limits)
    ]


def test_the_codes_in_the_table_are_codes() -> None:
    beyond = [text for _, _, text in ROW.findall(PAGE.read_text(encoding="utf-8"))]
    codes = [code for text in beyond for code in re.findall(r"(?:GOAWAY|RST_STREAM) (\w+)", text)]
    assert len(codes) > 10
    assert set(codes) <= set(ErrorCode.__members__)
