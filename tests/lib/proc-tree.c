/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tree of processes that checks itself, for guests that are to be dumped and restored:
 *
 *     proc-tree start [ANON-MIB [SHARED-MIB]]   prints the first one's PID
 *     proc-tree ask [WORD]                      what it has found; "reset": and forget its gaps;
 *                                               "where": and tell of the ten largest, by time;
 *                                               "ago=MS": the largest about that long ago
 *
 *     root ──pipe──> child a ──socketpair──> child b ──shared memory──> root
 *       └─ two threads that take turns
 *
 * Numbers go round that way, each one higher than the last; whoever gets another one counts it as
 * bad. The root keeps at most WINDOW of them under way, so that pipe and socket hold some at any
 * moment. All of its memory is looked at, page by page, again and again. It answers at an abstract
 * socket.
 *
 * Each of them works once a millisecond, as a control loop would; a gap is the time between two
 * turns of the root's, beyond that millisecond, by its own clock. What comes within SETTLE_NS of
 * being asked is left out: whoever asks is started, and ends, on the same CPU.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 32
#define PAGE 4096u

/* Shared by all three processes. */
typedef struct {
    _Atomic uint64_t sent, piped, paired, turns, pages, bad;
} State;

typedef struct {
    uint8_t *bytes;
    size_t n_pages;
    uint64_t salt;
} Memory;

static State *state;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void __attribute__((noreturn)) die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- gaps: the longest that ended in each slot of time, in a ring ---- */

#define TURN_NS 1000000u
#define SLOT_NS 100000000u
#define SETTLE_NS 1000000000u
#define N_SLOTS 16384u /* 27 minutes */

static uint64_t gaps[N_SLOTS];
static uint64_t since_ns;

/* Between two calls of one loop. */
static void note_gap(uint64_t *last)
{
    static uint64_t newest;
    uint64_t now = now_ns(), slot = now / SLOT_NS, gap = 0;
    if (*last != 0 && now - *last > TURN_NS)
        gap = now - *last - TURN_NS;
    for (; newest < slot; newest = newest + N_SLOTS < slot ? slot - N_SLOTS : newest + 1)
        gaps[(newest + 1) % N_SLOTS] = 0;
    if (gap > gaps[slot % N_SLOTS])
        gaps[slot % N_SLOTS] = gap;
    *last = now;
}

/* Slot of the longest in [*first, *end); 0: none. */
static uint64_t longest_gap(uint64_t first, uint64_t end, uint64_t below_ns)
{
    uint64_t found = 0;
    for (uint64_t i = first; i < end; i++)
        if (gaps[i % N_SLOTS] < below_ns &&
            gaps[i % N_SLOTS] > (found != 0 ? gaps[found % N_SLOTS] : 0))
            found = i;
    return found;
}

/* The longest since the reset, and the @n longest with their times after it; with @ago_ms, of about
 * then: whoever asks may be half a second late. */
static void tell_gaps(int fd, unsigned n, uint64_t ago_ms)
{
    uint64_t first = (since_ns + SETTLE_NS) / SLOT_NS + 1, below = UINT64_MAX;
    uint64_t end = (now_ns() - SETTLE_NS) / SLOT_NS;
    if (ago_ms != 0) {
        end = (now_ns() - ago_ms * 1000000) / SLOT_NS + 3;
        first = end - 8;
    }
    if (first + N_SLOTS < end)
        first = end - N_SLOTS + 1;
    uint64_t slot = longest_gap(first, end, below);
    dprintf(fd, " gap_us=%llu", (unsigned long long)(slot != 0 ? gaps[slot % N_SLOTS] / 1000 : 0));
    for (; n > 0 && slot != 0; n--) {
        below = gaps[slot % N_SLOTS];
        dprintf(fd, " +%.1fs:%lluus", (double)(slot - first) * SLOT_NS / 1e9,
                (unsigned long long)below / 1000);
        slot = longest_gap(first, end, below);
    }
}

/* ---- the children ---- */

static void pass_on(int from, int to, _Atomic uint64_t *mark)
{
    uint64_t expected = 1, n;
    for (; read(from, &n, sizeof n) == sizeof n; expected = n + 1) {
        if (n != expected)
            atomic_fetch_add(&state->bad, 1);
        if (to >= 0 && write(to, &n, sizeof n) != sizeof n)
            break;
        atomic_store(mark, n);
    }
    _exit(0);
}

/* ---- two threads ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static uint64_t turn;

static void *take_turns(void *data)
{
    uint64_t mine = (uint64_t)(uintptr_t)data;
    pthread_mutex_lock(&mutex);
    for (uint64_t expected = mine;; expected += 2) {
        while (turn % 2 != mine)
            pthread_cond_wait(&cond, &mutex);
        if (turn != expected)
            atomic_fetch_add(&state->bad, 1);
        turn++;
        atomic_store(&state->turns, turn);
        pthread_cond_signal(&cond);
        if (mine == 0) {
            pthread_mutex_unlock(&mutex);
            usleep(1000);
            pthread_mutex_lock(&mutex);
        }
    }
    return NULL;
}

/* ---- memory ---- */

static void map_memory(Memory *memory, size_t mib, int flags, uint64_t salt)
{
    memory->n_pages = mib << 8;
    memory->salt = salt;
    if (mib == 0)
        return;
    memory->bytes = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory->bytes == MAP_FAILED)
        die("mmap");
    for (size_t i = 0; i < memory->n_pages; i++) {
        uint64_t *page = (uint64_t *)(void *)(memory->bytes + i * PAGE);
        for (size_t j = 0; j < PAGE / sizeof *page; j++)
            page[j] = (i * 0x9e3779b97f4a7c15u) ^ (j << 32) ^ salt;
    }
}

/* Look at a page, and write it anew as it is. */
static void visit(const Memory *memory, size_t i)
{
    if (memory->n_pages == 0)
        return;
    i %= memory->n_pages;
    volatile uint64_t *page = (volatile uint64_t *)(void *)(memory->bytes + i * PAGE);
    for (size_t j = 0; j < PAGE / sizeof *page; j += 64) {
        uint64_t want = (i * 0x9e3779b97f4a7c15u) ^ (j << 32) ^ memory->salt;
        if (page[j] != want)
            atomic_fetch_add(&state->bad, 1);
        page[j] = want;
    }
    atomic_fetch_add(&state->pages, 1);
}

/* ---- the root ---- */

static struct sockaddr_un address(socklen_t *len)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strcpy(a.sun_path + 1, "proc-tree");
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen("proc-tree"));
    return a;
}

static void answer(int listener)
{
    char word[16] = "";
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, word, sizeof word - 1);
    dprintf(fd, "pid=%d sent=%llu piped=%llu paired=%llu turns=%llu pages=%llu bad=%llu",
            (int)getpid(), (unsigned long long)state->sent, (unsigned long long)state->piped,
            (unsigned long long)state->paired, (unsigned long long)state->turns,
            (unsigned long long)state->pages, (unsigned long long)state->bad);
    bool ago = n > 0 && strncmp(word, "ago=", 4) == 0;
    tell_gaps(fd, n > 0 && strncmp(word, "where", 5) == 0 ? 10 : 0,
              ago ? strtoull(word + 4, NULL, 10) : 0);
    dprintf(fd, "\n");
    if (n > 0 && strncmp(word, "reset", 5) == 0)
        since_ns = now_ns();
    close(fd);
}

static void __attribute__((noreturn)) work(int listener, int pipe_fd, const Memory memory[2])
{
    uint64_t last = 0;
    since_ns = now_ns();
    for (size_t i = 0;; i++) {
        struct pollfd fds = { .fd = listener, .events = POLLIN };
        if (poll(&fds, 1, 1) > 0)
            answer(listener);
        note_gap(&last);
        uint64_t n = state->sent + 1;
        if (state->paired > state->sent)
            atomic_fetch_add(&state->bad, 1);
        if (n - state->paired <= WINDOW) {
            state->sent = n;
            if (write(pipe_fd, &n, sizeof n) != sizeof n)
                atomic_fetch_add(&state->bad, 1);
        }
        visit(&memory[0], i);
        visit(&memory[1], i);
    }
}

static pid_t child(int from, int to, int other, _Atomic uint64_t *mark, const char *name)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_NAME, name);
    close(other);
    pass_on(from, to, mark);
    return -1;
}

static void __attribute__((noreturn)) be_root(int ready, size_t anon_mib, size_t shared_mib)
{
    int numbers[2], pair[2], null_fd = open("/dev/null", O_RDWR);
    Memory memory[2];
    pthread_t threads[2];
    socklen_t len;
    setsid();
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_un a = address(&len);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (state == MAP_FAILED || pipe(numbers) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 ||
        bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 4) < 0)
        die("proc-tree");
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    close(null_fd);
    child(numbers[0], pair[0], numbers[1], &state->piped, "proc-tree-a");
    child(pair[1], -1, numbers[1], &state->paired, "proc-tree-b");
    close(numbers[0]);
    close(pair[0]);
    close(pair[1]);
    map_memory(&memory[0], anon_mib, MAP_PRIVATE, 1);
    map_memory(&memory[1], shared_mib, MAP_SHARED, 2);
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, take_turns, (void *)i);
    if (write(ready, "", 1) == 1)
        close(ready);
    work(listener, numbers[1], memory);
}

static int start(size_t anon_mib, size_t shared_mib)
{
    int ready[2];
    char byte;
    if (pipe2(ready, O_CLOEXEC) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid == 0)
        be_root(ready[1], anon_mib, shared_mib);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        fputs("proc-tree: it did not start\n", stderr);
        return 1;
    }
    printf("%d\n", (int)pid);
    return 0;
}

static int ask(const char *word)
{
    char text[512];
    socklen_t len;
    struct sockaddr_un a = address(&len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, len) < 0 || write(fd, word, strlen(word) + 1) < 0)
        die("proc-tree: ask");
    size_t done = 0;
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0; done += (size_t)n)
        fwrite(text, 1, (size_t)n, stdout);
    return done > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "start") == 0)
        return start(argc > 2 ? (size_t)atol(argv[2]) : 1, argc > 3 ? (size_t)atol(argv[3]) : 1);
    if (argc >= 2 && strcmp(argv[1], "ask") == 0)
        return ask(argc > 2 ? argv[2] : "status");
    fputs("usage: proc-tree start [ANON-MIB [SHARED-MIB]] | ask [reset]\n", stderr);
    return 2;
}
