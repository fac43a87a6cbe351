"""Archives from the network: downloaded once, verified by checksum, and unpacked without trust in what they hold."""

import hashlib
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from cnntrain.runtime.errors import InputError
from cnntrain.runtime.third_party import PATIENCE

BLOCK = 1 << 20  # bytes read at a time
# Python's own look at a member, after ours; before 3.11.4 it has none.
SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class Archive(NamedTuple):
    """An archive in the network whose files all lie in one folder."""

    url: str
    folder: str
    size: int  # bytes
    checksum: str  # kind:digits
    most_files: int  # and folders, far more than it holds

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def bring(archives: Sequence[Archive], root: Path, staging: Path) -> None:
    """Download archives, or take them from `root`, unpack them in `staging` and move their common folder below `root`.

    InputError where one is not what its size and checksum say, or holds what it should not; OSError without a network.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    whole, place = staging / "whole", root / archives[0].folder
    for archive in archives:
        packed = root / archive.name
        if not packed.is_file():
            packed = staging / archive.name
            download(archive, packed)
        verify(packed, archive.checksum)
        unpacked = staging / "unpacked"
        unpack(packed, unpacked, most_bytes=4 * archive.size, most_files=archive.most_files)
        if not (unpacked / archive.folder).is_dir():
            raise InputError(f"{archive.name} holds no folder {archive.folder}")
        join(unpacked / archive.folder, whole)
        shutil.rmtree(unpacked)
    place.parent.mkdir(parents=True, exist_ok=True)
    whole.replace(place)
    shutil.rmtree(staging)


def join(folder: Path, whole: Path) -> None:
    """Move the files of a folder into another that may have some of its folders already."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = whole / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def download(archive: Archive, place: Path) -> None:
    """Write an archive to `place`, over https alone and no more than its size."""
    room = shutil.disk_usage(place.parent).free
    if room < 3 * archive.size:
        raise InputError(
            f"{archive.name} needs {3 * archive.size / 1e9:.1f} GB of disk, of which {room / 1e9:.1f} are free"
        )
    if not archive.url.startswith("https://"):
        raise InputError(f"{archive.url} is not an https address")
    bar = tqdm(total=archive.size, desc=archive.name, unit="B", unit_scale=True, disable=None, leave=False)
    with bar, closing(urllib.request.urlopen(archive.url, timeout=PATIENCE)) as source, place.open("wb") as sink:  # noqa: S310 (https)
        if not source.geturl().startswith("https://"):
            raise InputError(f"{archive.url} leads to {source.geturl()}, which is not an https address")
        got = 0
        while block := source.read(BLOCK):
            got += len(block)
            bar.update(len(block))
            if got > archive.size:
                raise InputError(f"{archive.url} is longer than the {archive.size:,} bytes of {archive.name}")
            sink.write(block)


def verify(packed: Path, checksum: str) -> None:
    """Raise an InputError when a file does not have its checksum."""
    kind, _, expected = checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with packed.open("rb") as source:
        while block := source.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise InputError(f"{packed} does not have its {kind} checksum; remove it")


def unpack(packed: Path, folder: Path, *, most_bytes: int, most_files: int) -> None:
    """Unpack a .tar, .tgz or .zip archive into the new `folder`.

    InputError for a damaged one, for a member that is neither a file nor a folder or could lie outside, and for more
    than `most_files` members or `most_bytes` unpacked: always before the member in question is written.
    """
    folder.mkdir()
    try:
        if zipfile.is_zipfile(packed):
            with zipfile.ZipFile(packed) as archive:
                for entry in admitted_zip(archive, most_bytes, most_files):
                    archive.extract(entry, folder)
        else:
            with tarfile.open(packed, "r:*") as archive:
                for member in admitted_tar(archive, most_bytes, most_files):
                    archive.extract(member, folder, set_attrs=False, **SAFELY)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise InputError(f"cannot unpack {packed.name}: {error}") from error


def admitted_tar(archive: tarfile.TarFile, most_bytes: int, most_files: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar archive as they are read; what a header says of a size bounds what is unpacked."""
    unpacked = 0
    for count, member in enumerate(archive, 1):
        unpacked += member.size
        admit(member.name, plain=member.isreg() or member.isdir())
        limit(count, unpacked, most_bytes, most_files)
        yield member


def admitted_zip(archive: zipfile.ZipFile, most_bytes: int, most_files: int) -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive."""
    members = archive.infolist()
    limit(len(members), sum(member.file_size for member in members), most_bytes, most_files)
    for member in members:
        mode = member.external_attr >> 16
        admit(member.orig_filename, plain=stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR))
    return members


def admit(name: str, *, plain: bool) -> None:
    """Raise an InputError for a member that is no file or folder, or that could lie outside."""
    path = PurePosixPath(name)
    if not plain:
        raise InputError(f"the archive holds {name!r}, which is neither a file nor a folder")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise InputError(f"the archive holds {name!r}, which could be outside its folder")


def limit(count: int, unpacked: int, most_bytes: int, most_files: int) -> None:
    """Raise an InputError when an archive is far larger than the one that it should be."""
    if count > most_files:
        raise InputError(f"the archive holds more than {most_files:,} files")
    if unpacked > most_bytes:
        raise InputError(f"the archive holds more than {most_bytes:,} bytes")
