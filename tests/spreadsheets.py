"""Excel workbooks for tests, written by hand: what no library would write is what is tried."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def element(name: str, content: str, attributes: str) -> str:
    """One XML element."""
    return f"<{name} {attributes}>{content}</{name}>"


def workbook(path: Path, sheets: Sequence[tuple[str, str, str]]) -> str:
    """An Excel workbook of sheets with a name, a visibility and the XML of their rows."""

    def related(kind: str, number: int, target: str) -> str:
        return f'<Relationship Id="rId{number}" Type="{OFFICE}/{kind}" Target="{target}"/>'

    named = "".join(
        f'<sheet name="{name}" sheetId="{n}" state="{state}" r:id="rId{n}"/>'
        for n, (name, state, _) in enumerate(sheets, 1)
    )
    targets = "".join(related("worksheet", n, f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1))
    with zipfile.ZipFile(path, "w") as file:
        officed = related("officeDocument", 1, "xl/workbook.xml")
        file.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}/relationships">{officed}</Relationships>')
        file.writestr(
            "xl/workbook.xml", element("workbook", f"<sheets>{named}</sheets>", f'xmlns="{MAIN}" xmlns:r="{OFFICE}"')
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}/relationships">{targets}</Relationships>'
        )
        for n, (_, _, rows) in enumerate(sheets, 1):
            file.writestr(
                f"xl/worksheets/sheet{n}.xml", element("worksheet", f"<sheetData>{rows}</sheetData>", f'xmlns="{MAIN}"')
            )
    return path.name
