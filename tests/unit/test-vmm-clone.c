/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a clone's command line describes the same machine, and nothing in it reaches what
 * another VM of this host has: no network, no socket, no file that is written, no memory that is
 * shared. */
#include <glib.h>
#include <stasis/error.h>
#include <string.h>

#include "vmm/cmdline.h"
#include "vmm/machine.h"

#define DIR1 "/run/v/one"
#define DIR2 "/run/v/two"
#define START "qemu-system-x86_64 -M none -nodefaults "
#define SAME "-M none -nodefaults "

static StasisLaunch *prepare(const char *line, const char *dir, const StasisLaunchClone *clone,
                             GError **error)
{
    g_auto(GStrv) argv = NULL;
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    StasisLaunchOptions options = { .runtime_dir = dir, .accel = "tcg", .clone = clone };
    return stasis_launch_prepare((const char *const *)argv, &options, error);
}

/* The prepared line behind the program, up to what every line gets at its end. */
static char *cloned(const char *line, const StasisLaunchClone *clone)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisLaunch) launch = prepare(line, DIR1, clone, &error);
    g_assert_no_error(error);
    char *joined = g_strjoinv(" ", launch->argv + 1);
    char *end = strstr(joined, "-chardev socket,id=stasis-qmp");
    g_assert_nonnull(end);
    *end = '\0';
    return joined;
}

static void test_edit(void)
{
    static const char *const drop[] = { "b", NULL };
    static const char *const set[] = { "t", "new", "c", "x,y", NULL };
    static const char *const on[] = { "a", "on", "n", "7", NULL };
    static const struct {
        const char *list, *implied;
        const char *const *drop, *const *set;
        const char *edited;
    } rows[] = {
        { "old,a=1,b=2,c=3", "t", drop, set, "new,a=1,c=x,,y" },
        { "a=1,b=2,,3,bb=4,t=old", "t", drop, set, "new,a=1,bb=4,c=x,,y" },
        { "old,b,b.c=1,d,,e", "t", drop, NULL, "old,d,,e" },
        { "b", "t", drop, NULL, "b" },
        { "b=1", NULL, drop, NULL, "" },
        { "", NULL, NULL, set, "t=new,c=x,,y" },
        { "{\"a\":false,\"b\":[1],\"s\":\"v\"}", "t", drop, on,
          "{\"s\":\"v\",\"a\":true,\"n\":7}" },
        { "{broken", NULL, drop, set, "{broken" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *edited =
            stasis_optlist_edit(rows[i].list, rows[i].implied, rows[i].drop, rows[i].set);
        if (rows[i].list[0] == '{' && rows[i].list[1] != 'b') {
            g_assert_null(strstr(edited, "\"b\""));
            g_assert_nonnull(strstr(edited, "\"a\":true"));
            g_assert_nonnull(strstr(edited, "\"n\":7"));
            continue;
        }
        g_assert_cmpstr(edited, ==, rows[i].edited);
    }
}

/* ---- network ---- */

static void test_isolated(void)
{
    static const struct {
        const char *line, *cloned;
    } rows[] = {
        { "-netdev user,id=n,net=10.0.3.0/24,hostfwd=tcp::2222-:22,hostfwd=tcp::80-:80,smb=/x",
          "-netdev user,id=n,net=10.0.3.0/24,restrict=on" },
        { "-netdev user,id=n,restrict=off,guestfwd=tcp:1.2.3.4:5-cmd:sh",
          "-netdev user,id=n,restrict=on" },
        { "-netdev tap,id=n,ifname=tap0,script=/s,vhost=on,queues=2,vnet_hdr=on,fd=3",
          "-netdev tap,id=n,vnet_hdr=on,queues=2,ifname=stasis%d,script=no,downscript=no" },
        { "-netdev bridge,id=n,br=br0,helper=/h",
          "-netdev tap,id=n,ifname=stasis%d,script=no,downscript=no" },
        { "-netdev socket,id=n,mcast=230.0.0.1:1234", "-netdev hubport,id=n,hubid=900000002" },
        { "-netdev stream,id=n,server=on,addr.type=unix,addr.path=/s",
          "-netdev hubport,id=n,hubid=900000002" },
        { "-netdev vde,id=a -netdev l2tpv3,id=b,src=1.2.3.4",
          "-netdev hubport,id=a,hubid=900000002 -netdev hubport,id=b,hubid=900000003" },
        { "-netdev hubport,id=n,hubid=3,netdev=o", "-netdev hubport,id=n,hubid=3,netdev=o" },
        { "-netdev '{\"type\":\"tap\",\"id\":\"n\",\"ifname\":\"t\"}'",
          "-netdev tap,id=n,ifname=stasis%d,script=no,downscript=no" },
        { "-nic none", "-nic none" },
        { "-nic user,model=e1000,mac=52:54:00:00:00:01,hostfwd=tcp::1-:2",
          "-nic user,model=e1000,mac=52:54:00:00:00:01,restrict=on" },
        { "-nic socket,listen=:1234,model=rtl8139,id=x",
          "-nic hubport,id=x,model=rtl8139,hubid=900000002" },
        { "-nic bridge,br=b,model=virtio-net-pci",
          "-nic tap,model=virtio-net-pci,ifname=stasis%d,script=no,downscript=no" },
        { "-net nic,model=e1000 -net user,hostfwd=tcp::1-:2",
          "-net nic,model=e1000 -net user,restrict=on" },
        { "-net nic -net socket,connect=1.2.3.4:5", "-net nic -net none" },
        { "-netdev user,id=n -object filter-dump,id=f,netdev=n,file=/x",
          "-netdev user,id=n,restrict=on" },
    };
    StasisLaunchClone clone = { .keep_identity = TRUE };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *from = g_strconcat(START, rows[i].line, NULL);
        g_autofree char *want = g_strconcat(SAME, rows[i].cloned, " -display none ", NULL);
        g_autofree char *line = cloned(from, &clone);
        g_assert_cmpstr(line, ==, want);
    }
    /* QEMU's own default is an open network. */
    g_autofree char *standard = cloned("qemu-system-x86_64 -M none", &clone);
    g_assert_nonnull(strstr(standard, "-net nic -net user,restrict=on "));
}

static void test_network_as_is(void)
{
    StasisLaunchClone clone = { .keep_identity = TRUE, .keep_network = TRUE };
    static const char line[] = "-netdev tap,id=n,ifname=tap0 -nic user,hostfwd=tcp::1-:2 "
                               "-object filter-dump,id=f,netdev=n,file=/x";
    g_autofree char *same = cloned(START "-netdev tap,id=n,ifname=tap0 -nic "
                                         "user,hostfwd=tcp::1-:2 -object "
                                         "filter-dump,id=f,netdev=n,file=/x",
                                   &clone);
    g_autofree char *want = g_strconcat(SAME, line, " -display none ", NULL);
    g_assert_cmpstr(same, ==, want);
}

/* ---- what two VMs can't both have ---- */

static void test_host(void)
{
    static const struct {
        const char *line, *cloned;
    } rows[] = {
        /* disks */
        { "-drive file=/a,,b,if=virtio", "-drive file=/a,,b,if=virtio,snapshot=on" },
        { "-drive file=/a,snapshot=off", "-drive file=/a,snapshot=on" },
        { "-drive file=/a,media=cdrom", "-drive file=/a,media=cdrom" },
        { "-drive file=/a,if=pflash,readonly=on", "-drive file=/a,if=pflash,readonly=on" },
        { "-drive driver=null-co,if=none,id=d", "-drive driver=null-co,if=none,id=d" },
        { "-hda /a,b -hdd /c", "-drive file=/a,,b,index=0,media=disk,snapshot=on "
                               "-drive file=/c,index=3,media=disk,snapshot=on" },
        { "/disk.img", "-drive file=/disk.img,index=0,media=disk,snapshot=on" },
        { "-pflash /vars", "-drive file=/vars,if=pflash,snapshot=on" },
        { "-blockdev file,filename=/a,node-name=x,read-only=on",
          "-blockdev file,filename=/a,node-name=x,read-only=on" },
        { "-blockdev file,filename=/a,node-name=f,auto-read-only=on -blockdev "
          "raw,node-name=x,read-only=on,file=f",
          "-blockdev file,filename=/a,node-name=f,auto-read-only=on -blockdev "
          "raw,node-name=x,read-only=on,file=f" },
        { "-blockdev '{\"driver\":\"null-co\",\"node-name\":\"x\"}'",
          "-blockdev {\"driver\":\"null-co\",\"node-name\":\"x\"}" },
        /* sockets and files */
        { "-chardev socket,id=c,path=/s,server=on,wait=off,mux=on",
          "-chardev socket,id=c,server=on,wait=off,mux=on,path=" DIR1 "/clone-socket-2" },
        { "-chardev socket,id=c,path=/s", "-chardev null,id=c" },
        { "-chardev socket,id=c,host=h,port=1,server=on,mux=on", "-chardev null,id=c,mux=on" },
        { "-chardev file,id=c,path=/f,logfile=/l",
          "-chardev file,id=c,path=" DIR1 "/clone-file-2" },
        { "-chardev udp,id=c,host=h,port=1 -chardev pipe,id=d,path=/p -chardev pty,id=e",
          "-chardev null,id=c -chardev null,id=d -chardev pty,id=e" },
        { "-serial tcp::4444,server", "-serial chardev:stasis-console" },
        { "-serial null -serial file:/x -serial unix:/y,server",
          "-serial null -serial chardev:stasis-console -serial null" },
        { "-debugcon file:/x -parallel /dev/lp0 -debugcon vc",
          "-debugcon null -parallel null -debugcon vc" },
        /* monitors, debuggers */
        { "-monitor unix:/m,server -qmp tcp::4444,server -qmp-pretty unix:/q -gdb tcp::1234 -s",
          "-monitor none" },
        { "-D /log -mem-path /dev/hugepages -mem-prealloc -rtc base=utc", "-rtc base=utc" },
    };
    StasisLaunchClone clone = { .keep_identity = TRUE };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *from = g_strconcat(START, rows[i].line, NULL);
        g_autofree char *want = g_strconcat(SAME, rows[i].cloned, " -display none ", NULL);
        g_autofree char *line = cloned(from, &clone);
        g_assert_cmpstr(line, ==, want);
    }
}

static void test_user(void)
{
    StasisLaunchClone clone = { .keep_identity = TRUE, .user = "12:34" };
    g_autofree char *line = cloned(START, &clone);
    g_assert_nonnull(strstr(line, "-runas 12:34 -sandbox on,"));
    g_assert_nonnull(strstr(line, "spawn=deny"));
}

/* As libvirt prints a port that it opens itself. */
static void test_agent(void)
{
    static const char from[] =
        START "-chardev null,id=c -device virtserialport,chardev=c,name=org.stasis.agent.0";
    g_auto(GStrv) argv = NULL;
    g_assert_true(g_shell_parse_argv(from, NULL, &argv, NULL));
    StasisLaunchOptions options = { .runtime_dir = DIR1, .accel = "tcg", .agent = TRUE };
    g_autoptr(StasisLaunch) launch =
        stasis_launch_prepare((const char *const *)argv, &options, NULL);
    g_autofree char *line = g_strjoinv(" ", launch->argv);
    g_assert_nonnull(
        strstr(line, "-chardev socket,id=c,server=on,wait=off,path=" DIR1 "/agent.sock -device"));
    g_assert_null(strstr(line, "stasis-serial"));
}

static void test_displays(void)
{
    StasisLaunchClone clone = { .keep_identity = TRUE };
    g_autofree char *vnc = cloned(START "-vnc :1,password=on,to=9,websocket=5701", &clone);
    g_assert_cmpstr(vnc, ==, SAME "-vnc unix:" DIR1 "/clone-vnc-2,password=on ");
    g_autofree char *display = cloned(START "-display vnc=:1", &clone);
    g_assert_cmpstr(display, ==, SAME "-vnc unix:" DIR1 "/clone-vnc-2 ");
    g_autofree char *spice = cloned(START "-spice port=5900,disable-ticketing=on", &clone);
    g_assert_cmpstr(spice, ==,
                    SAME "-spice disable-ticketing=on,unix=on,addr=" DIR1 "/clone-spice-2 ");
}

static void test_refused(void)
{
    static const char *const lines[] = {
        "-blockdev qcow2,node-name=disk,file=f",
        "-blockdev '{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"/d\"}'",
        "-readconfig /c",
        "-set drive.d.snapshot=off",
        "-tpmdev emulator,id=t,chardev=c",
        "-fsdev local,id=f,path=/x,security_model=none",
        "-virtfs local,path=/x,mount_tag=t,security_model=none",
        "-device vhost-vsock-pci,guest-cid=3",
        "-object memory-backend-file,id=shm,share=on,mem-path=/dev/shm/x,size=1M",
    };
    StasisLaunchClone clone = { .keep_identity = TRUE };
    for (guint i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *line = g_strconcat(START, lines[i], NULL);
        g_autofree char *option = g_strndup(lines[i], strcspn(lines[i], " "));
        g_assert_null(prepare(line, DIR1, &clone, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
        g_assert_nonnull(strstr(error->message, option));
        /* As one VM it can come back. */
        g_autoptr(StasisLaunch) restored = prepare(line, DIR1, NULL, NULL);
        g_assert_nonnull(restored);
    }
    g_autofree char *fine = cloned(START "-fsdev local,id=f,path=/x,readonly=on", &clone);
    g_assert_nonnull(strstr(fine, "readonly=on"));
}

/* ---- identity ---- */

static char *option_value(StasisLaunch *launch, const char *name, const char *key)
{
    for (guint i = 1; launch->argv[i] != NULL && launch->argv[i + 1] != NULL; i++)
        if (launch->argv[i][0] == '-' && strcmp(launch->argv[i] + 1, name) == 0) {
            char *value = key != NULL ? stasis_optlist_get(launch->argv[i + 1], key, "driver")
                                      : g_strdup(launch->argv[i + 1]);
            if (value != NULL)
                return value;
        }
    return NULL;
}

static void test_identity(void)
{
    static const char line[] =
        START "-uuid 11111111-1111-1111-1111-111111111111 "
              "-smbios type=1,serial=x,uuid=11111111-1111-1111-1111-111111111111 "
              "-netdev user,id=n -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01,bus=b "
              "-device '{\"driver\":\"e1000\",\"id\":\"k\"}' -device vmgenid,guid=auto,id=g";
    StasisLaunchClone clone = { 0 };
    g_autoptr(StasisLaunch) one = prepare(line, DIR1, &clone, NULL);
    g_autoptr(StasisLaunch) two = prepare(line, DIR2, &clone, NULL);
    g_assert_true(g_uuid_string_is_valid(one->uuid));
    g_assert_true(g_uuid_string_is_valid(one->generation_id));
    g_assert_cmpuint(g_strv_length(one->macs), ==, 2);
    g_assert_cmpstr(one->uuid, !=, two->uuid);
    g_assert_cmpstr(one->generation_id, !=, two->generation_id);
    g_assert_cmpstr(one->macs[0], !=, two->macs[0]);
    g_assert_cmpstr(one->macs[0], !=, one->macs[1]);
    g_assert_true(g_str_has_prefix(one->macs[0], "52:54:00:"));
    g_autofree char *uuid = option_value(one, "uuid", NULL);
    g_autofree char *smbios = option_value(one, "smbios", "uuid");
    g_autofree char *mac = option_value(one, "device", "mac");
    g_autofree char *guid = option_value(one, "device", "guid");
    g_assert_cmpstr(uuid, ==, one->uuid);
    g_assert_cmpstr(smbios, ==, one->uuid);
    g_assert_cmpstr(mac, ==, one->macs[0]);
    g_assert_cmpstr(guid, ==, one->generation_id);
    g_autofree char *joined = g_strjoinv(" ", one->argv);
    g_assert_null(strstr(joined, "11111111"));
    g_assert_null(strstr(joined, "52:54:00:00:00:01"));
    g_assert_nonnull(strstr(joined, "virtio-net-pci,netdev=n,bus=b,mac="));
}

/* A machine without the device gets none; the NIC that QEMU makes by itself has a new address. */
static void test_identity_adds_no_device(void)
{
    StasisLaunchClone clone = { 0 }, same = { .keep_identity = TRUE };
    g_autoptr(StasisLaunch) plain = prepare("qemu-system-x86_64 -M none", DIR1, &clone, NULL);
    g_assert_null(plain->generation_id);
    g_assert_cmpuint(g_strv_length(plain->macs), ==, 1);
    g_autofree char *joined = g_strjoinv(" ", plain->argv);
    g_assert_null(strstr(joined, "-device"));
    g_assert_nonnull(strstr(joined, "-net nic,macaddr="));
    g_autoptr(StasisLaunch) kept = prepare(
        START "-uuid 11111111-1111-1111-1111-111111111111 -device vmgenid", DIR1, &same, NULL);
    g_autofree char *line = g_strjoinv(" ", kept->argv);
    g_assert_null(kept->uuid);
    g_assert_null(kept->macs);
    g_assert_nonnull(strstr(line, "-uuid 11111111-1111-1111-1111-111111111111 -device vmgenid "));
}

/* ---- RAM ---- */

#define TEMPLATE "/st/cache/01m8a594thvnvb2zsj5a416xdx.ram/ram-3"

static void test_ram(void)
{
    const StasisCloneRam ram[] = { { "m", TEMPLATE },
                                   { "/objects/old", TEMPLATE },
                                   { "own", NULL } };
    StasisLaunchClone clone = { .keep_identity = TRUE, .ram = ram, .n_ram = G_N_ELEMENTS(ram) };
    static const struct {
        const char *line, *cloned;
    } rows[] = {
        { "-object memory-backend-memfd,id=m,size=64M,share=on,seal=on,prealloc=on,policy=bind",
          "-object memory-backend-file,id=m,size=64M,policy=bind,share=off,mem-path=" TEMPLATE },
        { "-object memory-backend-ram,id=old,size=64M",
          "-object memory-backend-file,id=old,size=64M,share=off,mem-path=" TEMPLATE },
        { "-object memory-backend-file,id=m,share=on,mem-path=/dev/shm/x,size=1M,discard-data=on",
          "-object memory-backend-file,id=m,size=1M,share=off,mem-path=" TEMPLATE },
        /* without a template: never the file that the original has */
        { "-object memory-backend-file,id=own,share=on,mem-path=/dev/shm/x,size=1M",
          "-object memory-backend-memfd,id=own,size=1M,share=on" },
        { "-object memory-backend-ram,id=other,size=64M",
          "-object memory-backend-ram,id=other,size=64M" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *from = g_strconcat(START, rows[i].line, NULL);
        g_autofree char *want = g_strconcat(SAME, rows[i].cloned, " -display none ", NULL);
        g_autofree char *line = cloned(from, &clone);
        g_assert_cmpstr(line, ==, want);
    }
    const StasisCloneRam main_ram[] = { { "pc.ram", TEMPLATE } };
    StasisLaunchClone unprepared = { .keep_identity = TRUE, .ram = main_ram, .n_ram = 1 };
    g_autoptr(StasisLaunch) launch =
        prepare("qemu-system-x86_64 -m 64 -mem-path /dev/shm -nodefaults", DIR1, &unprepared, NULL);
    g_assert_cmpuint(launch->clone_ram->len, ==, 1);
    g_autofree char *line = g_strjoinv(" ", launch->argv);
    g_assert_nonnull(strstr(line, "-object memory-backend-file,id=pc.ram,size=67108864,"
                                  "x-use-canonical-path-for-ramblock-id=off,share=off,mem-path="));
}

/* A clone's own image: restored, it has RAM of its own and its files in its own directory; cloned
 * again, the template of that image. */
static void test_clone_of_clone(void)
{
    const StasisCloneRam first[] = { { "m", TEMPLATE } };
    const StasisCloneRam second[] = { { "m", "/st/cache/01m8a594thvnvb2zsj5a416xdy.ram/ram-0" } };
    StasisLaunchClone clone = { .ram = first, .n_ram = 1 };
    StasisLaunchClone again = { .ram = second, .n_ram = 1 };
    g_autoptr(StasisLaunch) one =
        prepare(START "-object memory-backend-memfd,id=m,size=64M -netdev tap,id=n "
                      "-chardev socket,id=c,path=/s,server=on -vnc :1",
                DIR1, &clone, NULL);
    g_autofree char *line = g_strjoinv(" ", one->argv);
    g_autoptr(StasisLaunch) restored = prepare(line, DIR2, NULL, NULL);
    g_autofree char *back = g_strjoinv(" ", restored->argv);
    g_assert_null(strstr(back, ".ram/"));
    g_assert_null(strstr(back, DIR1));
    g_assert_nonnull(strstr(back, "-object memory-backend-memfd,id=m,size=64M,share=on "));
    g_assert_nonnull(strstr(back, "path=" DIR2 "/clone-socket-"));
    g_assert_nonnull(strstr(back, "unix:" DIR2 "/clone-vnc-"));
    g_autoptr(StasisLaunch) two = prepare(line, DIR2, &again, NULL);
    g_autofree char *cloned_again = g_strjoinv(" ", two->argv);
    g_assert_nonnull(strstr(cloned_again, "mem-path=/st/cache/01m8a594thvnvb2zsj5a416xdy.ram/"));
    g_assert_null(strstr(cloned_again, "xdx.ram"));
    g_assert_null(strstr(cloned_again, DIR1));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/clone/edit", test_edit);
    g_test_add_func("/vmm/clone/isolated", test_isolated);
    g_test_add_func("/vmm/clone/network-as-is", test_network_as_is);
    g_test_add_func("/vmm/clone/host", test_host);
    g_test_add_func("/vmm/clone/user", test_user);
    g_test_add_func("/vmm/clone/agent", test_agent);
    g_test_add_func("/vmm/clone/displays", test_displays);
    g_test_add_func("/vmm/clone/refused", test_refused);
    g_test_add_func("/vmm/clone/identity", test_identity);
    g_test_add_func("/vmm/clone/identity-adds-no-device", test_identity_adds_no_device);
    g_test_add_func("/vmm/clone/ram", test_ram);
    g_test_add_func("/vmm/clone/clone-of-clone", test_clone_of_clone);
    return g_test_run();
}
