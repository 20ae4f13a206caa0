/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process in a guest that does, one at a time, what proc-watch takes images at:
 *
 *     eventful FIFO DONE
 *
 * It makes FIFO, reads words from it, and writes after each the number of those that it has done,
 * and the last child's PID, into DONE. Words: fork (a child that waits), end (the last child is
 * ended), exec (itself, under the name "eventful-too"), msg, sem, shm (SysV; one each), mq, psem,
 * pshm (POSIX), each also with "un" before it to remove it, exit, leave (fork, and exit at once).
 */
#include <fcntl.h>
#include <mqueue.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "/eventful"

static int msg = -1, sem = -1, shm = -1;
static pid_t child;

static void start_child(void)
{
    child = fork();
    if (child != 0)
        return;
    prctl(PR_SET_NAME, "eventful-child");
    for (;;)
        pause();
}

static bool do_word(const char *word, char **argv, const char *n)
{
    if (strcmp(word, "fork") == 0)
        start_child();
    else if (strcmp(word, "end") == 0)
        return kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child;
    else if (strcmp(word, "exec") == 0)
        execl("/proc/self/exe", "eventful-too", argv[1], argv[2], n, NULL);
    else if (strcmp(word, "msg") == 0)
        return (msg = msgget(IPC_PRIVATE, 0600)) >= 0;
    else if (strcmp(word, "unmsg") == 0)
        return msgctl(msg, IPC_RMID, NULL) == 0;
    else if (strcmp(word, "sem") == 0)
        return (sem = semget(IPC_PRIVATE, 1, 0600)) >= 0;
    else if (strcmp(word, "unsem") == 0)
        return semctl(sem, 0, IPC_RMID) == 0;
    else if (strcmp(word, "shm") == 0)
        return (shm = shmget(IPC_PRIVATE, 4096, 0600)) >= 0;
    else if (strcmp(word, "unshm") == 0)
        return shmctl(shm, IPC_RMID, NULL) == 0;
    else if (strcmp(word, "mq") == 0)
        return mq_open(NAME, O_RDWR | O_CREAT, 0600, NULL) >= 0;
    else if (strcmp(word, "unmq") == 0)
        return mq_unlink(NAME) == 0;
    else if (strcmp(word, "psem") == 0)
        return sem_open(NAME, O_CREAT, 0600, 1) != SEM_FAILED;
    else if (strcmp(word, "unpsem") == 0)
        return sem_unlink(NAME) == 0;
    else if (strcmp(word, "pshm") == 0)
        return shm_open(NAME, O_RDWR | O_CREAT, 0600) >= 0;
    else if (strcmp(word, "unpshm") == 0)
        return shm_unlink(NAME) == 0;
    else if (strcmp(word, "exit") == 0)
        exit(0);
    else if (strcmp(word, "leave") == 0) {
        start_child();
        _exit(0);
    }
    return true;
}

/* In one step, so that no reader sees half of it. */
static void note(const char *path, int n)
{
    char aside[256], text[64];
    snprintf(aside, sizeof aside, "%s.new", path);
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int length = snprintf(text, sizeof text, "%d %d\n", n, (int)child);
    if (write(fd, text, (size_t)length) != length || close(fd) < 0 || rename(aside, path) < 0)
        exit(3);
}

int main(int argc, char **argv)
{
    int n = argc > 3 ? atoi(argv[3]) : 0;
    char word[32];
    if (argc < 3)
        return 2;
    setbuf(stdout, NULL);
    if (n == 0)
        setsid();
    mkfifo(argv[1], 0600);
    FILE *fifo = fopen(argv[1], "r+e");
    if (fifo == NULL)
        return 1;
    note(argv[2], n);
    while (fscanf(fifo, "%31s", word) == 1) {
        char next[16];
        snprintf(next, sizeof next, "%d", n + 1);
        if (!do_word(word, argv, next))
            return 4;
        note(argv[2], ++n);
    }
    return 0;
}
