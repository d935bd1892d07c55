"""The archive's part of an export: its segments are files of their own, copied as they are.

Only an archive in a folder travels. One behind a URL stays where it is: it is safe there, and may be larger than any disk here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.archive.places import archive_url
from engine.archive.segment import HEAD_BYTES, read_head
from engine.archive.store import SUFFIX
from engine.journal.backup import BackupError, Manifest, SegmentFile, file_hash
from engine.journal.port import Corrupt
from engine.settings import Settings

FOLDER = "archive"


def archive_folder(settings: Settings) -> Path | None:
    """Where the segments are; None where nothing is archived, or not into a folder."""
    if not settings.archives:
        return None
    url = archive_url(settings)
    return Path(url.removeprefix("file://")) if "://" not in url.removeprefix("file://") else None


def copy_segments(source: Path | None, target: Path, up_to_seqs: dict[int, int]) -> list[SegmentFile]:
    """Segments that end at the moment of the export or before. One that goes on beyond it is left out: the journal has its entries."""
    copied: list[SegmentFile] = []
    if source is None:
        return copied
    for shard, up_to_seq in sorted(up_to_seqs.items()):
        for path in sorted((source / f"s{shard}").glob(f"*{SUFFIX}")):
            with path.open("rb") as file:
                head = read_head(file.read(HEAD_BYTES))
            if head.last_seq > up_to_seq:
                continue
            name = f"{FOLDER}/s{shard}/{path.name}"
            (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
            copied.append(
                SegmentFile(file=name, size_bytes=(target / name).stat().st_size, blake2b=file_hash(target / name))
            )
    return copied


def has_segments(settings: Settings) -> bool:
    folder = archive_folder(settings)
    return folder is not None and any(folder.glob(f"s*/*{SUFFIX}"))


def restore_segments(source: Path, manifest: Manifest, settings: Settings) -> None:
    """Put the segments where this engine archives, in place of what is there; the index is made anew from them.

    Raises BackupError where this engine keeps its archive behind a URL: the segments would be lost.
    """
    folder = archive_folder(settings)
    if folder is None:
        if manifest.segments:
            raise BackupError("the export has an archive, and this engine keeps none in a folder: unset QM_ARCHIVE_URL")
        return
    shutil.rmtree(folder, ignore_errors=True)
    for path in settings.data_dir.glob("index.db*"):
        path.unlink()
    for segment in manifest.segments:
        target = folder / Path(segment.file).relative_to(FOLDER)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(source / segment.file, target)
        if file_hash(target) != segment.blake2b:
            raise Corrupt(f"{target} did not read back as written")
