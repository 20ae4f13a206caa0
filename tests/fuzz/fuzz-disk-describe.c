/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no disks.json crashes us, and what is taken of one can be put on a command line; nor
 * does the head of a disk file, whose backing file's name lies in it. */
#include <stdint.h>
#include <string.h>

#include "disk/describe.h"
#include "disk/overlay.h"
#include "vmm/machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The disk is looked for, and found or not, in a line that has one of every kind. */
static void prepare(const StasisDiskNote *note)
{
    static const char *const argv[] = { "qemu-system-x86_64",
                                        "-hda",
                                        "a",
                                        "-drive",
                                        "file=b,id=b,if=none",
                                        "-blockdev",
                                        "driver=file,node-name=f,filename=c",
                                        "-blockdev",
                                        "{\"driver\":\"raw\",\"node-name\":\"n\",\"file\":\"f\"}",
                                        NULL };
    StasisLaunchDisk disk = { note->name, note->node, note->filename, "/d" };
    StasisLaunchOptions options = {
        .runtime_dir = "/run/v", .accel = "tcg", .disks = &disk, .n_disks = 1
    };
    g_autoptr(StasisLaunch) launch = stasis_launch_prepare(argv, &options, NULL);
    if (launch == NULL)
        return;
    g_autofree char *line = g_strjoinv(" ", launch->argv);
    if (strstr(line, "/d") == NULL)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *backing = stasis_overlay_get_backing(data, size);
    if (backing != NULL && strlen(backing) > 1023)
        __builtin_trap();
    g_autoptr(GBytes) json = g_bytes_new(data, size);
    g_autoptr(GPtrArray) notes = stasis_disks_parse(json, NULL);
    for (guint i = 0; notes != NULL && i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (note->size_bytes == 0 || *note->name == '\0')
            __builtin_trap();
        prepare(note);
    }
    return 0;
}
