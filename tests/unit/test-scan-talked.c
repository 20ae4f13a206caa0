/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: of those who share an object only those between whom something was said are bound
 * together, and doubt (in flight, ended, young, just begun) always binds; hard edges never part. */
#include <glib.h>
#include <linux/btf.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "graph/internal.h"
#include "scan/internal.h"
#include "talk/internal.h"

#define HZ_NS 10000000u

static const StasisScanner pipes = { "pipe", "the test's", NULL, STASIS_COUNTED_PIPE };
static const StasisScanner sockets = { "unix", "the test's", NULL, STASIS_COUNTED_SOCKET };
static const StasisScanner semaphores = { "sysv-sem", "the test's", NULL, STASIS_COUNTED_SEM };
static const StasisScanner memory = { "anon-shm", "the test's", NULL };

typedef struct {
    StasisScan scan;
    StasisCounts counts;
    StasisCount items[16];
    StasisFd fds[16];
    size_t n_fds;
    StasisUsers users;
} World;

/* Processes 100, 101, … of before counting began. */
static void make(World *w, int n_processes)
{
    memset(w, 0, sizeof *w);
    w->scan.arena.limit_bytes = 1 << 20;
    w->scan.limits.deadline_ns = G_MAXUINT64;
    w->counts = (StasisCounts){ .items = w->items, .since_ns = 1000 * (guint64)HZ_NS };
    w->scan.limits.counts = &w->counts;
    for (int i = 0; i < n_processes; i++)
        *STASIS_PUSH(&w->scan, &w->scan.processes) =
            (StasisProcess){ .pid = 100 + i, .state = 'S', .comm = "p", .cgroup = "", .start = 1 };
}

/* In the order of objects and processes. */
static void count(World *w, StasisCounted kind, guint64 object, guint pid, guint sent,
                  guint received)
{
    w->items[w->counts.n++] = (StasisCount){ { pid, kind, object }, sent, received };
}

/* Process @process has @ino open, which is @real with us. */
static void use(World *w, int process, guint64 ino, int real)
{
    w->fds[w->n_fds] = (StasisFd){ .process = process,
                                   .fd = 3,
                                   .carrier = -1,
                                   .kcmp_pid = getpid(),
                                   .kcmp_fd = real,
                                   .kind = STASIS_FD_PIPE,
                                   .ino = ino,
                                   .link = "" };
    stasis_users_add_fd(&w->scan, &w->users, 1, 0, 0, &w->fds[w->n_fds++]);
}

/* "0-1:5 0-2:-" for edges that bind and such that are silent. */
static char *link_all(World *w, const StasisScanner *scanner)
{
    GString *text = g_string_new(NULL);
    w->scan.edges.n = 0;
    stasis_users_sort(&w->users);
    stasis_users_link_one(scanner, &w->scan, w->users.items, w->users.n, "x", STASIS_EDGE_CUTTABLE,
                          "because");
    for (size_t i = 0; i < w->scan.edges.n; i++) {
        const StasisEdge *e = &w->scan.edges.items[i];
        g_assert_cmpint(e->silent, ==, e->counted && e->talked == 0);
        g_string_append_printf(text, "%s%d-%d:", i > 0 ? " " : "", e->a, e->b);
        if (e->counted && !e->silent)
            g_string_append_printf(text, "%d", (int)e->talked);
        else
            g_string_append(text, e->counted ? "-" : "?");
    }
    g_assert_cmpint(w->scan.failure, ==, STASIS_SCAN_OK);
    return g_string_free(text, FALSE);
}

static void assert_links(World *w, const StasisScanner *scanner, const char *expected)
{
    g_autofree char *found = link_all(w, scanner);
    g_assert_cmpstr(found, ==, expected);
}

static void test_pipe(void)
{
    World w;
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    make(&w, 4);
    for (int i = 0; i < 4; i++)
        use(&w, i, 7, ends[0]);
    assert_links(&w, &pipes, "0-1:- 0-2:- 0-3:-");
    /* One alone has talked to nobody; what is said over another object means nothing. */
    count(&w, STASIS_COUNTED_PIPE, 7, 102, 5, 0);
    count(&w, STASIS_COUNTED_PIPE, 8, 101, 5, 0);
    assert_links(&w, &pipes, "2-0:- 2-1:- 2-3:-");
    /* Two that did are bound, whoever comes first. */
    w.counts.n = 1;
    count(&w, STASIS_COUNTED_PIPE, 7, 103, 0, 5);
    assert_links(&w, &pipes, "2-0:- 2-1:- 2-3:5");
    /* In flight, it may be anybody's. */
    w.counts.n = 0;
    g_assert_cmpint(write(ends[1], "x", 1), ==, 1);
    assert_links(&w, &pipes, "0-1:1 0-2:1 0-3:1");
    stasis_scan_clear(&w.scan);
    close(ends[0]);
    close(ends[1]);
}

static void test_doubt(void)
{
    World w;
    int ends[2];
    g_assert_cmpint(pipe(ends), ==, 0);
    make(&w, 3);
    for (int i = 0; i < 3; i++)
        use(&w, i, 7, ends[0]);
    /* Counting has only begun. */
    w.counts.unknown = true;
    assert_links(&w, &pipes, "0-1:1 0-2:1");
    w.counts.unknown = false;
    assert_links(&w, &pipes, "0-1:- 0-2:-");
    /* Who has ended may have spoken for anybody. */
    count(&w, STASIS_COUNTED_PIPE, 7, 99, 1, 0);
    assert_links(&w, &pipes, "0-1:1 0-2:1");
    w.items[0].key.pid = 100;
    assert_links(&w, &pipes, "0-1:- 0-2:-");
    /* A child that is younger than the counting knows what its parent does. */
    w.scan.processes.items[2].start = 2000;
    w.scan.processes.items[2].ppid = 100;
    assert_links(&w, &pipes, "0-1:- 0-2:1");
    /* Of the relation, or of anything, nobody counts. */
    assert_links(&w, &memory, "0-1:? 0-2:?");
    w.scan.limits.counts = NULL;
    assert_links(&w, &pipes, "0-1:? 0-2:?");
    stasis_scan_clear(&w.scan);
    close(ends[0]);
    close(ends[1]);
}

/* Asking for something is counted, getting it is not: it went to the other end. */
static void test_socket(void)
{
    World w;
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), ==, 0);
    make(&w, 4);
    for (int i = 0; i < 2; i++)
        *STASIS_PUSH(&w.scan, &w.scan.sockets) =
            (StasisSocket){ .ino = 7 + i, .family = AF_UNIX, .peer = 8 - i };
    use(&w, 0, 7, ends[0]);
    use(&w, 1, 8, ends[1]);
    use(&w, 2, 7, ends[0]);
    use(&w, 3, 8, ends[1]);
    assert_links(&w, &sockets, "0-1:- 0-2:- 0-3:-");
    count(&w, STASIS_COUNTED_SOCKET, 7, 102, 3, 0);
    assert_links(&w, &sockets, "1-0:- 1-2:3 1-3:1");
    /* What waits on the way binds all. */
    w.counts.n = 0;
    g_assert_cmpint(write(ends[1], "x", 1), ==, 1);
    assert_links(&w, &sockets, "0-1:1 0-2:1 0-3:1");
    stasis_scan_clear(&w.scan);
    close(ends[0]);
    close(ends[1]);
}

static void test_semaphore(void)
{
    World w;
    make(&w, 3);
    count(&w, STASIS_COUNTED_SEM, 0, 100, 2, 0);
    for (int i = 0; i < 2; i++)
        stasis_users_add(&w.scan, &w.users, 0, 0, 0, i, "uses");
    /* Who waits for it since before has got it. */
    assert_links(&w, &semaphores, "0-1:2");
    w.items[0].key.object = 1;
    assert_links(&w, &semaphores, "0-1:-");
    /* A user that nothing else shows. */
    w.users.n = 0;
    stasis_talked_users(&w.scan, &w.users, STASIS_COUNTED_SEM);
    g_assert_cmpuint(w.users.n, ==, 1);
    g_assert_cmpuint(w.users.items[0].key[0], ==, 1);
    stasis_scan_clear(&w.scan);
}

/* Type information of a kernel that has one function and one structure with another in it. */
static void test_types(void)
{
#define NAMES "\0f\0file\0f_inode\0a"
    const struct {
        struct btf_header head;
        struct btf_type proto;
        struct btf_param args[2];
        struct btf_type function;
        struct btf_type within;
        struct btf_member inner;
        struct btf_type file;
        struct btf_member members[2];
        char names[sizeof NAMES];
    } kernel = {
        .head = { .magic = BTF_MAGIC,
                  .version = 1,
                  .hdr_len = sizeof(struct btf_header),
                  .type_len = offsetof(typeof(kernel), names) - sizeof(struct btf_header),
                  .str_off = offsetof(typeof(kernel), names) - sizeof(struct btf_header),
                  .str_len = sizeof NAMES },
        .proto = { .info = BTF_KIND_FUNC_PROTO << 24 | 2 },
        .function = { .name_off = 1, .info = BTF_KIND_FUNC << 24, .type = 1 },
        .within = { .info = BTF_KIND_STRUCT << 24 | 1, .size = 16 },
        .inner = { .name_off = 8, .offset = 64 },
        .file = { .name_off = 3, .info = BTF_KIND_STRUCT << 24 | 2, .size = 32 },
        .members = { { .name_off = 16, .offset = 0 }, { .type = 3, .offset = 128 } },
        .names = NAMES,
    };
    unsigned n_args = 0;
    for (size_t size = 0; size <= sizeof kernel; size++) {
        StasisBtf btf;
        unsigned char *bytes = malloc(size + 1);
        memcpy(bytes, &kernel, size);
        /* Cut off anywhere it is malformed, or its names are. */
        bool good = stasis_btf_parse(&btf, bytes, size);
        if (size < offsetof(typeof(kernel), names) + sizeof NAMES) {
            g_assert_false(good);
        } else {
            g_assert_true(good);
            g_assert_cmpuint(stasis_btf_function(&btf, "f", &n_args), ==, 2);
            g_assert_cmpuint(n_args, ==, 2);
            g_assert_cmpuint(stasis_btf_function(&btf, "file", &n_args), ==, 0);
            g_assert_cmpint(stasis_btf_member(&btf, "file", "f_inode"), ==, 16 + 8);
            g_assert_cmpint(stasis_btf_member(&btf, "file", "b"), ==, -1);
            g_assert_cmpint(stasis_btf_member(&btf, "f", "a"), ==, -1);
        }
        stasis_btf_close(&btf);
    }
}

/* Jumps stay within a program, and it fits. */
static void test_programs(void)
{
    const Layout layout = { .inode_ino_size = 8 };
    for (const Hook *h = stasis_talk_hooks; h->function != NULL; h++) {
        struct bpf_insn insns[MAX_INSNS];
        unsigned n = stasis_talk_program(h, &layout, 6, 3, 4, insns);
        g_assert_cmpuint(n, <=, MAX_INSNS);
        g_assert_cmpint(insns[n - 1].code, ==, BPF_JMP | BPF_EXIT);
        for (unsigned i = 0; i < n; i++)
            if (BPF_CLASS(insns[i].code) == BPF_JMP && BPF_OP(insns[i].code) != BPF_CALL &&
                BPF_OP(insns[i].code) != BPF_EXIT) {
                g_assert_cmpint(insns[i].off, >=, 0);
                g_assert_cmpuint(i + 1 + (unsigned)insns[i].off, <, n);
            }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/scan/talked/pipe", test_pipe);
    g_test_add_func("/scan/talked/doubt", test_doubt);
    g_test_add_func("/scan/talked/socket", test_socket);
    g_test_add_func("/scan/talked/semaphore", test_semaphore);
    g_test_add_func("/scan/talked/types", test_types);
    g_test_add_func("/scan/talked/programs", test_programs);
    return g_test_run();
}
