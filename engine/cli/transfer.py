"""`quartermaster export` and `quartermaster restore`: everything out to a folder or a tar file, and back into an empty engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from engine.cli.connect import engine_settings
from engine.cli.progress import Line

if TYPE_CHECKING:
    from engine.journal.backup import Manifest
    from engine.settings import Settings

_out = Console()
_err = Console(stderr=True)
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the engine.")]
RedisUrl = Annotated[str | None, typer.Option(help="Server of your own instead (else QM_REDIS_URL).")]


def export(
    target: Annotated[Path, typer.Argument(help="A folder that is not there yet, or a file that ends in .tar.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything; needed, so that a script says what it does.")
    ] = False,
) -> None:
    """Write everything the engine knows to a folder or a tar file, while it runs.

    Orders, holds, stock, configuration, API keys (their hashes), decision records, and the archive where it is a folder, all at one
    moment: an order whose legs lie on several shards is whole or not there. Nothing stops meanwhile. An engine that is stopped is
    exported too. The files say who ordered what: keep them as you keep the engine. Restore with `quartermaster restore`.

    Exit code: 0 = written and on disk, 2 = the target cannot be used, 3 = there is nothing to export, or it is damaged.

    Example: quartermaster export --all backup-monday.tar --data-dir ./data
    """
    if not everything:
        _give_up("say --all: the whole engine is what can be exported", 2)
    if target.exists():
        _give_up(f"{target} is there already: choose another name", 2)
    if not target.parent.is_dir():
        _give_up(f"{target.parent} is no folder", 2)
    started_s = time.monotonic()
    settings = engine_settings(data_dir, redis_url)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _errors(), _server(settings, create=False) as url, Line() as line:
            manifest = asyncio.run(_export(url, draft, settings, line))
        _publish(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    size_bytes = sum(one.size_bytes for one in manifest.shards) + sum(one.size_bytes for one in manifest.segments)
    _out.print(
        f"[green]{_told(manifest)}[/] in {target}: {size_bytes / 1e6:.1f} MB, {time.monotonic() - started_s:.1f} s",
        highlight=False,
    )


async def _export(url: str, folder: Path, settings: Settings, line: Line) -> Manifest:
    from engine.cli.transfer_archive import archive_folder, copy_segments
    from engine.journal.transfer import export_all

    return await export_all(
        url,
        folder,
        version=version("quartermaster"),
        segments=lambda up_to: copy_segments(archive_folder(settings), folder, up_to),
        progress=line.update,
    )


def _publish(draft: Path, target: Path) -> None:
    """Whole or not there: the name appears when the last byte is on disk."""
    if target.suffix == ".tar":
        packed = draft / target.name
        with packed.open("xb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
            for path in sorted(draft.iterdir()):
                if path != packed:
                    tar.add(path, arcname=path.name)
            raw.flush()
            os.fsync(raw.fileno())
        packed.chmod(0o600)
        packed.rename(target)
    else:
        draft.rename(target)


def restore(
    source: Annotated[Path, typer.Argument(exists=True, readable=True, help="What `quartermaster export` wrote.")],
    data_dir: DataDir = None,
    redis_url: RedisUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there. It is gone afterwards.")] = False,
    check_only: Annotated[bool, typer.Option("--check", help="Only verify the files; touch nothing else.")] = False,
) -> None:
    """Put an export into an empty engine that is not running; then start it with `quartermaster up`.

    Every hash of every file is checked before the first byte is written. Refuses an engine that has something already, unless
    forced; an archive behind a URL keeps all its segments even then, those that the export does not lead up to in a folder of
    their own. Epochs go up, so that a copy of the old engine that still runs somewhere cannot write any more. It has the shards that it
    had; holds that ran out meanwhile get a moment of grace, then expire.

    Exit code: 0 = restored, 2 = the files are no whole export, 3 = the engine is running, not empty, or cannot be reached.

    Example: quartermaster restore backup-monday.tar --data-dir ./restored
    """
    from engine.cli.transfer_archive import ArchiveRestore
    from engine.journal.transfer import restore_all, verify_export

    started_s = time.monotonic()
    with _errors(), _opened(source) as folder:
        with Line() as line:
            manifest = verify_export(folder, progress=line.update)
        if check_only:
            _out.print(
                f"[green]whole:[/] {_told(manifest)}, made {manifest.made_at} by {manifest.version}", highlight=False
            )
            return
        settings = engine_settings(data_dir, redis_url)
        with _server(settings, create=True) as url, Line() as line:
            archive = ArchiveRestore(folder, manifest, settings, force=force)
            asyncio.run(restore_all(url, folder, force=force, archive=archive.run, progress=line.update))
    if archive.aside:
        _out.print(
            f"segments that the export does not lead up to are now in {archive.aside}", soft_wrap=True, highlight=False
        )
    _out.print(f"[green]{_told(manifest)} restored[/] in {time.monotonic() - started_s:.1f} s", highlight=False)
    _out.print(f"start it with: quartermaster up --data-dir {settings.data_dir}", highlight=False)


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """The folder of an export; a tar file is unpacked beside its target's temporary files."""
    from engine.journal.backup import BackupError

    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="qm-restore-") as name:
        try:
            with tarfile.open(source, mode="r:") as tar:
                tar.extractall(name, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise BackupError(f"{source} is no tar file of an export: {error}") from error
        yield Path(name)


@contextmanager
def _server(settings: Settings, *, create: bool) -> Iterator[str]:
    """Address of the journal's server. The embedded one of an engine that is not running is started for as long as it takes."""
    from engine.journal.embedded import EmbeddedServer, hold_folder, running_url

    if settings.redis_url is not None:
        held = hold_folder(settings.data_dir) if create else None
        try:
            yield settings.redis_url.get_secret_value()
        finally:
            if held is not None:
                os.close(held)
        return
    url = None if create else running_url(settings.data_dir)
    if url is not None:
        yield url
        return
    if not create and not (settings.data_dir / "appendonlydir").is_dir():
        _give_up(f"there is no engine in {settings.data_dir.resolve()}", 3)
    server = EmbeddedServer()
    server.start(settings.data_dir, runtime=settings.runtime_dir)
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def _errors() -> Iterator[None]:
    """What went wrong, as a sentence and an exit code."""
    from engine.journal.backup import BackupError
    from engine.journal.port import Corrupt, JournalError
    from engine.journal.runtime import EmbeddedError
    from engine.journal.transfer import NotEmpty

    try:
        yield
    except BackupError as error:
        _give_up(str(error), 2)
    except NotEmpty as error:
        _give_up(f"{error}: restore to an empty one, or replace it with --force", 3)
    except Corrupt as error:
        _give_up(f"damaged: {error}", 3)
    except (JournalError, EmbeddedError, OSError) as error:
        _give_up(str(error), 3)


def _told(manifest: Manifest) -> str:
    entries = sum(shard.entries for shard in manifest.shards)
    parts = sum(shard.parts for shard in manifest.shards)
    archive = f", {len(manifest.segments):,} archive segments" if manifest.segments else ""
    return f"{len(manifest.shards)} journals, {entries:,} entries, {parts:,} snapshots{archive}"


def _give_up(what: str, code: int) -> NoReturn:
    _err.print(f"[red]{what}[/]", soft_wrap=True, highlight=False)
    raise typer.Exit(code)
