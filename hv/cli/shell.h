/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The shell: reads commands from a terminal, a file, a pipe or its own command line. Each runs as a
 * process of its own, as if typed at the user's shell, but for cd, pwd, quit and exit.
 */
#pragma once

#include "complete.h"

G_BEGIN_DECLS

struct _CliShell {
    GPtrArray *globals; /* options of every command, given to the shell: "--store", DIR, …;
                           of char *, and one NULL at the end */
    gboolean json;
    gboolean interactive; /* commands are typed */
    gboolean on_stdin;    /* commands come from standard input, so it is not for those */
    gboolean exit_on_error;
    gboolean chosen; /* quit has said what the status is */
    gboolean ended;  /* no more commands: quit, a failure with --exit-on-error, a signal */
    int status;      /* of the last command */
    guint n_commands, n_failed;
};

/* ---- shell-exec.c ---- */

/* Run the commands of @text; how they went is in @self. */
void cli_shell_run_text(CliShell *self, const char *text);

/* ---- shell-edit.c ---- */

/* Prompt for commands until quit or the end of input. */
gboolean cli_shell_prompt(CliShell *self, GError **error);

/* ---- shell-complete.c ---- */

typedef struct {
    gsize from;         /* where in the line the word begins */
    char *word;         /* what is to stand there: all that is certain, quoted where needed */
    gboolean finished;  /* it is one whole word, and the next may follow */
    GPtrArray *choices; /* what it may become, to be shown; of char * */
} CliLineOffer;

/* What completes the last word of @line (all before the cursor); NULL: nothing does. @globals:
 * words before the line's own, NULL-terminated. */
CliLineOffer *cli_offer_for_line(const char *line, const char *const *globals);
void cli_line_offer_free(CliLineOffer *offer);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliLineOffer, cli_line_offer_free)

G_END_DECLS
