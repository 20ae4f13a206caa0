/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What completions/stasis, the function in the user's bash, asks. Words come as bash cuts them:
 * with their quotes, and "--option=value" in three. On stdout the kind of what fits and then, one a
 * line, the words; never an error.
 */
#include <stdio.h>
#include <string.h>

#include "complete.h"
#include "output.h"

/* A word of the user's shell, as far as that can be told without being that shell. */
static char *unquote(const char *word)
{
    if (word[0] == '~' && (word[1] == '/' || word[1] == '\0'))
        return g_strconcat(g_get_home_dir(), word + 1, NULL);
    char *plain = g_shell_unquote(word, NULL);
    return plain != NULL ? plain : g_strdup(word);
}

/* Put together again what bash has cut at "=". *ret_cut: the last word was. */
static GPtrArray *join_words(char **words, gboolean *ret_cut)
{
    GPtrArray *joined = g_ptr_array_new_null_terminated(4, g_free, TRUE);
    gboolean cut = FALSE;
    for (guint i = 0; words[i] != NULL; i++) {
        char **last = joined->len > 0 ? (char **)&joined->pdata[joined->len - 1] : NULL;
        gboolean equals = last != NULL && strcmp(words[i], "=") == 0 &&
                          g_str_has_prefix(*last, "--") && strchr(*last, '=') == NULL;
        g_autofree char *word = unquote(words[i]);
        if (!equals && !cut) {
            g_ptr_array_add(joined, g_steal_pointer(&word));
            continue;
        }
        char *longer = g_strconcat(*last, word, NULL);
        g_free(*last);
        *last = longer;
        cut = equals;
        *ret_cut = words[i + 1] == NULL;
    }
    return joined;
}

static gboolean complete(CliCall *call, GError **error)
{
    gboolean cut = FALSE;
    g_autoptr(GPtrArray) words = join_words(call->args, &cut);
    const char *partial = words->pdata[words->len - 1];
    g_autoptr(CliOffer) offer = cli_offer((const char *const *)words->pdata, FALSE);
    g_autofree char *stays = g_strndup(partial, cut ? 0 : offer->skip);
    JsonArray *array = json_array_new();
    if (!call->json)
        puts(cli_offer_kind_name(offer->kind));
    for (guint i = 0; i < offer->words->len; i++) {
        g_autofree char *word = g_strconcat(stays, offer->words->pdata[i], NULL);
        if (call->json)
            json_array_add_string_element(array, word);
        else
            puts(word);
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "kind", cli_offer_kind_name(offer->kind));
    json_object_set_array_member(object, "words", array);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "WORD", CLI_BEHIND, CLI_ARGV,
      "words behind \"stasis\"; the last one, maybe empty, is completed" },
    { NULL },
};
static const CliExample examples[] = {
    { "complete -- checkpoint-info ''", "The IDs of all images" },
    { NULL },
};
const CliCommand cli_cmd_complete = {
    .group = "prompt",
    .name = "complete",
    .summary = "tell what completes a command line",
    .description = "Print what kind of word may stand last (words, files, dirs or programs), and "
                   "then all words that fit, one a line.",
    .arguments = arguments,
    .examples = examples,
    .handler = complete,
    .flags = CLI_HIDDEN,
};
