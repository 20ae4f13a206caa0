/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names are those of vmstate sections (QEMU 7.2 and later; hw/…: VMStateDescription.name). What
 * decides is where the driver's half of the conversation lies: a device that keeps all of it in
 * registers can go back; one with rings or queues in guest memory can't without them; and what the
 * whole machine leans on (CPUs, interrupt controllers, clocks) only with the rest of it.
 */
#include "engine/devices/device-kind.h"

#include <string.h>

#define NAMES(...)        \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

static const StasisDeviceKind kinds[] = {
    { "run state", NAMES("globalstate", "configuration"), STASIS_DEVICE_NEVER,
      "that is QEMU's own note, and no device" },
    { "virtual CPU", NAMES("cpu", "cpu_common", "cpu*"), STASIS_DEVICE_FORCE,
      "the CPU goes back to another instruction while its memory does not: the guest crashes, as a "
      "rule" },
    { "interrupt controller", NAMES("apic", "ioapic", "i8259", "kvm-tpr-opt", "gic*", "arm_gic*"),
      STASIS_DEVICE_FORCE,
      "interrupts that were pending come again, others are lost, and the lines of other devices no "
      "longer agree with it" },
    { "clock", NAMES("timer", "kvmclock", "hpet"), STASIS_DEVICE_FORCE,
      "the guest's time jumps back, and timers fire late or twice" },
    { "timer or clock of day", NAMES("i8254", "mc146818rtc", "pcspk"), STASIS_DEVICE_MAY,
      "alarms and periods are the earlier ones; the clock of day may jump" },
    { "virtio device", NAMES("virtio-*"), STASIS_DEVICE_FORCE,
      "its rings lie in guest memory and do not go back: requests are lost or repeated, and the "
      "driver waits for ever until it is loaded anew" },
    { "network card",
      NAMES("e1000*", "rtl8139", "pcnet", "vmxnet3*", "ne2000*", "igb*", "i82*", "eepro100",
            "dp8393x", "tulip"),
      STASIS_DEVICE_MAY,
      "its rings lie in guest memory and do not go back: packets are lost or sent twice; if it "
      "stays "
      "silent, take the interface down and up or load the driver anew" },
    { "disk controller",
      NAMES("ide", "ide_*", "*-ide", "ahci*", "ich9_ahci", "nvme*", "lsi*", "megasas*", "mptsas*",
            "pvscsi*", "vmw_pvscsi*", "fdc", "isa-fdc", "sdhci*", "esp*", "scsi-*"),
      STASIS_DEVICE_FORCE,
      "requests under way are lost or repeated: the guest may see errors of the disk, or write to "
      "the wrong place" },
    { "USB controller", NAMES("ehci*", "*uhci*", "xhci*", "ohci*", "usb-*"), STASIS_DEVICE_FORCE,
      "its schedules lie in guest memory and do not go back: the driver may have to be loaded "
      "anew" },
    { "serial port", NAMES("serial", "isa-serial", "pci-serial*", "pl011"), STASIS_DEVICE_MAY,
      "characters in its queues come again or are lost; speed and interrupts are as they were set "
      "then" },
    { "keyboard or mouse", NAMES("ps2*", "pckbd", "vmmouse"), STASIS_DEVICE_MAY,
      "keys that were held then are held again until they are pressed once more" },
    { "display", NAMES("vga", "cirrus*", "bochs*", "qxl*", "ati*"), STASIS_DEVICE_MAY,
      "the mode of the screen goes back, and what is in its memory does not: the picture may be "
      "garbled until the next change of mode" },
    { "chipset",
      NAMES("PCIBUS", "PIIX*", "I440FX", "ICH9*", "mch", "piix4_pm", "*bridge*", "pcie*"),
      STASIS_DEVICE_FORCE,
      "how the other devices are reached, and which interrupts they have, goes back as well" },
    { "device", NAMES("*"), STASIS_DEVICE_MAY,
      "the driver finds registers other than those that it wrote last; load it anew if the device "
      "does not answer" },
};

const StasisDeviceKind *stasis_device_kind_of(const char *name)
{
    const char *slash = strrchr(name, '/');
    const char *last = slash != NULL ? slash + 1 : name;
    for (guint i = 0; i + 1 < G_N_ELEMENTS(kinds); i++)
        for (guint j = 0; kinds[i].patterns[j] != NULL; j++)
            if (g_pattern_match_simple(kinds[i].patterns[j], last))
                return &kinds[i];
    return &kinds[G_N_ELEMENTS(kinds) - 1];
}
