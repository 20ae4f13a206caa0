/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/attend.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/internal.h"
#include "session/image-file.h"

/* Its result (negative: -errno), and what image it is about. */
static int64_t ask(StasisGuestWhat what, int64_t value, const char *text, char image[])
{
    StasisGuestMessage message;
    int fd = guest_connect();
    if (fd < 0)
        return fd;
    int64_t r = guest_send_text(fd, what, value, text);
    while (r == 0) {
        int n = guest_receive(fd, &message);
        if (n <= 0) {
            r = n < 0 ? n : -ECONNRESET;
        } else if (message.what == STASIS_GUEST_RESUMED) {
            r = 1; /* the VM goes on from an image, and so do we */
        } else if (message.what == STASIS_GUEST_RESULT) {
            r = message.value;
            memcpy(image, message.text, sizeof message.text);
            image[sizeof message.text - 1] = '\0';
            break;
        }
    }
    close(fd);
    return r;
}

static const char *why(int64_t r)
{
    switch (r) {
    case -ENOENT:
    case -ECONNREFUSED:
        return "there is no stasis-agent in this guest";
    case -EHOSTDOWN:
        return "nobody serves this guest; run \"stasis agent-serve\" at the host";
    case -EREMOTEIO:
        return "the host could not, and says why there";
    default:
        return strerror((int)-r);
    }
}

static void tell_saved(const char *image, const char *file)
{
    fprintf(stderr, "\r\nstasis-session: saved as %s\r\n", image);
    if (file != NULL && !image_file_write(file, image))
        fprintf(stderr, "stasis-session: %s: not written: %s\r\n", file, strerror(errno));
}

bool attend(pid_t first, const TerminalKeys *keys, const char *file)
{
    for (;;) {
        char image[sizeof((StasisGuestMessage *)0)->text] = "";
        TerminalEvent event = terminal_attend(first, keys);
        if (event == TERMINAL_ENDED)
            return false;
        int64_t r = ask(STASIS_GUEST_FREEZE_OTHER, first, "", image);
        if (r < 0) {
            fprintf(stderr, "\r\nstasis-session: not saved: %s\r\n", why(r));
            continue;
        }
        if (image[0] != '\0')
            tell_saved(image, file);
        if (event == TERMINAL_SAVE_END && r == 0) {
            kill(first, SIGKILL); /* and all of its PID namespace */
            return true;
        }
    }
}

pid_t attend_resume(const char *what)
{
    char image[sizeof((StasisGuestMessage *)0)->text], id[IMAGE_ID_SIZE];
    struct stat st;
    bool is_there = stat(what, &st) == 0;
    if (is_there && S_ISDIR(st.st_mode))
        return exported_restore(what);
    if (is_there && !image_file_read(what, id)) {
        fprintf(stderr, "stasis-resume: %s: %s\n", what,
                errno == EBADMSG ? "it is no file of stasis-session's" : strerror(errno));
        return -1;
    }
    int64_t r = ask(STASIS_GUEST_RESTORE, 0, is_there ? id : what, image);
    if (r > 1)
        return (pid_t)r;
    fprintf(stderr, "stasis-resume: %s: %s\n", is_there ? id : what,
            r < 0 ? why(r) : "it has no processes");
    return -1;
}
