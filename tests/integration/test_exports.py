#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what the public headers declare is what the library exports, and they are enough to
build against what `make install` puts in place."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from stasistest import BUILD, ROOT, case, main  # noqa: E402

INCLUDE = os.path.join(ROOT, "include", "stasis")

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <stasis/stasis.h>
int main(void)
{
    g_autoptr(GError) error = NULL;
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    StasisRestoreOptions restore = STASIS_RESTORE_OPTIONS_INIT;
    StasisRunOptions run = STASIS_RUN_OPTIONS_INIT;
    if (options.struct_size == 0 || restore.struct_size == 0 || run.struct_size == 0)
        return 1;
    g_autoptr(StasisStore) none = stasis_store_open("/nonexistent", STASIS_STORE_EXISTING, &error);
    if (none != NULL || stasis_error_exit_code(error) != 10)
        return 2;
    puts(stasis_version());
    return strcmp(stasis_version(), STASIS_VERSION) != 0;
}
"""


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def headers():
    return sorted(name for name in os.listdir(INCLUDE) if name.endswith(".h"))


def declared():
    """Names of the functions that the headers mark with STASIS_API."""
    names = set()
    for header in headers():
        text = re.sub(r"/\*.*?\*/", "", read(os.path.join(INCLUDE, header)), flags=re.S)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        for declaration in re.findall(r"\bSTASIS_API\b([^;{]*);", text):
            names.add(re.search(r"(\w+)\s*\(", declaration).group(1))
    return names


def run(*command, **kwargs):
    """The output of a command that must work."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, timeout=300, **kwargs)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def library():
    return os.path.join(BUILD, "libstasis.so.0")


@case
def exports(t):
    """the shared library exports exactly the functions that are marked STASIS_API, with versions"""
    lines = [line.split() for line in run("nm", "-D", "--defined-only", library()).splitlines()]
    versions = {name for _, kind, name in lines if kind == "A"}
    symbols = {name for _, kind, name in lines if kind != "A"}
    plain = {name.split("@")[0] for name in symbols}
    names = declared()
    t.check(len(names) > 30, f"only {len(names)} functions found in the headers")
    t.equal(sorted(plain - names), [], "exported, but in no public header")
    t.equal(sorted(names - plain), [], "in a public header, but not exported")
    t.equal(sorted(s for s in symbols if "@@STASIS_" not in s), [], "without a version")
    t.check(any(v.startswith("STASIS_") for v in versions), f"versions are {versions}")


@case
def needs_nothing_hidden(t):
    """the shared library has no undefined symbol but those of the libraries it names"""
    run("gcc", "-shared", "-Wl,--no-undefined", "-Wl,--no-as-needed", "-o", t.path("x.so"),
        "-x", "c", "/dev/null", "-x", "none", library())


@case
def headers_stand_alone(t):
    """each public header compiles alone, as C11 and as C++, without warnings"""
    flags = run("pkg-config", "--cflags", "gio-2.0").split()
    for header in headers():
        for language, standard in (("c", "c11"), ("c++", "c++17")):
            source = t.path("one." + language.replace("+", "p"))
            with open(source, "w", encoding="utf-8") as f:
                f.write(f"#include <stasis/{header}>\n#include <stasis/{header}>\n")
            if language == "c++" and subprocess.run(["which", "g++"], check=False,
                                                    stdout=subprocess.DEVNULL).returncode != 0:
                continue
            run("gcc", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-std={standard}",
                "-x", language, "-I" + os.path.dirname(INCLUDE), *flags, source)


@case
def installed(t):
    """a program builds against what is installed, by pkg-config, shared and static, and runs"""
    root, prefix = t.path("root"), "/opt/stasis"
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    run("make", "-C", ROOT, f"B={BUILD}", f"DESTDIR={root}", f"prefix={prefix}", "install",
        env=env)
    libdir = root + prefix + "/lib"
    env["PKG_CONFIG_PATH"] = libdir + "/pkgconfig"
    # As if it were in its place.
    pc = os.path.join(libdir, "pkgconfig", "stasis.pc")
    text = read(pc)
    t.check(f"prefix={prefix}\n" in text and "@" not in text, f"stasis.pc is:\n{text}")
    with open(pc, "w", encoding="utf-8") as f:
        f.write(text.replace(prefix, root + prefix))
    source = t.path("program.c")
    with open(source, "w", encoding="utf-8") as f:
        f.write(PROGRAM)
    version = run("pkg-config", "--modversion", "stasis", env=env).strip()
    for static in (False, True):
        cflags = run("pkg-config", "--cflags", "stasis", env=env).split()
        libs = run("pkg-config", "--libs", *(["--static"] if static else []), "stasis",
                   env=env).split()
        if static:
            libs = [libdir + "/libstasis.a" if lib == "-lstasis" else lib for lib in libs]
        program = t.path("program")
        run("gcc", "-Wall", "-Wextra", "-Werror", source, "-o", program, *cflags, *libs)
        out = run(program, env={**env, "LD_LIBRARY_PATH": "" if static else libdir})
        t.equal(out.strip(), version, f"version, static={static}")
    out = run(root + prefix + "/bin/stasis", "--version",
              env={**env, "LD_LIBRARY_PATH": libdir})
    t.check(version in out, f"stasis --version says {out!r}")
    t.equal(read(f"{root}{prefix}/share/bash-completion/completions/stasis"),
            read(os.path.join(ROOT, "completions", "stasis")), "bash's completion")


main()
