/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Completion: the line is read the way parse.c reads it, only that it may be unfinished and wrong;
 * that tells what is to come (a command, an option, its value, an argument), and the completer
 * named by its type what that may be.
 */
#include "complete.h"

#include <string.h>

typedef struct {
    const char *partial;       /* the word to complete */
    gboolean shell;            /* in our shell */
    const CliCommand *command; /* NULL: not yet */
    gboolean lost;             /* a command that isn't there: nothing can be said */
    const CliOption *waiting;  /* the option whose value comes next, or NULL */
    gboolean behind;           /* a "--" was there */
    guint n_args;              /* arguments before the word */
    GHashTable *given;         /* arguments and options ("--name") that were there → the value */
} Line;

static void give(Line *line, const CliOption *option, const char *value)
{
    g_hash_table_replace(line->given, g_strconcat("--", option->name, NULL), g_strdup(value));
}

/* The value that the line gives an option, by "--name"; NULL when it is not there. */
static const char *given_value(const Line *line, const char *name)
{
    return g_hash_table_lookup(line->given, name);
}

static void take_option(Line *line, const char *word)
{
    const char *equals = strchr(word, '=');
    g_autofree char *name = equals != NULL ? g_strndup(word, equals - word) : g_strdup(word);
    const CliOption *option = cli_find_option(line->command, name);
    if (option == NULL)
        return;
    give(line, option, equals != NULL ? equals + 1 : "");
    gboolean attached = word[1] != '-' && word[2] != '\0';
    if (equals == NULL && !attached && option->type != CLI_FLAG)
        line->waiting = option;
}

static void take_word(Line *line, const char *word)
{
    if (line->waiting != NULL) {
        give(line, line->waiting, word);
        line->waiting = NULL;
    } else if (line->behind) {
        line->n_args++;
    } else if (strcmp(word, "--") == 0) {
        line->behind = TRUE;
    } else if (word[0] == '-' && word[1] != '\0') {
        take_option(line, word);
    } else if (line->command == NULL) {
        line->command = cli_find_command(word);
        line->lost |= line->command == NULL;
    } else {
        line->n_args++;
        g_hash_table_replace(line->given, g_strdup(word), g_strdup(""));
    }
}

/* ---- completers: what a value may be ---- */

static void add(CliOffer *offer, const char *word)
{
    g_ptr_array_add(offer->words, g_strdup(word));
}

static gboolean is_offered(const Line *line, const CliCommand *command)
{
    return !(command->flags & CLI_HIDDEN) && (line->shell || !(command->flags & CLI_IN_SHELL));
}

static void offer_commands(const Line *line, CliOffer *offer)
{
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (is_offered(line, cli_commands[i]))
            add(offer, cli_commands[i]->name);
    }
}

static void offer_topics(const Line *line, const char *shown, CliOffer *offer)
{
    for (const CliGroup *g = cli_groups; g->id != NULL; g++)
        add(offer, g->id);
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (!(cli_commands[i]->flags & CLI_HIDDEN))
            add(offer, cli_commands[i]->name);
    }
}

static void offer_choices(const Line *line, const char *shown, CliOffer *offer)
{
    g_auto(GStrv) words = g_strsplit(shown, "|", -1);
    for (char **word = words; *word != NULL; word++)
        add(offer, *word);
}

static void offer_vms(const Line *line, const char *shown, CliOffer *offer)
{
    const char *uri = cli_connection_of(given_value(line, "--connect"));
    g_auto(GStrv) names =
        uri != NULL ? stasis_vm_list_domain_names(uri, NULL) : stasis_vm_list_names(NULL);
    for (char **name = names; name != NULL && *name != NULL; name++)
        add(offer, *name);
}

static void offer_ids(const Line *line, char **(*list)(StasisStore *, GError **), CliOffer *offer)
{
    g_autoptr(StasisStore) store =
        stasis_store_open(given_value(line, "--store"), STASIS_STORE_EXISTING, NULL);
    g_auto(GStrv) ids = store != NULL ? list(store, NULL) : NULL;
    for (char **id = ids; id != NULL && *id != NULL; id++)
        add(offer, *id);
    if (ids != NULL && ids[0] != NULL &&
        !g_ptr_array_find_with_equal_func(offer->words, "latest", g_str_equal, NULL))
        add(offer, "latest");
}

static void offer_images(const Line *line, const char *shown, CliOffer *offer)
{
    offer_ids(line, stasis_store_list_ids, offer);
}

static void offer_any_images(const Line *line, const char *shown, CliOffer *offer)
{
    offer_ids(line, stasis_store_list_ids, offer);
    offer_ids(line, stasis_store_list_process_ids, offer);
}

static void offer_process_images(const Line *line, const char *shown, CliOffer *offer)
{
    offer_ids(line, stasis_store_list_process_ids, offer);
}

/* The last of several: what is behind the last colon. */
static void offer_files(const Line *line, const char *shown, CliOffer *offer)
{
    const char *colon = strrchr(line->partial + offer->skip, ':');
    if (colon != NULL)
        offer->skip = colon + 1 - line->partial;
}

static void offer_command_line(const Line *line, const char *shown, CliOffer *offer)
{
    const CliArgument *first = line->command->arguments;
    guint before = 0;
    while (!cli_is_behind(&first[before]))
        before++;
    offer->kind = line->n_args > before ? CLI_OFFER_FILES : CLI_OFFER_PROGRAMS;
}

/* By the name that a type has for it in cli_types[] (parse.c). Without a function it is the kind
 * alone that is told. */
static const struct {
    const char *name;
    CliOfferKind kind;
    void (*offer)(const Line *line, const char *shown, CliOffer *offer);
} completers[] = {
    { "none", CLI_OFFER_WORDS, NULL },
    { "vm", CLI_OFFER_WORDS, offer_vms },
    { "image", CLI_OFFER_WORDS, offer_images },
    { "process-image", CLI_OFFER_WORDS, offer_process_images },
    { "any-image", CLI_OFFER_WORDS, offer_any_images },
    { "file", CLI_OFFER_FILES, NULL },
    { "files", CLI_OFFER_FILES, offer_files },
    { "directory", CLI_OFFER_DIRS, NULL },
    { "choice", CLI_OFFER_WORDS, offer_choices },
    { "topic", CLI_OFFER_WORDS, offer_topics },
    { "command-line", CLI_OFFER_WORDS, offer_command_line },
};

gboolean cli_completer_exists(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(completers); i++) {
        if (g_strcmp0(completers[i].name, name) == 0)
            return TRUE;
    }
    return FALSE;
}

static void offer_value(const Line *line, CliType type, const char *shown, CliOffer *offer)
{
    const char *name = cli_completer_name(type);
    for (guint i = 0; i < G_N_ELEMENTS(completers); i++) {
        if (strcmp(completers[i].name, name) != 0)
            continue;
        offer->kind = completers[i].kind;
        if (completers[i].offer != NULL)
            completers[i].offer(line, shown, offer);
    }
}

/* ---- what comes next ---- */

static void offer_options(const Line *line, const CliOption *options, CliOffer *offer)
{
    for (const CliOption *o = options; o != NULL && o->name != NULL; o++) {
        g_autofree char *word = g_strconcat("--", o->name, NULL);
        if (!o->hidden && (o->many || !g_hash_table_contains(line->given, word)))
            add(offer, word);
    }
}

/* The argument that the word is; NULL when there is none left. */
static const CliArgument *argument_at(const CliCommand *command, guint at)
{
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        if (at == 0 || (a->arity != CLI_ONE && a->arity != CLI_OPTIONAL))
            return a;
        at--;
    }
    return NULL;
}

static void offer_argument(const Line *line, CliOffer *offer)
{
    const CliArgument *argument = argument_at(line->command, line->n_args);
    if (argument == NULL)
        return;
    if (cli_is_behind(argument) && !line->behind)
        add(offer, "--");
    else
        offer_value(line, argument->type, NULL, offer);
    /* Of several, none twice. */
    for (guint i = offer->words->len; argument->arity != CLI_ONE && i > 0; i--) {
        if (g_hash_table_contains(line->given, offer->words->pdata[i - 1]))
            g_ptr_array_remove_index(offer->words, i - 1);
    }
}

static void offer_next(const Line *line, CliOffer *offer)
{
    const char *equals = strchr(line->partial, '=');
    if (line->lost)
        return;
    if (line->waiting != NULL) {
        offer_value(line, line->waiting->type, line->waiting->value, offer);
    } else if (line->partial[0] == '-' && !line->behind && equals != NULL) {
        g_autofree char *name = g_strndup(line->partial, equals - line->partial);
        const CliOption *option = cli_find_option(line->command, name);
        offer->skip = equals + 1 - line->partial;
        if (option != NULL && option->type != CLI_FLAG)
            offer_value(line, option->type, option->value, offer);
    } else if (line->partial[0] == '-' && !line->behind) {
        if (line->command != NULL)
            offer_options(line, line->command->options, offer);
        offer_options(line, cli_global_options, offer);
        const CliArgument *argument =
            line->command != NULL ? argument_at(line->command, line->n_args) : NULL;
        if (argument != NULL && cli_is_behind(argument))
            add(offer, "--");
    } else if (line->command == NULL) {
        offer_commands(line, offer);
    } else {
        offer_argument(line, offer);
    }
}

CliOffer *cli_offer(const char *const *words, gboolean shell)
{
    g_autoptr(GHashTable) given = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    Line line = { .shell = shell, .given = given };
    for (; words[1] != NULL; words++)
        take_word(&line, words[0]);
    line.partial = words[0];
    CliOffer *offer = g_new0(CliOffer, 1);
    offer->words = g_ptr_array_new_with_free_func(g_free);
    offer_next(&line, offer);
    for (guint i = offer->words->len; i > 0; i--) {
        if (!g_str_has_prefix(offer->words->pdata[i - 1], line.partial + offer->skip))
            g_ptr_array_remove_index(offer->words, i - 1);
    }
    return offer;
}

void cli_offer_free(CliOffer *offer)
{
    g_ptr_array_unref(offer->words);
    g_free(offer);
}

const char *cli_offer_kind_name(CliOfferKind kind)
{
    static const char *const names[CLI_N_OFFERS] = {
        [CLI_OFFER_WORDS] = "words",
        [CLI_OFFER_FILES] = "files",
        [CLI_OFFER_DIRS] = "dirs",
        [CLI_OFFER_PROGRAMS] = "programs",
    };
    return names[kind];
}
