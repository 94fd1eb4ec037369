"""Folders of jurisdictions that come with Guichet."""

from pathlib import Path

DJIBOUTI = Path(__file__).parent / "djibouti"
