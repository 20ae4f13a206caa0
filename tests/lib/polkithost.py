# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bus and a polkitd of the test's own, with stasisd's actions and rules that the test gives."""
import os
import shutil
import subprocess

from stasistest import ROOT, end_process
from tap import PATIENCE

POLKITD = next((path for path in ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd",
                                  "/usr/lib/policykit-1/polkitd") if os.path.exists(path)), None)
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/>
    <allow send_type="signal"/><allow send_requested_reply="true"/><allow receive_type="method_call"/>
    <allow receive_type="signal"/><allow receive_type="method_return"/><allow receive_type="error"/>
    <allow send_destination="*" eavesdrop="true"/>
  </policy>
</busconfig>
"""


def missing():
    """What of it is not installed, or None."""
    if shutil.which("dbus-daemon") is None:
        return "dbus-daemon"
    return None if POLKITD else "polkitd"


def start(t, rules):
    """@rules: JavaScript, see polkit(8). The address of the bus."""
    # polkitd becomes a user of its own, who reads them.
    for name in ("actions", "rules"):
        os.mkdir(t.path(name))
        os.chmod(t.path(name), 0o755)
    shutil.copy(os.path.join(ROOT, "hv/daemon/org.stasis1.policy"), t.path("actions"))
    with open(t.path("rules/10-test.rules"), "w", encoding="utf-8") as f:
        f.write(rules)
    with open(t.path("bus.conf"), "w", encoding="utf-8") as f:
        f.write(BUS.format(path=t.path("bus")))
    address = f"unix:path={t.path('bus')}"
    with open(t.path("polkit.log"), "ab") as log:
        bus = subprocess.Popen(["dbus-daemon", f"--config-file={t.path('bus.conf')}", "--nofork"],
                               stdout=log, stderr=log)
        t.defer(end_process, bus)
        t.wait(lambda: os.path.exists(t.path("bus")), PATIENCE, "the bus listens")
        script = ('mount --bind "$0/actions" /usr/share/polkit-1/actions && '
                  'mount --bind "$0/rules" /etc/polkit-1/rules.d && exec "$@"')
        polkitd = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, t.dir, POLKITD,
                                    "--no-debug"], stdout=log, stderr=log,
                                   env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address})
        t.defer(end_process, polkitd)

    def named():
        done = subprocess.run(["gdbus", "call", "--address", address, "--dest",
                               "org.freedesktop.DBus", "--object-path", "/org/freedesktop/DBus",
                               "--method", "org.freedesktop.DBus.NameHasOwner",
                               "org.freedesktop.PolicyKit1"], capture_output=True, text=True,
                              check=False)
        if polkitd.poll() is not None:
            with open(t.path("polkit.log"), encoding="utf-8") as log:
                raise RuntimeError(f"polkitd ended: {log.read()}")
        return "true" in done.stdout
    t.wait(named, PATIENCE, "polkitd is on the bus")
    return address
