/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The prompt: libedit's line editor (editline(3), BSD licence), history and the keys of ours.
 *
 * While a line is edited the terminal makes no signals: Ctrl-C is a key that drops the line. While
 * a command runs it is a signal again, see shell-exec.c.
 */
#include <errno.h>
#include <histedit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "output.h"
#include "shell.h"

#define HISTORY_LINES 1000

static char *prompt(EditLine *el)
{
    return (char *)"stasis> ";
}

/* ---- keys ---- */

/* @text as so many characters as the editor counts. */
static int n_characters(const char *text)
{
    size_t n = mbstowcs(NULL, text, 0);
    return n != (size_t)-1 ? (int)n : (int)strlen(text);
}

/* In columns, as many as fit. */
static void show_choices(const GPtrArray *choices)
{
    struct winsize size = { 0 };
    int width = 0;
    for (guint i = 0; i < choices->len; i++)
        width = MAX(width, n_characters(choices->pdata[i]) + 2);
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        size.ws_col = 80;
    guint columns = (guint)MAX(size.ws_col / width, 1);
    for (guint i = 0; i < choices->len; i++) {
        const char *choice = choices->pdata[i];
        gboolean last = (i + 1) % columns == 0 || i + 1 == choices->len;
        printf("%s%s%*s", i % columns == 0 ? "\n" : "", choice,
               last ? 0 : width - n_characters(choice), "");
    }
    putchar('\n');
    fflush(stdout);
}

static unsigned char on_tab(EditLine *el, int key)
{
    CliShell *self;
    el_get(el, EL_CLIENTDATA, &self);
    const LineInfo *info = el_line(el);
    g_autofree char *line = g_strndup(info->buffer, info->cursor - info->buffer);
    g_autoptr(CliLineOffer) offer =
        cli_offer_for_line(line, (const char *const *)self->globals->pdata);
    if (offer == NULL)
        return CC_ERROR;
    gboolean same = strcmp(line + offer->from, offer->word) == 0;
    if (same && !offer->finished && offer->choices->len > 1) {
        show_choices(offer->choices);
        return CC_REDISPLAY;
    }
    el_deletestr(el, n_characters(line + offer->from));
    if (el_insertstr(el, offer->word) < 0 || (offer->finished && el_insertstr(el, " ") < 0))
        return CC_ERROR;
    return CC_REFRESH;
}

static unsigned char on_ctrl_c(EditLine *el, int key)
{
    const LineInfo *info = el_line(el);
    g_autofree char *line = g_strndup(info->buffer, info->lastchar - info->buffer);
    g_autofree char *before = g_strndup(info->buffer, info->cursor - info->buffer);
    el_cursor(el, n_characters(line) - n_characters(before));
    el_deletestr(el, n_characters(line));
    fputs("^C\n", stdout);
    fflush(stdout);
    return CC_REDISPLAY;
}

/* ---- history ---- */

/* Made if need be, for this user alone; NULL when that can't be: then there is no history. */
static char *history_path(void)
{
    g_autofree char *dir = g_build_filename(g_get_user_state_dir(), "stasis", NULL);
    if (g_mkdir_with_parents(dir, 0700) < 0)
        return NULL;
    return g_build_filename(dir, "history", NULL);
}

/* Written aside after each line: whatever becomes of us, the file is whole. libedit makes it with
 * mode 0600. */
static void save_history(History *history_, const char *path)
{
    HistEvent event;
    if (path == NULL)
        return;
    g_autofree char *aside = g_strdup_printf("%s.%d", path, (int)getpid());
    if (history(history_, &event, H_SAVE, aside) < 0 || g_rename(aside, path) < 0)
        g_unlink(aside);
}

static History *history_open(const char *path)
{
    HistEvent event;
    History *self = history_init();
    if (self == NULL)
        return NULL;
    history(self, &event, H_SETSIZE, HISTORY_LINES);
    history(self, &event, H_SETUNIQUE, 1);
    if (path != NULL)
        history(self, &event, H_LOAD, path);
    return self;
}

/* ---- the prompt ---- */

static EditLine *editor_open(CliShell *self, History *lines)
{
    EditLine *el = el_init("stasis", stdin, stdout, stderr);
    if (el == NULL)
        return NULL;
    el_set(el, EL_CLIENTDATA, self);
    el_set(el, EL_PROMPT, prompt);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_SIGNAL, 1);
    el_set(el, EL_HIST, history, lines);
    el_set(el, EL_SETTY, "-d", "-isig", NULL);
    el_set(el, EL_ADDFN, "stasis-complete", "Complete the word", on_tab);
    el_set(el, EL_ADDFN, "stasis-drop-line", "Drop the line", on_ctrl_c);
    el_set(el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(el, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
    el_source(el, NULL); /* ~/.editrc */
    el_set(el, EL_BIND, "^I", "stasis-complete", NULL);
    el_set(el, EL_BIND, "^C", "stasis-drop-line", NULL);
    return el;
}

static void run_line(CliShell *self, History *lines, const char *path, char *line)
{
    HistEvent event;
    g_strchomp(line);
    if (line[strspn(line, " \t")] == '\0')
        return;
    history(lines, &event, H_ENTER, line);
    save_history(lines, path);
    cli_shell_run_text(self, line);
}

/* NULL: the end of input. */
static char *read_line(EditLine *el)
{
    int n = 0;
    /* Before the prompt is shown: what is typed at it shall find its keys. */
    el_set(el, EL_PREP_TERM, 1);
    const char *typed = el_gets(el, &n);
    return typed != NULL && n > 0 ? g_strndup(typed, n) : NULL;
}

static void do_nothing(int signum)
{
}

/* Between a command and the prompt the terminal's keys make signals: one that comes too late for
 * the command is nobody's. A handler, since what is ignored would be ignored by commands, too. */
static void outlive_keys(void)
{
    struct sigaction action = { .sa_handler = do_nothing, .sa_flags = SA_RESTART };
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGQUIT, &action, NULL);
}

gboolean cli_shell_prompt(CliShell *self, GError **error)
{
    g_autofree char *path = history_path();
    History *lines = history_open(path);
    EditLine *el = lines != NULL ? editor_open(self, lines) : NULL;
    if (el == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "the terminal can't be used for editing lines: libedit refuses it");
        g_clear_pointer(&lines, history_end);
        return FALSE;
    }
    outlive_keys();
    while (!self->ended) {
        g_autofree char *line = read_line(el);
        if (line == NULL)
            break;
        run_line(self, lines, path, line);
    }
    if (!self->ended)
        putchar('\n');
    el_end(el);
    history_end(lines);
    return TRUE;
}
