/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tree of processes that checks itself, for guests that are to be dumped and restored:
 *
 *     proc-tree start [ANON-MIB [SHARED-MIB [WORD…]]]   prints the first one's PID
 *     proc-tree ask [WORD]                      what it has found; "reset": and forget its gaps;
 *                                               "where": and tell of the ten largest, by time;
 *                                               "ago=MS": the largest about that long ago;
 *                                               "calm": and be calm from now on
 *
 *     root ──pipe──> child a ──socketpair──> child b ──shared memory──> root
 *       └─ two threads that take turns
 *
 * Words: "apart", each of the three is a tree of its own; "tcp", a connection over loopback instead
 * of the socketpair; "posix", the shared memory that is looked at is in /dev/shm, and b counts in a
 * named semaphore, too; "sysv", b counts in a SysV semaphore and sends its numbers back by a SysV
 * queue, and the memory that is looked at is a SysV segment; "pty", the pipe is a pseudo-terminal;
 * "calm", they work once in 10 milliseconds: at one, which is the usual, an emulated CPU has little
 * time for anything else.
 *
 * Numbers go round that way, each one higher than the last; whoever gets another one counts it as
 * bad. The root keeps at most WINDOW of them under way, so that pipe and socket hold some at any
 * moment. All of its memory is looked at, page by page, again and again. It answers at an abstract
 * socket.
 *
 * Each of them works once a millisecond, as a control loop would; a gap is the time between two
 * turns of the root's, beyond that (or the 10), by its own clock. What comes within SETTLE_NS of
 * being asked is left out: whoever asks is started, and ends, on the same CPU.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 32
#define PAGE 4096u

/* Shared by all three processes. */
typedef struct {
    _Atomic uint64_t sent, piped, paired, counted, turns, pages, bad;
} State;

typedef struct {
    bool apart, tcp, posix, sysv, pty, calm;
} Words;

typedef struct {
    long type;
    uint64_t n;
} Message;

/* What b counts in, besides. */
static sem_t *posix_sem;
static int sysv_sem = -1, sysv_queue = -1;

typedef struct {
    uint8_t *bytes;
    size_t n_pages;
    uint64_t salt;
} Memory;

static State *state;
#define CALM_MS 10u
static _Atomic unsigned turn_ms = 1;

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

#define SLOT_NS 100000000u
#define SETTLE_NS 1000000000u
#define N_SLOTS 16384u /* 27 minutes */

static uint64_t gaps[N_SLOTS];
static uint64_t since_ns;

/* Between two calls of one loop. */
static void note_gap(uint64_t *last)
{
    static uint64_t newest;
    uint64_t now = now_ns(), slot = now / SLOT_NS, gap = 0, usual = turn_ms * 1000000u;
    if (*last != 0 && now - *last > usual)
        gap = now - *last - usual;
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

/* b says once more that it has got @n: one more in each semaphore, and a message. */
static void count(uint64_t n)
{
    struct sembuf up = { .sem_op = 1 };
    Message message = { 1, n };
    if ((posix_sem != NULL && sem_post(posix_sem) < 0) ||
        (sysv_sem >= 0 &&
         (semop(sysv_sem, &up, 1) < 0 || msgsnd(sysv_queue, &message, sizeof message.n, 0) < 0)))
        atomic_fetch_add(&state->bad, 1);
}

static bool read_number(int fd, uint64_t *n)
{
    size_t got = 0;
    for (ssize_t r; got < sizeof *n; got += (size_t)r)
        if ((r = read(fd, (uint8_t *)n + got, sizeof *n - got)) <= 0)
            return false;
    return true;
}

static void pass_on(int from, int to, _Atomic uint64_t *mark)
{
    uint64_t expected = 1, n;
    for (; read_number(from, &n); expected = n + 1) {
        if (n != expected)
            atomic_fetch_add(&state->bad, 1);
        if (to >= 0 && write(to, &n, sizeof n) != sizeof n)
            break;
        if (to < 0)
            count(n);
        atomic_store(mark, n);
    }
    atomic_fetch_add(&state->bad, 1);
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
            usleep(turn_ms * 1000);
            pthread_mutex_lock(&mutex);
        }
    }
    return NULL;
}

/* ---- memory ---- */

/* By a file in /dev/shm, which then is open no more. */
static void *map_posix(size_t size)
{
    int fd = shm_open("/proc-tree", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        die("/dev/shm");
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return bytes;
}

static void map_memory(Memory *memory, size_t mib, int flags, uint64_t salt, const Words *words)
{
    size_t size = mib << 20;
    memory->n_pages = mib << 8;
    memory->salt = salt;
    if (mib == 0)
        return;
    bool shared = (flags & MAP_SHARED) != 0;
    if (shared && words->posix)
        memory->bytes = map_posix(size);
    else if (shared && words->sysv)
        memory->bytes = shmat(shmget(0x7472, size, IPC_CREAT | 0600), NULL, 0);
    else
        memory->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (memory->bytes == MAP_FAILED)
        die("map memory");
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
    dprintf(fd,
            "pid=%d sent=%llu piped=%llu paired=%llu turns=%llu pages=%llu bad=%llu counted=%llu",
            (int)getpid(), (unsigned long long)state->sent, (unsigned long long)state->piped,
            (unsigned long long)state->paired, (unsigned long long)state->turns,
            (unsigned long long)state->pages, (unsigned long long)state->bad,
            (unsigned long long)state->counted);
    bool ago = n > 0 && strncmp(word, "ago=", 4) == 0;
    tell_gaps(fd, n > 0 && strncmp(word, "where", 5) == 0 ? 10 : 0,
              ago ? strtoull(word + 4, NULL, 10) : 0);
    dprintf(fd, "\n");
    if (n > 0 && strncmp(word, "reset", 5) == 0)
        since_ns = now_ns();
    if (n > 0 && strncmp(word, "calm", 4) == 0)
        turn_ms = CALM_MS;
    close(fd);
}

/* What b has counted: as many as it has got, or one more. The root takes from each what there is,
 * so that there is some of it at any moment. */
static void check_counts(void)
{
    static uint64_t posix_taken, sysv_taken, received;
    struct sembuf down = { .sem_op = -1, .sem_flg = IPC_NOWAIT };
    Message message;
    int value = 0;
    uint64_t least = state->paired;
    if (posix_sem != NULL) {
        sem_getvalue(posix_sem, &value);
        if (value > 2 && sem_trywait(posix_sem) == 0)
            posix_taken++;
        sem_getvalue(posix_sem, &value);
        uint64_t total = posix_taken + (uint64_t)value;
        if (total < least || total > state->paired + 1)
            atomic_fetch_add(&state->bad, 1);
    }
    if (sysv_sem >= 0) {
        if (semctl(sysv_sem, 0, GETVAL) > 2 && semop(sysv_sem, &down, 1) == 0)
            sysv_taken++;
        uint64_t total = sysv_taken + (uint64_t)semctl(sysv_sem, 0, GETVAL);
        if (total < least || total > state->paired + 1)
            atomic_fetch_add(&state->bad, 1);
        while (received + 4 < least &&
               msgrcv(sysv_queue, &message, sizeof message.n, 0, IPC_NOWAIT) > 0)
            if (message.n != ++received)
                atomic_fetch_add(&state->bad, 1);
    }
    atomic_store(&state->counted, received + posix_taken);
}

static void __attribute__((noreturn)) work(int listener, int pipe_fd, const Memory memory[2])
{
    uint64_t last = 0;
    since_ns = now_ns();
    for (size_t i = 0;; i++) {
        struct pollfd fds = { .fd = listener, .events = POLLIN };
        if (poll(&fds, 1, (int)turn_ms) > 0)
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
        check_counts();
        visit(&memory[0], i);
        visit(&memory[1], i);
    }
}

/* @apart: and nobody's child. */
static void child(int from, int to, int other, _Atomic uint64_t *mark, const char *name, bool apart)
{
    int status;
    pid_t pid = fork();
    if (pid != 0) {
        if (apart)
            waitpid(pid, &status, 0);
        return;
    }
    if (apart && (setsid() < 0 || fork() != 0))
        _exit(0);
    if (apart)
        setsid();
    prctl(PR_SET_NAME, name);
    close(other);
    pass_on(from, to, mark);
}

static void connect_tcp(int pair[2])
{
    int one = 1;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) < 0 ||
        connect(pair[0], (struct sockaddr *)&a, len) < 0 ||
        (pair[1] = accept(listener, NULL, NULL)) < 0)
        die("loopback");
    setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

/* Read end first, as pipe(2). */
static void open_pty(int ends[2])
{
    struct termios raw;
    if (openpty(&ends[1], &ends[0], NULL, NULL, NULL) < 0 || tcgetattr(ends[0], &raw) < 0)
        die("openpty");
    cfmakeraw(&raw);
    tcsetattr(ends[0], TCSANOW, &raw);
}

static void open_counters(const Words *words)
{
    if (words->posix) {
        sem_unlink("/proc-tree");
        posix_sem = sem_open("/proc-tree", O_CREAT | O_EXCL, 0600, 0);
    }
    if (words->sysv) {
        sysv_sem = semget(0x7472, 1, IPC_CREAT | 0600);
        sysv_queue = msgget(0x7472, IPC_CREAT | 0600);
    }
    if ((words->posix && posix_sem == SEM_FAILED) ||
        (words->sysv && (sysv_sem < 0 || sysv_queue < 0)))
        die("semaphores");
}

static void __attribute__((noreturn))
be_root(int ready, size_t anon_mib, size_t shared_mib, const Words *words)
{
    int numbers[2], pair[2], null_fd = open("/dev/null", O_RDWR);
    Memory memory[2];
    pthread_t threads[2];
    socklen_t len;
    turn_ms = words->calm ? CALM_MS : 1;
    setsid();
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_un a = address(&len);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (state == MAP_FAILED || pipe(numbers) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 ||
        bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 4) < 0)
        die("proc-tree");
    if (words->pty) {
        close(numbers[0]);
        close(numbers[1]);
        open_pty(numbers);
    }
    if (words->tcp) {
        close(pair[0]);
        close(pair[1]);
        connect_tcp(pair);
    }
    open_counters(words);
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    close(null_fd);
    child(numbers[0], pair[0], numbers[1], &state->piped, "proc-tree-a", words->apart);
    child(pair[1], -1, numbers[1], &state->paired, "proc-tree-b", words->apart);
    if (!words->pty)
        close(numbers[0]);
    close(pair[0]);
    close(pair[1]);
    map_memory(&memory[0], anon_mib, MAP_PRIVATE, 1, words);
    map_memory(&memory[1], shared_mib, MAP_SHARED, 2, words);
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, take_turns, (void *)i);
    if (write(ready, "", 1) == 1)
        close(ready);
    work(listener, numbers[1], memory);
}

static int start(size_t anon_mib, size_t shared_mib, const Words *words)
{
    int ready[2];
    char byte;
    if (pipe2(ready, O_CLOEXEC) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid == 0)
        be_root(ready[1], anon_mib, shared_mib, words);
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

static Words read_words(char **words)
{
    Words set = { false };
    for (; *words != NULL; words++) {
        set.apart |= strcmp(*words, "apart") == 0;
        set.tcp |= strcmp(*words, "tcp") == 0;
        set.posix |= strcmp(*words, "posix") == 0;
        set.sysv |= strcmp(*words, "sysv") == 0;
        set.pty |= strcmp(*words, "pty") == 0;
        set.calm |= strcmp(*words, "calm") == 0;
    }
    return set;
}

int main(int argc, char **argv)
{
    Words words = read_words(argv + (argc > 4 ? 4 : argc));
    if (argc >= 2 && strcmp(argv[1], "start") == 0)
        return start(argc > 2 ? (size_t)atol(argv[2]) : 1, argc > 3 ? (size_t)atol(argv[3]) : 1,
                     &words);
    if (argc >= 2 && strcmp(argv[1], "ask") == 0)
        return ask(argc > 2 ? argv[2] : "status");
    fputs("usage: proc-tree start [ANON-MIB [SHARED-MIB [WORD…]]] | ask [reset]\n", stderr);
    return 2;
}
