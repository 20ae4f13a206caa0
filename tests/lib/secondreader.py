#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another reader of images, written from docs/format.md and nothing else: what that page does not say, or says
wrongly, this gets wrong. It reads images that are not encrypted and at rest (nobody rebases them meanwhile), and
refuses what the page says that a reader must refuse.

    secondreader.py STORE ID FILE      is FILE what `stasis export ID --format raw-memory` should have made?
"""
import ctypes
import hashlib
import json
import os
import re
import stat
import struct
import sys

PAGE, MOST, MAX_ANCESTORS = 4096, 2**63 - 1, 4095
ZERO, RAW, LZ4, ZSTD = range(4)
ID = "[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}"
SHA256 = "[0-9a-f]{64}"
DIGEST = "sha256:" + SHA256
TAIL = '  "digest" : "sha256:%s"\n}\n'


class Refused(Exception):
    """What it is that is not as docs/format.md has it."""


def need(truth, *what):
    if not truth:
        raise Refused(*what)


def pages_of(size):
    return -(-size // PAGE)


def parse(text):
    def once(pairs):
        need(len(dict(pairs)) == len(pairs), "a member twice")
        return dict(pairs)
    try:
        return json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused("JSON", error) from error


def take(found, name, kind=MOST):
    """A member: an integer up to `kind`, a string that matches it, or of that type."""
    value = found.get(name) if isinstance(found, dict) else None
    if isinstance(kind, int):
        good = type(value) is int and 0 <= value <= kind  # pylint: disable=unidiomatic-typecheck
    elif isinstance(kind, str):
        good = isinstance(value, str) and re.fullmatch(kind, value, re.S)
    else:
        good = isinstance(value, kind)
    need(good, name, value)
    return value


def read_file(dir_fd, name, size=None, sha256=None, most=MOST):
    """All of it; opened without following a link, and of the size and digest that the manifest says."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError as error:
        raise Refused(name, error) from error
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        need(stat.S_ISREG(found.st_mode) and found.st_size <= most and size in (None, found.st_size), name, "size")
        data = file.read()
    need(sha256 in (None, hashlib.sha256(data).hexdigest()), name, "digest")
    return data


def unpack(stored_as, stored, size):
    plain, n = stored, len(stored)
    if stored_as != RAW:
        room = ctypes.create_string_buffer(size)
        if stored_as == LZ4:
            n = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe(stored, room, n, size)
        else:
            decompress = ctypes.CDLL("libzstd.so.1").ZSTD_decompress
            decompress.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
            decompress.restype = ctypes.c_size_t
            n = decompress(room, size, stored, n)
        plain = room.raw
    need(n == size, "an extent that does not unpack to its length")
    return plain


class Image:
    """One image by itself: manifest and index, all fields checked, its parts and data files."""

    def __init__(self, store, image_id):
        try:
            directory = os.open(os.path.join(store, "images", image_id), os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise Refused(image_id, error) from error
        try:
            text = read_file(directory, "manifest.json", most=1 << 20)
            body = text[:-len(TAIL % ("0" * 64))]
            need(text[len(body):] == (TAIL % hashlib.sha256(body).hexdigest()).encode(), "manifest.json", "digest")
            manifest = parse(text)
            self._read_manifest(manifest, image_id)
            self._read_files(directory, take(manifest, "files", dict))
        finally:
            os.close(directory)
        self._read_index()

    def _read_manifest(self, m, image_id):
        self.format = take(m, "format", 5)
        need(self.format >= 1 and take(m, "id", ID) == image_id, "format or id")
        self.identity = take(m, "origin" if self.format > 1 and "origin" in m else "digest", DIGEST)
        for name, kind in (("vm", str), ("mode", str), ("machine", str), ("accel", str), ("qemu_version", str),
                           ("paused", bool), ("created_us", MOST), ("n_vcpus", 2**32 - 1)):
            take(m, name, kind)
        for name in ("pause_us", "device_us", "ram_us", "residual_pages", "faults", "worst_stall_us", "total_us",
                     "copied_bytes", "rounds"):
            take(take(m, "cost", dict), name, 2**32 - 1 if name == "rounds" else MOST)
        self.depth = take(m, "depth", MAX_ANCESTORS if self.format == 1 else 2**53 - 1)
        self.parent = m.get("parent", "")
        need((self.depth == 0) == (self.parent is None), "depth")
        if self.parent is not None:
            need(take(self.parent, "id", ID) < image_id and take(self.parent, "digest", DIGEST), "a younger parent")
        ram = take(m, "ram", dict)
        need(take(ram, "page_bytes") == PAGE, "page_bytes")
        self.blocks, self.counts = self._read_blocks(ram)
        self.n_ram = len(self.blocks)
        need((self.n_ram == 0) == (self.format == 5) and not (self.format == 5 and self.parent), "RAM blocks")
        if self.format == 3:
            disks, counts = self._read_blocks(take(m, "disks", dict))
            need(disks, "no disk")
            self.blocks, self.counts = self.blocks + disks, self.counts + counts
        need(len(self.blocks) <= 1024, "blocks")

    @staticmethod
    def _read_blocks(part):
        """Of RAM, or of disks: (names and sizes, counts)."""
        blocks = [(take(b, "name", "[^\0-\x1f\x7f]+"), take(b, "size", 2**50)) for b in take(part, "blocks", list)]
        need(all(size > 0 and len(name.encode()) <= 255 for name, size in blocks), "a block's name or size")
        need(sum(size for _, size in blocks) <= 2**50 and len(dict(blocks)) == len(blocks), "blocks")
        return blocks, [[take(part, "data_pages"), take(part, "zero_pages")]]

    def _read_files(self, directory, files):
        def whole(name, most):
            entry = take(files, name, dict)
            return read_file(directory, name, take(entry, "size", most), take(entry, "sha256", SHA256))
        self.index = whole("index", 2**33)
        names = ["pages"]
        while self.format > 1 and len(names) < 128 and f"pages.{len(names)}" in files:
            names.append(f"pages.{len(names)}")
        self.data = []
        for name in names:
            entry = take(files, name, dict)
            need(take(entry, "holes") <= take(entry, "dead") <= take(entry, "size"), name)
            self.data.append(read_file(directory, name, entry["size"]))
        others = files.keys() - set(names) - {"index"}
        need(len(others) <= 16 and all(re.fullmatch(r"(?!\.|pages\.|manifest\.json$)[-a-z0-9_.]{1,64}", name)
                                       for name in others), "files", others)
        self.parts = {name: whole(name, 64 << 20) for name in others}

    def _read_index(self):
        need(len(self.index) >= 32, "index", "size")
        magic, version, record, n, n_blocks, entry = struct.unpack_from("<8sIIQII", self.index)
        need((magic, version, record, n_blocks, entry) == (b"stasisix", self.format, 56, len(self.blocks), 24), "index")
        need(len(self.index) == 32 + 24 * n_blocks + 56 * n, "index", "size")
        self.records, counts = [], [[0, 0] for _ in self.counts]
        for block, (_, size) in enumerate(self.blocks):
            first, count, pages = struct.unpack_from("<QQQ", self.index, 32 + 24 * block)
            need((first, pages) == (len(self.records), pages_of(size)) and first + count <= n, "index", "block", block)
            next_page = 0
            for i in range(first, first + count):
                fields = struct.unpack_from("<QQQIIHHBBH16s", self.index, 32 + 24 * n_blocks + 56 * i)
                fields = fields[:8] + ((fields[8] if self.format > 1 else 0), *fields[9:])
                self._check_record(block, pages, next_page, *fields)
                next_page = fields[0] + fields[1]
                counts[block >= self.n_ram][fields[7] == ZERO] += fields[1]
                self.records.append(fields)
        need(len(self.records) == n and counts == self.counts, "index", "counts")
        need(self.parent or sum(map(sum, counts)) == sum(pages_of(size) for _, size in self.blocks), "pages missing")

    def _check_record(self, block, pages, next_page, first, count, offset, of, length, skip, whole, kind, file, *_):
        need(of == block and count > 0 and next_page <= first and first + count <= pages, "record", "place")
        if kind == ZERO:
            need(not any((offset, length, skip, whole, file)), "record", "zero")
            return
        need(kind <= ZSTD and 1 <= whole <= 16 and skip + count <= whole, "record", "extent")
        need(1 <= length <= PAGE * whole and (kind != RAW or length == PAGE * whole), "record", "stored bytes")
        need(file < len(self.data) and offset + length <= len(self.data[file]), "record", "data file")

    def paint(self, memory):
        """Put all pages that it has into its blocks' bytes."""
        for first, count, offset, block, length, skip, whole, kind, file, _, checksum in self.records:
            plain = bytes(PAGE * count) if kind == ZERO else b""
            if kind != ZERO:
                stored = self.data[file][offset:offset + length]
                need(hashlib.sha256(stored).digest()[:16] == checksum, "an extent's checksum")
                plain = unpack(kind, stored, PAGE * whole)[PAGE * skip:PAGE * (skip + count)]
            memory[block][PAGE * first:PAGE * (first + count)] = plain


def read_chain(store, image_id):
    """The image and its ancestors, newest first."""
    need(take(parse(read_file(None, os.path.join(store, "stasis-store.json"), most=4096)), "format") == 1, "store")
    chain = [Image(store, image_id)]
    while chain[-1].parent is not None:
        need(len(chain) <= MAX_ANCESTORS, "ancestors")
        child, parent = chain[-1], Image(store, chain[-1].parent["id"])
        need(parent.identity == child.parent["digest"] and parent.depth < child.depth, "it is not its parent")
        need((parent.blocks, parent.n_ram) == (child.blocks, child.n_ram), "its parent's blocks are others")
        chain.append(parent)
    return chain


def read_layout(image):
    """[(guest-physical address, bytes, number of the block, offset in it)] of machine.json."""
    need("machine.json" in image.parts, "no machine.json")
    numbers, end, layout = {name: i for i, (name, _) in enumerate(image.blocks[:image.n_ram])}, 0, []
    for piece in take(parse(image.parts["machine.json"]), "layout", list):
        gpa, size, offset = (take(piece, name) for name in ("gpa", "size_bytes", "offset"))
        block = numbers.get(take(piece, "block", str))
        need(block is not None and isinstance(take(piece, "rom", bool), bool), "layout", "block")
        need(end <= gpa and size > 0 and gpa + size <= MOST, "layout", "place")
        need(offset + size <= PAGE * pages_of(image.blocks[block][1]), "layout", "behind its block's end")
        layout.append((gpa, size, block, offset))
        end = gpa + size
    return layout


def read_memory(store, image_id):
    """[(guest-physical address, bytes)] of the guest's memory, sorted."""
    chain = read_chain(store, image_id)
    need(chain[0].n_ram > 0, "an image of devices only")
    blocks = [bytearray(PAGE * pages_of(size)) for _, size in chain[0].blocks]
    for image in reversed(chain):
        image.paint(blocks)
    for (_, size), block in zip(chain[0].blocks, blocks):
        block[size:] = bytes(len(block) - size)
    return [(gpa, memoryview(blocks[i])[offset:offset + size]) for gpa, size, i, offset in read_layout(chain[0])]


def has_bytes(fd, at, end):
    """Is anything but zeros there?"""
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # holes up to the end
            return False
        to = min(os.lseek(fd, at, os.SEEK_HOLE), end)
        if at < to and any(os.pread(fd, to - at, at)):
            return True
        at = to
    return False


def differs(memory, path):
    """How the file `path` is not such memory as of `export --format raw-memory`, or None."""
    with open(path, "rb") as file:
        end = 0
        for gpa, wanted in memory:
            if has_bytes(file.fileno(), end, gpa):
                return f"there is something before {gpa:#x}, where no memory is"
            if os.pread(file.fileno(), len(wanted), gpa) != wanted:
                return f"memory at {gpa:#x}, {len(wanted)} bytes, is another"
            end = gpa + len(wanted)
        size = os.fstat(file.fileno()).st_size
    return None if size == end else f"{size} bytes, not {end}"


if __name__ == "__main__":
    sys.exit(differs(read_memory(*sys.argv[1:3]), sys.argv[3]))
