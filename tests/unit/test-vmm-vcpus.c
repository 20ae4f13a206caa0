/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: our threads keep off CPUs on which virtual ones are running, as long as any CPU is left,
 * and are put back where they were. */
#include "vmm/vcpus.h"

#include <unistd.h>

static gint quit;

/* Sits on one CPU, and works there all the time or not at all. */
typedef struct {
    int cpu;
    gboolean works;
    gint thread; /* its ID, once it sits there */
} Sitter;

static gpointer sit(gpointer data)
{
    Sitter *sitter = data;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sitter->cpu, &one);
    g_assert_cmpint(sched_setaffinity(0, sizeof(one), &one), ==, 0);
    g_atomic_int_set(&sitter->thread, gettid());
    while (!g_atomic_int_get(&quit))
        if (!sitter->works)
            g_usleep(1000);
    return NULL;
}

static int nth_cpu(const cpu_set_t *set, int n)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, set) && n-- == 0)
            return cpu;
    return -1;
}

static GArray *start(Sitter *sitters, GThread **threads, int n)
{
    GArray *ids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g_atomic_int_set(&quit, FALSE);
    for (int i = 0; i < n; i++) {
        threads[i] = g_thread_new("sitter", sit, &sitters[i]);
        while (g_atomic_int_get(&sitters[i].thread) == 0)
            g_usleep(100);
        pid_t id = g_atomic_int_get(&sitters[i].thread);
        g_array_append_val(ids, id);
    }
    return ids;
}

static void end(GThread **threads, int n)
{
    g_atomic_int_set(&quit, TRUE);
    for (int i = 0; i < n; i++)
        g_thread_join(threads[i]);
}

static void test_spare(void)
{
    cpu_set_t allowed, spare, now;
    g_assert_cmpint(sched_getaffinity(0, sizeof(allowed), &allowed), ==, 0);
    int n = CPU_COUNT(&allowed);
    if (n < 2) {
        g_test_skip("one CPU only");
        return;
    }
    Sitter sitters[] = { { .cpu = nth_cpu(&allowed, 0), .works = TRUE },
                         { .cpu = nth_cpu(&allowed, 1), .works = FALSE } };
    GThread *threads[2];
    g_autoptr(GArray) ids = start(sitters, threads, 2);
    /* The worker may be off its CPU for a moment when it is looked at. */
    for (int i = 0; i < 1000; i++) {
        stasis_vcpus_spare(getpid(), ids, &allowed, FALSE, &spare);
        if (!CPU_ISSET(sitters[0].cpu, &spare))
            break;
        g_usleep(1000);
    }
    g_assert_false(CPU_ISSET(sitters[0].cpu, &spare));
    g_assert_cmpint(CPU_COUNT(&spare), >=, 1);
    StasisAffinity affinity = { 0 };
    stasis_affinity_begin(&affinity, getpid(), ids);
    stasis_affinity_begin(&affinity, getpid(), ids);
    stasis_affinity_end(&affinity);
    g_assert_cmpint(sched_getaffinity(0, sizeof(now), &now), ==, 0);
    g_assert_true(CPU_EQUAL(&now, &allowed));
    end(threads, 2);
}

/* One that sleeps is woken where it ran last; that is kept clear if there is another CPU. */
static void test_sleepers(void)
{
    cpu_set_t allowed, spare;
    g_assert_cmpint(sched_getaffinity(0, sizeof(allowed), &allowed), ==, 0);
    if (CPU_COUNT(&allowed) < 2) {
        g_test_skip("one CPU only");
        return;
    }
    Sitter sitter = { .cpu = nth_cpu(&allowed, 1), .works = FALSE };
    GThread *thread;
    g_autoptr(GArray) ids = start(&sitter, &thread, 1);
    for (guint i = 0; i < 100; i++) {
        stasis_vcpus_spare(getpid(), ids, &allowed, TRUE, &spare);
        g_assert_false(CPU_ISSET(sitter.cpu, &spare));
        g_assert_cmpint(CPU_COUNT(&spare), ==, CPU_COUNT(&allowed) - 1);
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sitter.cpu, &one);
    stasis_vcpus_spare(getpid(), ids, &one, TRUE, &spare);
    g_assert_true(CPU_EQUAL(&spare, &one));
    end(&thread, 1);
}

/* None left, threads that are gone, none at all: everything allowed stays allowed. */
static void test_none_left(void)
{
    cpu_set_t allowed, spare;
    g_assert_cmpint(sched_getaffinity(0, sizeof(allowed), &allowed), ==, 0);
    Sitter sitter = { .cpu = nth_cpu(&allowed, 0), .works = TRUE };
    GThread *thread;
    g_autoptr(GArray) ids = start(&sitter, &thread, 1);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sitter.cpu, &one);
    stasis_vcpus_spare(getpid(), ids, &one, FALSE, &spare);
    g_assert_true(CPU_EQUAL(&spare, &one));
    end(&thread, 1);
    stasis_vcpus_spare(getpid(), ids, &allowed, FALSE, &spare);
    g_assert_true(CPU_EQUAL(&spare, &allowed));
    g_array_set_size(ids, 0);
    stasis_vcpus_spare(getpid(), ids, &allowed, FALSE, &spare);
    g_assert_true(CPU_EQUAL(&spare, &allowed));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/vcpus/spare", test_spare);
    g_test_add_func("/vmm/vcpus/sleepers", test_sleepers);
    g_test_add_func("/vmm/vcpus/none-left", test_none_left);
    return g_test_run();
}
