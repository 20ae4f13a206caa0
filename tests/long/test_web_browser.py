#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the page works in a real browser: with thousands of images, light and dark, on a phone, by keys alone, and it asks nobody else for anything."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import forgery  # noqa: E402
from browser import Browser  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (PATIENCE, case, kvm_usable, main, new_store, run_vm, stasis)  # noqa: E402
from webpage import Web  # noqa: E402

ACCEL = "kvm" if kvm_usable() else "tcg"
SECOND = 1_000_000
BEGAN = 1_800_000_000 * SECOND


def shown(browser, selector):
    return browser.js(f"document.readyState == 'complete' && !!document.querySelector({selector!r}) && "
                      f"!document.querySelector({selector!r}).closest('[hidden]')")


def show(t, browser, url, selector="#content"):
    browser.open(url)
    t.wait(lambda: shown(browser, selector), PATIENCE, f"{selector} of {url} is shown")


def text(browser, selector):
    return browser.js(f"document.querySelector({selector!r}).innerText")


def check_quiet(t, web, browser):
    """No complaint, and no request to anybody else."""
    t.equal(browser.complaints(), [], "complaints")
    strangers = [url for url in browser.asked()
                 if not url.startswith((f"http://127.0.0.1:{web.port}/", "data:", "about:"))]
    t.equal(strangers, [], "asked of others")


def check_rates(t, browser, images):
    """What is plotted is what was dirty of each increment; of a full image there is nothing."""
    by_id = {image["id"]: image for image in images}

    def rate(image):
        parent = by_id.get(image["parent"])
        pages = image["data_pages"] + image["zero_pages"]
        return pages * 4096 * 1e6 / (image["created_us"] - parent["created_us"]) if parent else 0
    expected = {image["id"]: rate(image) for image in images}
    found = browser.js("state.images.filter((image) => image.kind == 'vm').map((image) => "
                       "[image.id, image.rate, document.getElementById('rates').yOf(image) !== null])")
    t.equal(len(found), len(images), "images")
    t.check(all(abs(one - expected[name]) <= 1e-6 * expected[name] for name, one, _ in found),
            f"{found} beside {expected}")
    t.equal([name for name, _, plotted in found if plotted], [name for name, one, _ in found if one > 0], "what is plotted")
    t.check("/s" in text(browser, "#rates-sum"), text(browser, "#rates-sum"))
    return sum(one > 0 for one in expected.values())


@case
def follows_a_store(t):
    """an empty store says what to do; an image that is taken shows up by itself, and names are text, never markup"""
    store = new_store(t)
    web, browser = Web(t, *store), Browser(t)
    show(t, browser, web.url, "#empty")
    t.check("checkpoint-create" in text(browser, "#empty"), text(browser, "#empty"))
    vm = run_vm(t, Bare(mem="32M", set="1M"), accel=ACCEL)
    note = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"
    image = vm.checkpoint(*store, "--note", note)
    t.wait(lambda: shown(browser, "#content"), PATIENCE, "the image shows up")
    browser.js("choose(state.images[0], true)")
    t.wait(lambda: "QEMU" in text(browser, "#details"), PATIENCE, "its details")
    t.equal(text(browser, "#details-title"), image["id"], "the title of the details")
    t.check(note in text(browser, "#details"), text(browser, "#details"))
    t.equal(browser.js("document.querySelectorAll('#details b, #details img').length"), 0, "elements of a note")
    t.check(browser.js("document.title").startswith("stasis: "))
    t.check(web.token not in browser.js("location.href"), "the token is in no history")
    browser.js("location.reload()")
    t.wait(lambda: shown(browser, "#content"), PATIENCE, "the same tab still has it")
    os.rename(store[1], store[1] + "-gone")
    t.wait(lambda: shown(browser, "#empty"), PATIENCE, "a store that is not there any more is told")
    os.rename(store[1] + "-gone", store[1])
    t.wait(lambda: shown(browser, "#content"), PATIENCE, "and is shown again")
    browser.js("choose(state.images[0], true)")
    more = [vm.checkpoint(*store, *options) for options in ((), ("--full",))]
    t.wait(lambda: browser.js("state.images.length") == 3, PATIENCE, "others show up")
    t.equal(check_rates(t, browser, [image, *more]), 1, "increments")
    t.equal(text(browser, "#details-title"), image["id"], "the first is still chosen")
    stasis("checkpoint-delete", image["id"], *store)
    t.wait(lambda: "deleted" in text(browser, "#details"), PATIENCE, "what is told of it goes with it")
    for one in more:
        stasis("checkpoint-delete", one["id"], *store)
    t.wait(lambda: shown(browser, "#empty"), PATIENCE, "and the other ones, too")
    check_quiet(t, web, browser)


@case
def needs_the_token(t):
    """without the token the page says where to get it, and has nothing of the store"""
    web, browser = Web(t, *new_store(t)), Browser(t)
    show(t, browser, web.url.split("#")[0], "#empty")
    t.check("token" in text(browser, "#empty-title") and web.token not in browser.js("document.body.innerHTML"))
    show(t, browser, web.url.split("#")[0] + "#" + "x" * 32, "#empty")
    t.check("token" in text(browser, "#empty-title"))


def big_store(t, n):
    """@n images of four VMs, with branches, after a real one; and one of processes."""
    store = new_store(t)
    vm = run_vm(t, Bare(mem="32M", set="1M"), accel=ACCEL)
    template = vm.checkpoint_id(*store)
    vm.kill()
    parents = {}
    for i in range(n - 1):
        name = f"vm-{i % 4}"
        chain = parents.setdefault(name, [])
        parent = None if i % 400 < 4 else chain[-9] if i % 97 < 4 and len(chain) > 9 else chain[-1]
        chain.append(forgery.image_like(store[1], template, i + 1, parent, vm=name, note=None,
                                        created_us=BEGAN + i * 30 * SECOND, cost={
                                            "pause_us": 300 + i % 50 * 40, "copied_bytes": 1 << 20 + i % 5}))
    processes = forgery.process_image(store[1], 1 << 30, "vm-0", BEGAN + n * 30 * SECOND,
                                      forgery.web_server_boundary())
    stasis("checkpoint-delete", template, *store)
    return store, processes


@case
def thousands(t):
    """5,000 images are drawn, and can be gone through by keys, pointed at, and read as a table; the graph of processes is there"""
    store, processes = big_store(t, 5000)
    web, browser = Web(t, *store), Browser(t, 1280, 1000)
    show(t, browser, web.url)
    t.equal(browser.js("state.images.length"), 5000, "images")
    colours = browser.js("""(() => { const c = document.getElementById('tree'), d = c.getContext('2d')
        .getImageData(0, 0, c.width, c.height).data; const s = new Set();
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] == 255) s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);
        return s.size })()""")
    t.check(colours > 4, f"only {colours} colours on the canvas")
    # By keys alone: to the tree, to the newest image, back by one, its parent, closer.
    for _ in range(40):
        if browser.js("document.activeElement.id") == "tree":
            break
        browser.key("Tab")
    t.equal(browser.js("document.activeElement.id"), "tree", "Tab leads to the tree")
    browser.key("ArrowRight")
    t.equal(browser.js("state.chosen.id"), processes, "the newest is chosen first")
    t.wait(lambda: browser.js("document.querySelectorAll('#graph-picture g[role=img]').length") == 7, PATIENCE,
           "six processes and a neighbour are drawn")
    t.check("812 nginx" in text(browser, "#graph-picture"))
    browser.key("ArrowLeft")
    chosen = browser.js("[state.chosen.vm, state.chosen.parent, state.chosen.id]")
    t.equal(chosen[0], "vm-0", "the one before it")
    t.check("vm-0" in text(browser, "#said"), "it is told to those who don't see it")
    browser.key("p")
    t.equal(browser.js("state.chosen.id"), chosen[1], "its parent")
    browser.key("c")
    t.equal(browser.js("state.chosen.parent"), chosen[1], "and a child of that")
    width = browser.js("state.view.to - state.view.from")
    browser.key("+")
    t.check(browser.js("state.view.to - state.view.from") < width, "closer")
    browser.key("0")
    # By pointing.
    x, y = browser.js("""(() => { const b = document.getElementById('tree').getBoundingClientRect(),
        i = state.shown[1200]; return [b.left + i.x, b.top + i.y] })()""")
    browser.mouse("mouseMoved", x, y)
    t.wait(lambda: browser.js("!document.getElementById('tip').hidden"), PATIENCE, "a tip")
    browser.click(x, y)
    t.check(browser.js("Math.abs(state.chosen.index - 1200)") < 40, "about the one that was pointed at")
    browser.key("Escape")
    t.equal(browser.js("[state.chosen, document.querySelector('#details').className]"), [None, "none"], "none is chosen")
    browser.js("document.querySelector('#list').open = true")
    t.wait(lambda: browser.js("document.querySelectorAll('#rows tr').length") == 100, PATIENCE, "a table")
    browser.js("document.querySelectorAll('#vms button')[0].click()")
    t.equal(browser.js("state.shown.every((image) => image.vm != 'vm-0')"), True, "a VM is hidden")
    check_quiet(t, web, browser)


def contrast(one, two):
    def luminance(rgb):
        parts = [v / 255 for v in rgb]
        parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@case
def looks(t):
    """light and dark, wide and on a phone: nothing is wider than the screen, texts can be read, and what can be used has a name"""
    store, _ = big_store(t, 60)
    web, browser = Web(t, *store), Browser(t)
    show(t, browser, web.url)
    # Of these not as much was copied as was dirty.
    images = [image for image in web.ask("/api/images").json["images"] if image["kind"] == "vm"]
    t.equal(check_rates(t, browser, images), 55, "increments")
    browser.js("choose(state.images[30], true)")
    for dark in (False, True):
        for width in (320, 390, 800, 1600):
            browser.shape(width, 900, dark)
            t.wait(lambda: browser.js(f"innerWidth == {width}"), PATIENCE, f"{width} wide")
            t.check(browser.js("document.documentElement.scrollWidth") <= width, f"wider than {width}")
        for name in ("--text", "--quiet", "--accent", "--bad"):
            one, two = browser.js(f"""['{name}', '--card'].map((name) => {{
                const v = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
                return [1, 3, 5].map((i) => parseInt(v.slice(i, i + 2), 16)) }})""")
            t.check(contrast(one, two) >= 4.5, f"{name}, dark {dark}: {contrast(one, two):.1f}")
        t.check(browser.js("matchMedia('(prefers-color-scheme: dark)').matches") == dark)
    nameless = browser.js("""[...document.querySelectorAll('button, input, canvas, [tabindex], summary')].filter((e) =>
        !(e.getAttribute('aria-label') || e.textContent || e.labels && e.labels.length)).map((e) => e.outerHTML)""")
    t.equal(nameless, [], "without a name")
    check_quiet(t, web, browser)


main()
