# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test cases that speak TAP (https://testanything.org, version 13).

    @case
    def whole_or_not_at_all(t):
        '''the promise this case stands for, in one line'''
        …
    main()

Every case runs, whatever became of those before it; what it deferred with t.defer() is undone in
reverse order, also when the program is told to end by SIGTERM.
"""
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

# Seconds that whatever is to happen gets at least. Nothing waits so long but for what is broken; what
# is slow, on a machine that has other things to do, is not.
PATIENCE = 120

# Are all combinations of what is tested to be run, also those that differ little (make check-long)?
FULL = os.environ.get("STASIS_TEST_FULL") == "1"

_cases = []


class Skip(Exception):
    pass


class Failure(Exception):
    pass


def case(function):
    """Marks a test case; its docstring is the promise."""
    if not function.__doc__:
        raise TypeError(f"case {function.__name__} says nothing about what it promises")
    _cases.append((function, (), function.__doc__.strip().splitlines()[0]))
    return function


def full_case(function):
    """As case(), only where all combinations are run."""
    return case(function) if FULL else function


def add_case(function, *args, promise, full=False):
    """The same function for several arguments: a case each. With `full` only where all combinations
    are run."""
    if FULL or not full:
        _cases.append((function, args, promise))


class Case:
    """What a case gets: a directory of its own and a list of things to undo."""

    def __init__(self, number):
        self._undo = []
        self.dir = tempfile.mkdtemp(prefix=f"c{number}-")
        os.chmod(self.dir, 0o755)
        self.defer(shutil.rmtree, self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def defer(self, function, *args, **kwargs):
        self._undo.append((function, args, kwargs))

    def undo(self):
        """Undo everything; returns the errors met on the way. Also when it is told to end meanwhile, which it does
        after that."""
        errors, told = [], None
        while self._undo:
            one = None
            try:
                one = function, args, kwargs = self._undo[-1]
                self._undo.pop()
                function(*args, **kwargs)
            except SystemExit as end:
                # What was interrupted is done once more: an end of what has ended is none.
                if told is None and one is not None:
                    self._undo.append(one)
                told = end
            except Exception as error:  # pylint: disable=broad-except
                errors.append(f"{getattr(function, '__name__', function)}: {error}")
        if told is not None:
            raise told
        return errors

    @staticmethod
    def note(text):
        for line in str(text).splitlines():
            print(f"# {line}", flush=True)

    @staticmethod
    def skip(reason):
        raise Skip(reason)

    @staticmethod
    def check(condition, *witness):
        """Fails the case unless `condition`; the witness says what was seen instead."""
        if not condition:
            raise Failure(" ".join(str(w) for w in witness) or "check failed")

    def equal(self, found, expected, what):
        self.check(found == expected, f"{what}: found {found!r}, expected {expected!r}")

    @staticmethod
    def wait(condition, seconds, what):
        """Waits until condition() is true and returns its value. `seconds` are a hang limit, which is
        PATIENCE at least."""
        seconds = max(seconds, PATIENCE)
        deadline = time.monotonic() + seconds
        while True:
            late = time.monotonic() > deadline  # before the look: we may be held up, too
            value = condition()
            if value:
                return value
            if late:
                raise Failure(f"not within {seconds} s: {what}")
            time.sleep(0.02)


_shared = None


def shared():
    """A case of nobody's, for what several cases use; undone after the last one."""
    global _shared  # pylint: disable=global-statement
    if _shared is None:
        _shared = Case("all")
    return _shared


_ending = False


def _terminated(*_):
    # Once: timeout(1) signals the process and then its group, and tidying up must not be cut short.
    global _ending  # pylint: disable=global-statement
    if not _ending:
        _ending = True
        raise SystemExit("told to end by SIGTERM")


def _run_one(number, function, args, promise):
    """TAP line of one case, and whether it is 'ok', 'skip' or 'fail'."""
    t = Case(number)
    verdict, why = "ok", ""
    try:
        function(t, *args)
    except Skip as skip:
        verdict, why = "skip", str(skip)
    except Failure as failure:
        verdict = "fail"
        frame = traceback.extract_tb(failure.__traceback__)
        here = [f for f in frame if not f.filename.endswith("tap.py")]
        where = here[-1] if here else frame[-1]
        t.note(f"{os.path.basename(where.filename)}:{where.lineno}: {failure}")
    except Exception:  # pylint: disable=broad-except
        verdict = "fail"
        t.note(traceback.format_exc())
    finally:
        errors = t.undo()
    if errors and verdict == "ok":
        verdict = "fail"
    for error in errors:
        t.note(f"while tidying up: {error}")
    if verdict == "skip":
        print(f"ok {number} - {promise} # SKIP {why}", flush=True)
    else:
        print(f"{'ok' if verdict == 'ok' else 'not ok'} {number} - {promise}", flush=True)
    return verdict


def main():
    """Runs the cases (all, or those whose function or promise contains an argument of ours)."""
    signal.signal(signal.SIGTERM, _terminated)
    # A shell's background jobs ignore it, and so would what they start, which tests end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = _cases
    if len(sys.argv) > 1:
        chosen = [c for c in _cases
                  if any(a in c[0].__name__ or a in c[2] for a in sys.argv[1:])]
    print(f"1..{len(chosen)}", flush=True)
    verdicts, errors = [], []
    try:
        for number, (function, args, promise) in enumerate(chosen, 1):
            began = time.monotonic()
            verdicts.append(_run_one(number, function, args, promise))
            print(f"#   took {time.monotonic() - began:.1f} s", flush=True)
            if _ending:  # somebody made another exception of that
                raise SystemExit("told to end by SIGTERM")
    finally:
        if _shared is not None:
            errors = _shared.undo()
    for error in errors:
        Case.note(f"while tidying up: {error}")
    if errors or "fail" in verdicts:
        sys.exit(1)
    sys.exit(77 if verdicts and all(v == "skip" for v in verdicts) else 0)
