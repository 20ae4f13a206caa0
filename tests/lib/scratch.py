# SPDX-License-Identifier: LGPL-2.1-or-later
"""A register of a device that nothing but a test writes: the scratch register of the first serial port."""
PORT = 0x3F8 + 7


def monitor(vm, line):
    with vm.qmp() as qmp:
        return qmp.cmd("human-monitor-command", command_line=line)


def write_register(vm, value):
    monitor(vm, f"o /b {PORT} {value:#x}")


def read_register(vm):
    return int(monitor(vm, f"i /b {PORT}").split()[-1], 16)
