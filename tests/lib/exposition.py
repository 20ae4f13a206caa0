# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads Prometheus' text format as its documentation has it, and complains of what is not so."""
import re

from tap import Failure

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? ([^ ]+)$")
UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def _labels(text, line):
    labels, at = {}, 0
    while at < len(text):
        found = LABEL.match(text, at)
        if not found or found.group(1) in labels:
            raise Failure(f"labels of {line!r}")
        labels[found.group(1)] = re.sub(r"\\.", lambda m: UNESCAPED[m.group()], found.group(2))
        at = found.end()
    return labels


def _check_histogram(name, samples):
    """Cumulative, with le="+Inf" last, which is _count."""
    series = {}
    for sample, labels, value in samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        series.setdefault(key, {}).setdefault(sample[len(name):], []).append((labels.get("le"), value))
    for key, parts in series.items():
        buckets = parts.get("_bucket", [])
        bounds = [float(le) for le, _ in buckets]
        counts = [n for _, n in buckets]
        if bounds != sorted(set(bounds)) or counts != sorted(counts) or bounds[-1:] != [float("inf")]:
            raise Failure(f"buckets of {name} {key}: {buckets}")
        if len(parts.get("_sum", [])) != 1 or [n for _, n in parts.get("_count", [])] != counts[-1:]:
            raise Failure(f"sum and count of {name} {key}: {parts}")


def parse(text):
    """{(name, frozenset of labels): value} of a whole answer."""
    if not text.endswith("\n"):
        raise Failure("the last line has no end")
    values, families, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            if family in families or not re.fullmatch(NAME, family):
                raise Failure(f"family twice, or no name: {line!r}")
            families[family] = [None, []]
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != family or families[name][0] or kind not in ("gauge", "counter", "histogram"):
                raise Failure(f"type: {line!r}")
            families[name][0] = kind
            if (kind == "counter") != name.endswith("_total"):
                raise Failure(f"a counter's name, and no other, ends with _total: {name}")
            continue
        found = SAMPLE.match(line)
        name = found and found.group(1)
        kind = families[family][0] if family else None
        allowed = ([family + s for s in ("_bucket", "_sum", "_count")] if kind == "histogram"
                   else [family])
        if not found or name not in allowed:
            raise Failure(f"no sample of {family}: {line!r}")
        labels = _labels(found.group(2) or "", line)
        key = (name, frozenset(labels.items()))
        if key in values:
            raise Failure(f"twice: {line!r}")
        values[key] = float(found.group(3))
        families[family][1].append((name, labels, values[key]))
    for name, (kind, samples) in families.items():
        if kind == "histogram":
            _check_histogram(name, samples)
    return values


def value(values, name, **labels):
    return values.get((name, frozenset(labels.items())))
