/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a machine that gets other files for its disks is the same machine, and none of the old
 * files is named in its command line any more. */
#include <glib.h>
#include <stasis/error.h>
#include <string.h>

#include "vmm/machine.h"

#define START "qemu-system-x86_64 -M none -nodefaults "

static StasisLaunch *prepare(const char *line, const StasisLaunchDisk *disk, gboolean clone,
                             GError **error)
{
    static const StasisLaunchClone kept = { .keep_identity = TRUE, .keep_network = TRUE };
    g_auto(GStrv) argv = NULL;
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    StasisLaunchOptions options = { .runtime_dir = "/run/v/one",
                                    .accel = "tcg",
                                    .clone = clone ? &kept : NULL,
                                    .disks = disk,
                                    .n_disks = 1 };
    return stasis_launch_prepare((const char *const *)argv, &options, error);
}

static const struct {
    const char *line;
    StasisLaunchDisk disk;
    const char *prepared; /* what must be in it … */
    const char *gone;     /* … and what must not */
} rows[] = {
    { "-drive file=old.qcow2,format=qcow2,if=virtio,cache=none",
      { "virtio0", "#block1", "old.qcow2", "/d/n.qcow2" },
      "-drive if=virtio,cache=none,file=/d/n.qcow2,format=qcow2",
      "old" },
    { "-drive file=old,id=d0,if=none,snapshot=on -device virtio-blk-pci,drive=d0",
      { "d0", "#block1", "json:{}", "/d/n.qcow2" },
      "-drive id=d0,if=none,file=/d/n.qcow2,format=qcow2 -device virtio-blk-pci,drive=d0",
      "old" },
    { "-drive file.driver=file,file.filename=old,driver=raw,if=ide",
      { "ide0-hd0", "#block1", "old", "/d/n.qcow2" },
      "-drive if=ide,file=/d/n.qcow2,format=qcow2",
      "old" },
    { "-hda old",
      { "ide0-hd0", "#b", "old", "/d/a,b" },
      "-drive index=0,media=disk,file=/d/a,,b,format=qcow2",
      "old" },
    { "old",
      { "ide0-hd0", "#b", "old", "/d/n" },
      "-drive index=0,media=disk,file=/d/n,format=qcow2",
      "old" },
    { "-blockdev driver=file,node-name=f,filename=old -blockdev "
      "driver=raw,node-name=n,file=f,discard=unmap -device virtio-blk-pci,drive=n",
      { "v", "n", "old", "/d/n" },
      "-blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=/d/n,discard=unmap "
      "-device virtio-blk-pci,drive=n",
      "old" },
    { "-blockdev '{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"old\"}' -blockdev "
      "'{\"driver\":\"qcow2\",\"node-name\":\"n\",\"file\":\"f\",\"backing\":\"b\"}' -blockdev "
      "driver=qcow2,node-name=b,file=g -blockdev driver=file,node-name=g,filename=old2",
      { "v", "n", "old", "/d/n" },
      "-blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=/d/n -",
      "old" },
    /* A node that somebody else has, too, stays. */
    { "-blockdev driver=file,node-name=f,filename=shared -blockdev driver=raw,node-name=n,file=f "
      "-blockdev driver=raw,node-name=m,file=f,read-only=on",
      { "v", "n", "shared", "/d/n" },
      "-blockdev driver=file,node-name=f,filename=shared",
      "node-name=n,file=f" },
    /* Known by its device, whatever the node is called by now: libvirt. */
    { "-blockdev driver=file,node-name=old-1,filename=old -blockdev "
      "driver=raw,node-name=b-2,file=old-1 -blockdev driver=null-co,node-name=b-1 -device "
      "virtio-blk-pci,drive=b-2,id=vd0 -device virtio-blk-pci,drive=b-1,id=vd1",
      { "vd0", "b-1", "old", "/d/n" },
      "-blockdev driver=qcow2,node-name=b-2,file.driver=file,file.filename=/d/n -blockdev "
      "driver=null-co,node-name=b-1 ",
      "old" },
};

static void test_replaced(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        for (int clone = 0; clone < 2; clone++) {
            g_autoptr(GError) error = NULL;
            g_autofree char *line = g_strconcat(START, rows[i].line, NULL);
            g_autoptr(StasisLaunch) launch = prepare(line, &rows[i].disk, clone, &error);
            g_assert_no_error(error);
            g_autofree char *joined = g_strjoinv(" ", launch->argv);
            g_test_message("%s", joined);
            g_assert_nonnull(strstr(joined, rows[i].prepared));
            g_assert_null(strstr(joined, rows[i].gone));
            g_assert_null(strstr(joined, "snapshot=on"));
        }
    }
}

static void test_unknown(void)
{
    static const StasisLaunchDisk disk = { "d7", "#block7", "lost.raw", "/d/n" };
    static const char *const lines[] = { START, START "-drive file=other,if=virtio",
                                         START "-drive id=d6,file=lost.raw,if=none" };
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisLaunch) launch = prepare(lines[i], &disk, FALSE, &error);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
        g_assert_nonnull(strstr(error->message, "d7"));
        g_assert_null(launch);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/disk/replaced", test_replaced);
    g_test_add_func("/vmm/disk/unknown", test_unknown);
    return g_test_run();
}
