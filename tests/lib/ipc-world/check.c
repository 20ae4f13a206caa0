/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asks stasis-boundary, and compares its answer with the truth. */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int ask(const char *boundary, pid_t pid, const char *cut, const char *without, char *text,
               size_t size)
{
    int p[2];
    char number[16];
    /* A busy host is no reason to refuse. */
    const char *argv[16] = { boundary, "--json", "--any-dumper", "--max-time",
                             "120000", "--pid",  number };
    int n = 7;
    snprintf(number, sizeof number, "%d", pid);
    if (cut != NULL) {
        argv[n++] = "--cut";
        argv[n++] = cut;
    }
    if (without != NULL) {
        argv[n++] = "--without";
        argv[n++] = without;
    }
    if (pipe2(p, O_CLOEXEC) < 0)
        die("pipe");
    pid_t child = fork();
    if (child == 0) {
        dup2(p[1], 1);
        dup2(p[1], 2);
        execv(boundary, (char **)argv);
        _exit(127);
    }
    close(p[1]);
    size_t len = 0;
    for (ssize_t r; (r = read(p[0], text + len, size - len - 1)) > 0;)
        len += (size_t)r;
    text[len] = '\0';
    close(p[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int actor_of(pid_t pid)
{
    for (int i = 0; i < world.n_actors; i++)
        if (world.actors[i].pid == pid)
            return i;
    return -1;
}

static void explain(int actor)
{
    printf("#     process %d (pid %d):", actor, world.actors[actor].pid);
    for (int i = 0; i < world.n_relations; i++) {
        int role = role_of(&world.relations[i], actor);
        if (role >= 0)
            printf(" %s.%d:%d", world.relations[i].kind->name, i, role);
    }
    printf(" parent:%d session:%d%s\n", world.actors[actor].parent, world.actors[actor].leader,
           world.actors[actor].leaderless ? " first thread ended" : "");
}

bool compare(const char *boundary, int root, const char *cut, const char *without, const char *told)
{
    static char text[4 << 20];
    bool truth[MAX_ACTORS], found[MAX_ACTORS] = { false }, good = true;
    int status = ask(boundary, world.actors[root].pid, cut, without, text, sizeof text);
    char *members = strstr(text, "\"members\":["), *end = strstr(text, "],\"neighbours\"");
    work_out(cut);
    close_over(root, truth);
    bool refused = is_refused(truth);
    for (char *at = members;
         at != NULL && end != NULL && (at = strstr(at, "{\"pid\":")) != NULL && at < end; at += 7) {
        int actor = actor_of(atoi(at + 7));
        if (actor >= 0)
            found[actor] = true;
        else
            good = false;
    }
    char edge[64];
    snprintf(edge, sizeof edge, "\"relation\":\"%s\"", told == NULL ? "" : told);
    if (told != NULL && strstr(text, edge) == NULL) {
        printf("# no edge of relation %s\n", told);
        good = false;
    }
    for (int i = 0; i < world.n_actors; i++)
        good = good && truth[i] == found[i];
    if (good && status == (refused ? 4 : 0))
        return true;
    printf("# process %d (pid %d)%s%s: exit status %d, %s\n", root, world.actors[root].pid,
           cut != NULL ? " --cut " : "", cut != NULL ? cut : "", status,
           refused ? "should be refused" : "should be good");
    for (int i = 0; i < world.n_actors; i++)
        if (truth[i] != found[i]) {
            printf("#   %s\n", truth[i] ? "missing:" : "drawn in though it does not belong:");
            explain(i);
        } else if (truth[i]) {
            printf("#   right:\n");
            explain(i);
        }
    char *what = strstr(text, "\"refusals\"");
    if (what != NULL)
        printf("#   %.600s\n", what);
    else
        printf("#   %.600s\n", text);
    return false;
}
