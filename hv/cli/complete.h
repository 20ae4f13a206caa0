/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What may stand at the end of a command line that is not finished: for bash (`stasis complete`)
 * and for our own shell. All that is offered comes from the command table. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

typedef enum {
    CLI_OFFER_WORDS,    /* one of the words */
    CLI_OFFER_FILES,    /* a path: whoever asks lists them */
    CLI_OFFER_DIRS,     /* a directory */
    CLI_OFFER_PROGRAMS, /* a program in PATH */
    CLI_N_OFFERS,
} CliOfferKind;

typedef struct {
    CliOfferKind kind;
    GPtrArray *words; /* of char *, in order; for CLI_OFFER_WORDS only those that fit */
    gsize skip;       /* the words stand for what comes behind so many bytes: "--option=" */
} CliOffer;

/*
 * @words are those of the line (without the program), the last of them the one to complete, maybe
 * empty: there must be one. @shell: in our shell, where there are more commands. Never fails: what
 * can't be found out is not offered. Asks no VM.
 */
CliOffer *cli_offer(const char *const *words, gboolean shell);
void cli_offer_free(CliOffer *offer);

/* "words", "files" …; of the kind. */
const char *cli_offer_kind_name(CliOfferKind kind);

/* Is there a completer of that name (cli_completer_name())? */
gboolean cli_completer_exists(const char *name);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliOffer, cli_offer_free)

G_END_DECLS
