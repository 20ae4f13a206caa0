/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ipc-world BOUNDARY SEED [--only KIND] [--without RELATION] [--decoys no]
 *
 * Makes the world of number SEED in namespaces of its own, asks BOUNDARY (the program
 * stasis-boundary) for the closure of each process in it, and compares with the truth. Exit status:
 * 0 all equal; 1 not, and what differs is printed; 2 the world could not be made; 3 this kernel
 * lacks what KIND needs.
 * --only: no relations but of this kind. --without: handed on to BOUNDARY. --kinds: list them.
 *
 * ipc-world --hold SEED [--only KIND]
 *
 * Makes it in the PID namespace of who asks, prints the truth, a line "SET PID VERDICT PID…" for
 * each process and then "READY", and keeps it until it is killed (10 minutes at most).
 */
#include "world.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

World world = { .me = -1 };

static const char *const cuttable[] = { "session",   "pgrp",     "ctty",   "pty",  "pipe",
                                        "fifo",      "unix",     "socket", "tcp",  "udp",
                                        "sysv-sem",  "sysv-msg", "mqueue", "file", "mapped-file",
                                        "proc-file", "lock" };
#define N_CUTTABLE ((unsigned)(sizeof cuttable / sizeof *cuttable))

static void __attribute__((noreturn)) hold(const char *only)
{
    bool truth[MAX_ACTORS];
    make_world(only);
    work_out(NULL);
    for (int i = 0; i < world.n_actors; i++) {
        close_over(i, truth);
        printf("SET %d %s", world.actors[i].pid,
               is_refused(truth) || criu_refuses(truth) ? "refused" : "ok");
        for (int k = 0; k < world.n_actors; k++)
            if (truth[k])
                printf(" %d", world.actors[k].pid);
        puts("");
    }
    puts("READY");
    fflush(stdout);
    alarm(600);
    for (;;)
        pause();
}

static int run(const char *boundary, const char *only, const char *without)
{
    make_world(only);
    int wrong = 0;
    for (int i = 0; i < world.n_actors && wrong < 2; i++) {
        const char *told = NULL;
        for (int k = 0; only != NULL && k < world.n_relations; k++)
            if (role_of(&world.relations[k], i) >= 0 &&
                strcmp(world.relations[k].kind->name, only) == 0)
                told = world.relations[k].kind->scanner;
        if (only == NULL || strcmp(only, "pgrp") != 0)
            wrong += !compare(boundary, i, NULL, without, told);
        if (only != NULL && strcmp(only, "pgrp") == 0)
            wrong += !compare(boundary, i, "session", without, NULL);
        else if (draw(3) == 0)
            wrong += !compare(boundary, i, cuttable[draw(N_CUTTABLE)], without, NULL);
    }
    printf("# %d processes, %d relations\n", world.n_actors, world.n_relations);
    return wrong > 0;
}

int main(int argc, char **argv)
{
    const char *only = NULL, *without = NULL;
    if (argc == 2 && strcmp(argv[1], "--kinds") == 0) {
        for (int i = 0; i < count_kinds(); i++) {
            const Kind *k = kind_at(i);
            printf("%s %s %d\n", k->name, k->scanner == NULL ? "-" : k->scanner, k->flags);
        }
        return 0;
    }
    for (int i = 3; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else if (strcmp(argv[i], "--without") == 0)
            without = argv[i + 1];
        else if (strcmp(argv[i], "--decoys") == 0)
            without_decoys = strcmp(argv[i + 1], "no") == 0;
    if (argc < 3) {
        fprintf(stderr, "usage: ipc-world BOUNDARY SEED [--only KIND] [--without RELATION]\n");
        return 2;
    }
    bool holds = strcmp(argv[1], "--hold") == 0;
    seed(strtoull(argv[2], NULL, 10));
    if (unshare((holds ? 0 : CLONE_NEWPID) | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0) {
        perror("# ipc-world: unshare");
        return 2;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(400); /* a hang limit; init of a namespace has no default action for SIGALRM … */
        signal(SIGALRM, (void (*)(int))_exit);
        setsid();
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        close(null);
        if (holds)
            hold(only);
        int status = run(argv[1], only, without);
        fflush(stdout);
        _exit(status);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return 2;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}
