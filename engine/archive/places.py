"""Where the archive and its index are, as the settings say. Shared by the archiver that writes them and the gateways that read."""

from __future__ import annotations

from engine.archive.index import sqlite_url
from engine.settings import Settings


def archive_url(settings: Settings) -> str:
    """The folder or URL of the segments."""
    return settings.archive_url or str(settings.data_dir.resolve() / "archive")


def index_url(settings: Settings) -> str:
    """The database of the index."""
    if settings.index_url is not None:
        return settings.index_url.get_secret_value()
    return sqlite_url(settings.data_dir.resolve() / "index.db")
