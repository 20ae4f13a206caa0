#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this memory of the bare-metal guest that of one instant? (images/bare/state.h has the why.)

    seqcheck.py FILE      FILE: raw memory, offset = guest-physical address; exit 0 if it is, 1 if
                          it is torn, 2 if it is no memory of the guest

As a module: check_sequence() looks at the set and check_cold() at a sample of the RAM that was
filled once; check_memory() does both. All return (ok, explanation in one line).
"""
import functools
import mmap
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guests import State  # noqa: E402

PAGE = 4096
PAGE_TAG = 0x5354415349530000
SEQ, RANDOM, SPARSE = 0, 1, 2
FILL_ZERO, FILL_TEXT, FILL_RANDOM = 0, 1, 2
RANGES_AT, MAX_RANGES = 0x1c0, 8
_U64 = (1 << 64) - 1


def read_state(memory, origin=0):
    """The state page in `memory`, whose first byte is guest-physical address `origin`."""
    at = State.GPA - origin
    data = bytes(memory[at:at + PAGE])
    state = State(data.ljust(PAGE, b"\0"))
    n_ranges, = struct.unpack_from("<Q", data.ljust(PAGE, b"\0"), RANGES_AT)
    words = struct.unpack_from(f"<{2 * min(n_ranges, MAX_RANGES)}Q", data.ljust(PAGE, b"\0"),
                               RANGES_AT + 8)
    state.touched_range = list(zip(words[::2], words[1::2]))
    return state


def order(step, bits):
    """guest_order() of state.h."""
    mask, shift = (1 << bits) - 1, (bits + 1) // 2
    x = (step + 0x632be5ab) & mask
    x = (x * 0x9e3779b97f4a7c15) & mask
    x ^= x >> shift
    x = (x * 0xd6e8feb86659fd93) & mask
    return x ^ (x >> shift)


@functools.lru_cache(maxsize=8)
def visiting_order(pattern, pages):
    """The page numbers in the order in which each round visits them."""
    if pattern != RANDOM:
        return range(pages)
    bits = max(1, (pages - 1).bit_length())
    return [page for page in (order(i, bits) for i in range(1 << bits)) if page < pages]


def _column(words, state, origin, offset):
    """The word at `offset` of each page of the set, by page number."""
    start = (state.base + offset - origin) // 8
    step = state.stride // 8
    return words[start:start + (state.pages - 1) * step + 1:step].tolist()


def _steps(values, what):
    """Visits that `values` (in visiting order) stand for, or a complaint: (visits, None) or
    (None, text). They must be n for the first k, and n - 1 for the others."""
    pages, n = len(values), values[0]
    k = values.count(n)
    if values[:k] == [n] * k and values[k:] == [n - 1] * (pages - k):
        return (n - 1) * pages + k, None
    # Where it stops being one step: the first value that differs from n, and what follows it.
    step = next(i for i, value in enumerate(values) if value != n)
    after = values[step]
    if after != n - 1:
        where, got = step, after
    else:
        where = next(i for i in range(step, pages) if values[i] != n - 1)
        got = values[where]
    return None, (f"{what}: visit {where} of {pages} holds {got}; visit 0 holds {n}, "
                  f"the step to {n - 1} is at visit {step}")


def _fits(memory, state, origin):
    if not state.valid:
        return f"no state page of the guest at {State.GPA:#x}"
    if state.phase != State.RUNNING:
        return f"the guest was not at work yet (phase {state.phase})"
    if state.pages == 0 or state.stride % PAGE or not 8 <= state.second_word <= PAGE - 8:
        return "the state page makes no sense"
    end = state.base + (state.pages - 1) * state.stride + PAGE
    if state.base < origin or end > origin + len(memory):
        return (f"the set is at {state.base:#x}-{end:#x}, this memory "
                f"at {origin:#x}-{origin + len(memory):#x}")
    return None


def check_sequence(memory, state, origin=0, same_instant=True):
    """Check the set in `memory` (any buffer; its first byte is guest-physical `origin`).

    `state` is from read_state(). With `same_instant` it must be of the same image, and then has to
    agree with the set to within one batch; otherwise it only says where the set is.
    """
    complaint = _fits(memory, state, origin)
    if complaint:
        return False, complaint
    # A view of a slice would keep a mmap from being closed: release all of them.
    with memoryview(memory) as raw, raw[:len(raw) // 8 * 8] as whole, whole.cast("Q") as words:
        first, tags, second = (_column(words, state, origin, offset)
                               for offset in (0, 8, state.second_word))

    for page, tag in enumerate(tags):
        gpa = state.base + page * state.stride
        if tag != PAGE_TAG ^ gpa:
            return False, f"page {page} at {gpa:#x} is tagged {tag:#x}: it is of another place"
    visits = visiting_order(state.pattern, state.pages)
    begun, complaint = _steps([first[p] for p in visits], "first word")
    if complaint:
        return False, complaint
    done, complaint = _steps([second[p] for p in visits], "second word")
    if complaint:
        return False, complaint
    if begun - done not in (0, 1):
        return False, f"first words are of visit {begun}, second words of visit {done}"
    if same_instant and not state.stores <= done <= state.stores + state.batch:
        return False, (f"the set is of visit {done}, the state page of visits "
                       f"{state.stores}-{state.stores + state.batch}")
    if same_instant and state.torn:
        return False, f"the guest itself has found {state.torn} torn pages"
    return True, f"one instant: round {done // state.pages + 1}, visit {done % state.pages}"


def _random_word(gpa):
    x = (gpa * 0x9e3779b97f4a7c15) & _U64
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & _U64
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & _U64
    return x ^ (x >> 31)


def cold_page(fill, gpa):
    """What a page that was filled once holds."""
    if fill == FILL_RANDOM:
        return struct.pack("<512Q", *(_random_word(gpa + i) for i in range(0, PAGE, 8)))
    if fill == FILL_TEXT:
        text = "page {:010x} offset {:03x}: the quick brown fox comes back soon\n"
        return "".join(text.format(gpa // PAGE, i) for i in range(0, PAGE, 64)).encode()
    return bytes(PAGE)


def check_cold(memory, state, origin=0, sample=500):
    """Check about `sample` of the touched pages, spread evenly, whole."""
    n_pages = sum(end - start for start, end in state.touched_range) // PAGE
    every = max(1, n_pages // sample)
    checked = 0
    for start, end in state.touched_range:
        for gpa in range(start, end, every * PAGE):
            if memory[gpa - origin:gpa - origin + PAGE] != cold_page(state.fill, gpa):
                return False, f"the page at {gpa:#x}, filled once, has changed"
            checked += 1
    return True, f"{checked} of {n_pages} filled pages looked at"


def check_memory(memory):
    """Both, for memory that begins at guest-physical 0 and holds all of it."""
    state = read_state(memory)
    ok, text = check_sequence(memory, state)
    if not ok:
        return ok, text
    ok, more = check_cold(memory, state)
    return ok, f"{text}; {more}" if ok else more


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: seqcheck.py FILE")
    try:
        with open(sys.argv[1], "rb") as f, \
                mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            if not read_state(memory).valid:
                print(f"{sys.argv[1]}: no state page of the guest at {State.GPA:#x}")
                return 2
            ok, text = check_memory(memory)
    except (OSError, ValueError) as error:
        print(f"{sys.argv[1]}: {error}")
        return 2
    print(("ok: " if ok else "TORN: ") + text)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
