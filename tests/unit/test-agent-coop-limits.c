/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no program in the guest, nor many, can take of the agent what others need: its places,
 * its time, its memory. */
#include "test-agent-coop.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    g_strlcpy(address.sun_path, path, sizeof address.sun_path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof address), ==, 0);
    work();
    return fd;
}

static unsigned count_clients(void)
{
    unsigned n = 0;
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        n += c->fd >= 0;
    return n;
}

static void test_places(gconstpointer data)
{
    const char *path = data;
    int fds[COOP_MAX_CLIENTS];
    begin_case();
    guint limit = getuid() == 0 ? COOP_MAX_CLIENTS : 16;
    for (guint i = 0; i < limit; i++)
        fds[i] = connect_to(path);
    g_assert_cmpuint(count_clients(), ==, limit);
    check_result(connect_to(path), STASIS_GUEST_RESULT, -EAGAIN);
    close(fds[3]);
    work();
    fds[3] = connect_to(path);
    check_silent(fds[3]);
    for (guint i = 0; i < limit; i++)
        close(fds[i]);
    work();
    g_assert_cmpuint(count_clients(), ==, 0);
}

/* Users, however many they are, leave some places to root. */
static void test_places_of_users(gconstpointer data)
{
    int fds[48];
    if (getuid() != 0) {
        g_test_skip("needs root, to be others");
        return;
    }
    begin_case();
    later(1000);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
        fds[i] = program_new(700, 1000 + i / 16);
    g_assert_cmpint(seteuid(2000), ==, 0);
    int one = connect_to(data);
    g_assert_cmpint(seteuid(0), ==, 0);
    check_result(one, STASIS_GUEST_RESULT, -EAGAIN);
    one = connect_to(data);
    check_silent(one);
    close(one);
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
        close(fds[i]);
    work();
}

static void test_connections_in_a_second(gconstpointer data)
{
    const char *path = data;
    struct pollfd fds[COOP_MAX_FDS];
    begin_case();
    later(1000);
    for (guint i = 0; i < 100; i++)
        close(connect_to(path));
    work();
    g_assert_cmpuint(count_clients(), ==, 0);
    g_assert_cmpuint(coop_poll_fds(fds), ==, 0); /* nobody is listened to in this second any more */
    int one = connect_to(path);
    g_assert_cmpuint(count_clients(), ==, 0);
    later(1000);
    g_assert_cmpuint(coop_poll_fds(fds), ==, 2);
    g_assert_cmpuint(count_clients(), ==, 1);
    close(one);
    work();
}

static void test_junk(void)
{
    static const char *const junk[] = { "", "StG1",
                                        "StG1 and more than such a packet has, and more, "
                                        "and yet more of it, until it does not fit" };
    StasisGuestMessage message;
    begin_case();
    for (guint i = 0; i < G_N_ELEMENTS(junk); i++) {
        int fd = program_new(700, 0);
        g_assert_cmpint(send(fd, junk[i], strlen(junk[i]), MSG_NOSIGNAL), ==,
                        (ssize_t)strlen(junk[i]));
        work();
        g_assert_cmpint(program_hears(fd, &message), ==, 0);
        close(fd);
    }
    /* Not known: of a newer library. */
    int fd = program_new(700, 0);
    program_says(fd, 63, 1, "");
    work();
    check_silent(fd);
    /* Too many of them. */
    unsigned n = 0;
    for (; n < 5000 && program_hears(fd, &message) == -1; n++) {
        program_says(fd, 63, 1, "");
        if (n % 32 == 0)
            work();
    }
    g_assert_cmpuint(n, >, 3900);
    g_assert_cmpuint(n, <, 4200);
    close(fd);
}

/* It does not read: the agent does not wait for it. */
static void test_deaf(void)
{
    begin_case();
    int fd = program_new(700, 0);
    for (guint i = 0; i < 2000 && count_clients() == 1; i++) {
        program_says(fd, STASIS_GUEST_CRITICAL_BEGIN, 1, "");
        work();
    }
    g_assert_cmpuint(count_clients(), ==, 0);
    close(fd);
}

/* It sees that at once, also while a worker, a fork of the agent, has its connection as well. */
static void test_let_go(void)
{
    begin_case();
    int fd = program_new(700, 1000), copies[COOP_MAX_CLIENTS], n = 0;
    StasisGuestMessage message;
    for (CoopClient *c = coop_clients; c < coop_clients + COOP_MAX_CLIENTS; c++)
        if (c->fd >= 0)
            copies[n++] = dup(c->fd);
    program_says(fd, STASIS_GUEST_FREEZE, STASIS_FREEZE_VM, "");
    work();
    g_assert_cmpint(program_hears(fd, &message), ==, 1);
    g_assert_cmpint(message.value, ==, -EPERM);
    g_assert_cmpint(program_hears(fd, &message), ==, 0);
    close(fd);
    while (n > 0)
        close(copies[--n]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_autofree char *dir = g_dir_make_tmp("coop.XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    chmod(dir, 0755); /* others may come */
    coop_init(path);
    g_test_add_data_func("/agent-coop/places", path, test_places);
    g_test_add_data_func("/agent-coop/places-of-users", path, test_places_of_users);
    g_test_add_data_func("/agent-coop/connections-in-a-second", path, test_connections_in_a_second);
    g_test_add_func("/agent-coop/junk", test_junk);
    g_test_add_func("/agent-coop/deaf", test_deaf);
    g_test_add_func("/agent-coop/let-go", test_let_go);
    int result = g_test_run();
    unlink(path);
    rmdir(dir);
    return result;
}
