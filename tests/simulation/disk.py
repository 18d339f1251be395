"""A disk in memory that forgets what was not synced, for SQLite (as a VFS) and for the store's own files.

What a real disk may do on a power cut, this one does by seed: of the bytes written since a file's last sync
it keeps all, none, a prefix or any subset, torn at 512-byte sectors; of the names created, renamed and
removed since the folder's last sync it keeps a prefix or any subset. A failed sync behaves as Linux does: the
pages count as clean afterwards, so the *next* sync succeeds and still does not save them. There is no shared
memory: open the store with `StoreSettings(exclusive=True)`, which keeps SQLite's WAL index on the heap.

Model, per file: `data` is what a read returns now, `durable` what surely survives, `pending` the writes
between."""

from __future__ import annotations

import errno
import itertools
import random
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from shardworker.store import StoreInUse

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR_BYTES = 512

_numbers = itertools.count(1)


class PowerCut(BaseException):
    """The disk lost power in this operation. Not an Exception: the code under test should not handle it. Use
    `until_power_cut` to catch it."""


class _Inode:
    """A file's content, apart from its name."""

    __slots__ = ("data", "durable", "pending")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []
        """(offset, bytes) of a write, (length, None) of a truncation; oldest first."""

    def write(self, offset: int, block: bytes) -> None:
        _put(self.data, offset, block)
        self.pending.append((offset, block))

    def truncate(self, length: int) -> None:
        _cut(self.data, length)
        self.pending.append((length, None))

    def sync(self) -> None:
        for offset, block in self.pending:
            if block is None:
                _cut(self.durable, offset)
            else:
                _put(self.durable, offset, block)
        self.pending.clear()


def _put(data: bytearray, offset: int, block: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(block)] = block


def _cut(data: bytearray, length: int) -> None:
    if len(data) > length:
        del data[length:]
    else:
        data.extend(bytes(length - len(data)))


class SimulatedDisk:
    """One replica's disk. Give `vfs` and `files` to ReplicaStore.open; `close` it when the simulation
    ends."""

    def __init__(self, seed: int, capacity_bytes: int = 1 << 40) -> None:
        self._rng = random.Random(seed)
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._pending_names: list[tuple[str, str, _Inode | None]] = []
        """(name, new name or "", inode): created if there is an inode, else renamed, else removed."""
        self._locked: set[str] = set()
        self._used_bytes = 0
        self._power_cut_in: int | None = None
        self._kill_only = False
        self._sync_fails_in: int | None = None
        self.epoch = 0
        """Counts deaths of the process. A file opened before the last one is dead."""
        self.power_cuts = 0
        self.capacity_bytes = capacity_bytes
        """May be changed at any time; growing past it is a full disk."""
        self.operations = 0
        """Writes, syncs and changes of names so far: what `cut_power_after` counts."""
        self.syncs = 0
        self.sync_s = 0.0
        """How long each sync seems to take, by the disk's own clock."""
        self.busy_s = 0.0
        self.vfs = f"simulated-disk-{next(_numbers)}"
        self._vfs = _Vfs(self)
        self.files = SimulatedFiles(self)

    def close(self) -> None:
        """Forget everything; no connection may be open."""
        self._vfs.unregister()
        self._names.clear()

    # ---- faults --------------------------------------------------------------------------------------------

    def cut_power_after(self, operations: int | None) -> None:
        """Raise PowerCut in the operations-th write, sync or change of names from now (1 = the next); None:
        never."""
        self._power_cut_in = operations
        self._kill_only = False

    def kill_after(self, operations: int | None) -> None:
        """As cut_power_after, but only the process dies there: what it wrote stays in the kernel's cache."""
        self._power_cut_in = operations
        self._kill_only = True

    def fail_sync_after(self, syncs: int | None) -> None:
        """The syncs-th sync from now (1 = the next) fails and loses what it should have saved."""
        self._sync_fails_in = syncs

    @contextmanager
    def until_power_cut(self) -> Iterator[None]:
        """Swallow what the body raises if the power went in it. SQLite may tell of it in words of its own."""
        epoch = self.epoch
        try:
            yield
        except BaseException:
            if self.epoch == epoch:
                raise

    def power_cut(self) -> None:
        """Lose what was not synced, as the seed decides. Every open file is dead; open the store anew."""
        self.epoch += 1
        self.power_cuts += 1
        self._power_cut_in = None
        self._sync_fails_in = None
        self._locked.clear()
        for change in self._surviving_names():
            _rename(self._durable_names, *change)
        self._pending_names.clear()
        self._names = dict(self._durable_names)
        seen: set[int] = set()
        for inode in self._names.values():
            if id(inode) not in seen:
                seen.add(id(inode))
                self._lose(inode)
        self._used_bytes = sum(len(inode.data) for inode in self._names.values())

    def _surviving_names(self) -> list[tuple[str, str, _Inode | None]]:
        """A prefix, as of a journaling file system, or any subset: POSIX promises no order before a sync."""
        rng, changes = self._rng, self._pending_names
        if rng.random() < 0.5:
            return changes[: rng.randint(0, len(changes))]
        return [change for change in changes if rng.random() < 0.5]

    def _lose(self, inode: _Inode) -> None:
        rng, survivor = self._rng, bytearray(inode.durable)
        mood = rng.choice(("nothing", "everything", "prefix", "subset"))
        writes = inode.pending
        if mood == "nothing":
            writes = []
        elif mood == "prefix":
            writes = writes[: rng.randint(0, len(writes))]
        for at, (offset, block) in enumerate(writes):
            if block is None:
                if mood != "subset" or rng.random() < 0.5:
                    _cut(survivor, offset)
                continue
            torn = mood == "prefix" and at == len(writes) - 1
            for start, sector in _sectors(offset, block):
                if torn and rng.random() < 0.2:
                    break
                if mood != "subset" or rng.random() < 0.5:
                    _put(survivor, start, sector)
        inode.data = survivor
        inode.durable = bytearray(survivor)
        inode.pending = []

    def process_died(self) -> None:
        """The process that used the disk was killed: its files and its lock are dead, what it wrote stays."""
        self.epoch += 1
        self._power_cut_in = None
        self._sync_fails_in = None
        self._locked.clear()

    def flip_bit(self, path: Path, offset: int, bit: int = 0) -> None:
        """Change one bit at rest, in what is read and in what survives."""
        inode = self._names[str(path)]
        inode.data[offset] ^= 1 << bit
        if offset < len(inode.durable):
            inode.durable[offset] ^= 1 << bit

    def content(self, path: Path) -> bytes:
        """What the file holds now."""
        return bytes(self._names[str(path)].data)

    def image(self) -> list[tuple[str, bytes]]:
        """All files with their content, in the order of their names: equal images, equal disks."""
        return [(name, bytes(inode.data)) for name, inode in sorted(self._names.items())]

    # ---- what the VFS and the files call -------------------------------------------------------------------

    def step(self) -> None:
        """One operation that changes something; perhaps the last one."""
        self.operations += 1
        if self._power_cut_in is not None:
            self._power_cut_in -= 1
            if self._power_cut_in <= 0:
                if self._kill_only:
                    self.process_died()
                else:
                    self.power_cut()
                raise PowerCut

    def write(self, inode: _Inode, offset: int, block: bytes) -> bool:
        """Whether there was room."""
        self.step()
        growth = offset + len(block) - len(inode.data)
        if growth > 0:
            if self._used_bytes + growth > self.capacity_bytes:
                return False
            self._used_bytes += growth
        inode.write(offset, block)
        return True

    def truncate(self, inode: _Inode, length: int) -> None:
        self.step()
        self._used_bytes += length - len(inode.data)
        inode.truncate(length)

    def sync(self, inode: _Inode) -> bool:
        """Whether it worked."""
        self.step()
        self.syncs += 1
        self.busy_s += self.sync_s
        if self._sync_fails_in is not None:
            self._sync_fails_in -= 1
            if self._sync_fails_in <= 0:
                self._sync_fails_in = None
                inode.pending.clear()
                return False
        inode.sync()
        return True

    def find(self, name: str) -> _Inode | None:
        return self._names.get(name)

    def names(self) -> list[str]:
        return sorted(self._names)

    def create(self, name: str) -> _Inode:
        self.step()
        self.remove(name)
        inode = _Inode()
        self._change(name, "", inode)
        return inode

    def rename(self, old: str, new: str) -> None:
        self.step()
        self.remove(new)
        self._change(old, new, None)

    def remove(self, name: str) -> None:
        inode = self._names.get(name)
        if inode is not None:
            self.step()
            self._used_bytes -= len(inode.data)
            self._change(name, "", None)

    def _change(self, name: str, new: str, inode: _Inode | None) -> None:
        self._pending_names.append((name, new, inode))
        _rename(self._names, name, new, inode)

    def sync_names(self) -> None:
        self.step()
        for change in self._pending_names:
            _rename(self._durable_names, *change)
        self._pending_names.clear()

    def free_bytes(self) -> int:
        return max(self.capacity_bytes - self._used_bytes, 0)

    def lock(self, name: str) -> bool:
        """Whether nobody had it."""
        if name in self._locked:
            return False
        self._locked.add(name)
        return True

    def unlock(self, name: str) -> None:
        self._locked.discard(name)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)


def _rename(names: dict[str, _Inode], name: str, new: str, inode: _Inode | None) -> None:
    if inode is not None:
        names[name] = inode
    elif new:
        if name in names:  # else its creation did not survive
            names[new] = names.pop(name)
    else:
        names.pop(name, None)


def _sectors(offset: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """The block cut where the disk's sectors end."""
    at = 0
    while at < len(block):
        end = at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        yield offset + at, block[at:end]
        at = end


class _Vfs(apsw.VFS):
    """SQLite's way to the disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        super().__init__(disk.vfs, base="", maxpathname=1024)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # type: ignore[override]
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        flags[1] = flags[0]
        if path is None:
            return _File(self._disk, _Inode(), syncs_names=False)
        inode = self._disk.find(path)
        if inode is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"no file {path}")
            inode = self._disk.create(path)
        journal = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        return _File(self._disk, inode, syncs_names=bool(flags[0] & journal))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if self._disk.find(filename) is None:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)
        self._disk.remove(filename)
        if syncdir:
            self._disk.sync_names()

    def xAccess(self, pathname: str, flags: int) -> bool:
        return self._disk.find(pathname) is not None

    def xFullPathname(self, name: str) -> str:
        return name

    def xRandomness(self, numbytes: int) -> bytes:
        return self._disk.random_bytes(numbytes)


class _File:
    """One open file of SQLite's."""

    __slots__ = ("_disk", "_epoch", "_inode", "_syncs_names")

    def __init__(self, disk: SimulatedDisk, inode: _Inode, *, syncs_names: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._epoch = disk.epoch
        # As SQLite's own unix VFS does for a journal or WAL: its first sync makes its name durable as well.
        self._syncs_names = syncs_names

    # The operation in which the power goes raises PowerCut. What SQLite does afterwards to the files of then,
    # while it rolls back and closes, changes nothing and raises nothing: nobody would get the exception.

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._inode.data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._epoch != self._disk.epoch:
            return
        if not self._disk.write(self._inode, offset, bytes(data)):
            raise apsw.exception_for(apsw.SQLITE_FULL)

    def xTruncate(self, newsize: int) -> None:
        if self._epoch == self._disk.epoch:
            self._disk.truncate(self._inode, newsize)

    def xSync(self, flags: int) -> None:
        if self._epoch != self._disk.epoch:
            return
        if not self._disk.sync(self._inode):
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        if self._syncs_names:
            self._disk.sync_names()
            self._syncs_names = False

    def xFileSize(self) -> int:
        return len(self._inode.data)

    def xClose(self) -> None:
        pass

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        # As SQLite assumes of real disks: a torn write harms no byte that it did not write.
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


class SimulatedFiles:
    """The store's Files on the same disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def make_folder(self, folder: Path) -> None:
        pass  # folders exist by being named

    def close_to_others(self, folder: Path) -> None:
        pass  # there are no others

    def lock(self, folder: Path) -> int:
        if not self._disk.lock(str(folder)):
            raise StoreInUse(f"{folder} is open in another replica")
        self._folder = str(folder)
        return 1

    def unlock(self, handle: int) -> None:
        self._disk.unlock(self._folder)

    def names(self, folder: Path) -> list[str]:
        return [Path(name).name for name in self._disk.names() if Path(name).parent == folder]

    def exists(self, path: Path) -> bool:
        return self._disk.find(str(path)) is not None

    def size(self, path: Path) -> int:
        inode = self._disk.find(str(path))
        return 0 if inode is None else len(inode.data)

    def create(self, path: Path) -> None:
        self._disk.create(str(path))

    def allocate(self, path: Path, size_bytes: int) -> None:
        if not self.exists(path):
            self.create(path)
        self.write(path, 0, bytes(size_bytes))

    def write(self, path: Path, offset: int, data: bytes) -> None:
        if not self._disk.write(self._inode(path), offset, data):
            raise OSError(errno.ENOSPC, "the simulated disk is full", str(path))

    def read(self, path: Path, offset: int, length: int) -> bytes:
        return bytes(self._inode(path).data[offset : offset + length])

    def sync(self, path: Path) -> None:
        if not self._disk.sync(self._inode(path)):
            raise OSError(errno.EIO, "a sync of the simulated disk failed", str(path))

    def rename(self, old: Path, new: Path) -> None:
        self._disk.rename(str(old), str(new))

    def unlink(self, path: Path) -> None:
        self._disk.remove(str(path))

    def sync_folder(self, folder: Path) -> None:
        self._disk.sync_names()

    def free_bytes(self, folder: Path) -> int:
        return self._disk.free_bytes()

    def random_bytes(self, count: int) -> bytes:
        return self._disk.random_bytes(count)

    def steady_s(self) -> float:
        return self._disk.busy_s

    def _inode(self, path: Path) -> _Inode:
        inode = self._disk.find(str(path))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file on the simulated disk", str(path))
        return inode


class _SeededVfs(apsw.VFS):
    """Only there to be asked for randomness."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        super().__init__(f"seed-{next(_numbers)}", base="", makedefault=True)

    def xRandomness(self, numbytes: int) -> bytes:
        return self._rng.randbytes(numbytes)


def seed_sqlite(seed: int) -> None:
    """Start SQLite's own random generator (WAL salts, temporary names) from a seed: same seed, same bytes.

    The generator belongs to the process, and SQLite asks only the default VFS for its seed."""
    vfs = _SeededVfs(random.Random(seed))
    apsw.randomness(0)
    apsw.randomness(1)
    vfs.unregister()
