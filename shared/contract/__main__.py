"""Write the generated half of the contract: `python -m shared.contract [FOLDER]`, docs/contract unless said."""

import sys
from pathlib import Path

from shared.contract.schemas import documents


def main(folder: Path) -> None:
    """Write every document, and remove the schemas of events that the contract no longer has."""
    files = documents()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (folder / "schemas").glob("*.json"):
        if f"schemas/{path.name}" not in files:
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/contract"))
