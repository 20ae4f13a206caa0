/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From argv to a CliCall. GOption does the parsing; its entries are built from the command's own
 * table, and one callback checks each value by its type. What stands behind "--" is never looked
 * at: it is a command line for somebody else.
 */
#include <string.h>

#include "cli.h"

typedef struct {
    char *text;
    guint64 number;
} CliValue;

/* The options that one GOptionGroup knows, for its callback. */
typedef struct {
    CliCall *call;
    const CliOption *options;
} Scope;

static void value_free(gpointer data)
{
    CliValue *value = data;
    g_free(value->text);
    g_free(value);
}

#define MAX_SPAN_US ((guint64)1000 * 365 * G_TIME_SPAN_DAY)

static gboolean parse_flag(const char *text, const char *shown, guint64 *ret)
{
    *ret = 1;
    return TRUE;
}

static gboolean parse_text(const char *text, const char *shown, guint64 *ret)
{
    return g_utf8_validate(text, -1, NULL);
}

static gboolean parse_path(const char *text, const char *shown, guint64 *ret)
{
    return *text != '\0';
}

static gboolean parse_choice(const char *text, const char *shown, guint64 *ret)
{
    g_auto(GStrv) words = g_strsplit(shown, "|", -1);
    return g_strv_contains((const char *const *)words, text);
}

static gboolean parse_count(const char *text, const char *shown, guint64 *ret)
{
    return g_ascii_string_to_unsigned(text, 10, 1, G_MAXINT32, ret, NULL);
}

/* A plain decimal number, with a fraction or without, at most 10^15. */
static gboolean parse_decimal(const char *text, double *ret, const char **ret_end)
{
    /* strtod would take "inf", "0x10" and blanks too. */
    size_t len = strspn(text, "0123456789.");
    if (len == 0 || len > 20 || !g_ascii_isdigit(*text))
        return FALSE;
    char digits[21];
    memcpy(digits, text, len);
    digits[len] = '\0';
    char *end = NULL;
    *ret = g_ascii_strtod(digits, &end);
    *ret_end = text + len;
    return *end == '\0' && *ret <= 1e15;
}

static gboolean parse_size(const char *text, const char *shown, guint64 *ret)
{
    static const char letters[] = "KMGT";
    double number;
    const char *unit;
    if (!parse_decimal(text, &number, &unit))
        return FALSE;
    const char *letter = *unit != '\0' ? strchr(letters, g_ascii_toupper(*unit)) : NULL;
    if (letter != NULL) {
        number *= (double)(G_GUINT64_CONSTANT(1) << (10 * (letter - letters + 1)));
        unit++;
        if (strcmp(unit, "iB") == 0)
            unit += 2;
    }
    *ret = number < 9e18 ? (guint64)number : 0;
    return *unit == '\0' && *ret > 0;
}

/* Milliseconds, or with another unit: what is short by nature can still be said as people say it.
 */
static gboolean parse_ms(const char *text, const char *shown, guint64 *ret)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = {
        { "", 1 }, { "ms", 1 }, { "s", 1e3 }, { "min", 60e3 }, { "m", 60e3 }, { "h", 3600e3 },
    };
    double number, ms = 0;
    const char *unit;
    if (!parse_decimal(text, &number, &unit))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (strcmp(unit, units[i].unit) == 0)
            ms = number * units[i].ms;
    }
    *ret = ms <= 24 * 3600e3 ? (guint64)(ms * 1000 + 0.5) : 0;
    return *ret > 0;
}

/* Whole numbers, each with its unit, the larger units first or not. @months_exist: "m" could be
 * taken for months, and is refused, as what is less than a second is. */
static gboolean parse_units(const char *text, gboolean months_exist, guint64 *ret)
{
    static const struct {
        const char *unit;
        guint64 us;
    } units[] = { { "min", G_TIME_SPAN_MINUTE },     { "s", G_TIME_SPAN_SECOND },
                  { "h", G_TIME_SPAN_HOUR },         { "d", G_TIME_SPAN_DAY },
                  { "w", 7 * G_TIME_SPAN_DAY },      { "y", 365 * G_TIME_SPAN_DAY },
                  { "ms", G_TIME_SPAN_MILLISECOND }, { "m", G_TIME_SPAN_MINUTE } };
    guint n_units = G_N_ELEMENTS(units) - (months_exist ? 2 : 0);
    guint64 sum = 0;
    while (*text != '\0') {
        guint64 number = 0, us = 0;
        gsize digits = strspn(text, "0123456789");
        g_autofree char *word = g_strndup(text, digits);
        if (digits > 9 || !g_ascii_string_to_unsigned(word, 10, 1, 999999999, &number, NULL))
            return FALSE;
        text += digits;
        for (guint i = 0; i < n_units && us == 0; i++) {
            if (!g_str_has_prefix(text, units[i].unit))
                continue;
            us = units[i].us;
            text += strlen(units[i].unit);
        }
        /* 1000 years: beyond that it is a mistake. */
        if (us == 0 || number > MAX_SPAN_US / us || number * us > MAX_SPAN_US - sum)
            return FALSE;
        sum += number * us;
    }
    *ret = sum;
    return sum > 0;
}

static gboolean parse_span(const char *text, const char *shown, guint64 *ret)
{
    return parse_units(text, FALSE, ret);
}

static gboolean parse_age(const char *text, const char *shown, guint64 *ret)
{
    return parse_units(text, TRUE, ret);
}

static const struct {
    gboolean (*parse)(const char *text, const char *shown, guint64 *ret);
    const char *wants;
    const char *completer;
} cli_types[CLI_N_TYPES] = {
    [CLI_FLAG] = { parse_flag, "no value", "none" },
    [CLI_TEXT] = { parse_text, "UTF-8 text", "none" },
    [CLI_VM] = { parse_text, "the name of a VM", "vm" },
    [CLI_IMAGE] = { parse_text, "an image ID", "image" },
    [CLI_PROC_IMAGE] = { parse_text, "the ID of an image of processes", "process-image" },
    [CLI_ANY_IMAGE] = { parse_text, "an image ID", "any-image" },
    [CLI_FILE] = { parse_path, "a path", "file" },
    [CLI_FILES] = { parse_text, "a path, or several with colons between them", "files" },
    [CLI_DIR] = { parse_path, "a directory", "directory" },
    [CLI_CHOICE] = { parse_choice, "one of", "choice" },
    [CLI_COUNT] = { parse_count, "a number from 1", "none" },
    [CLI_SIZE] = { parse_size, "a size such as 512M or 2G", "none" },
    [CLI_MS] = { parse_ms, "a time such as 5 or 2.5 (milliseconds), 30s or 10min, at most a day",
                 "none" },
    [CLI_SPAN] = { parse_span, "a time such as 500ms, 30s, 5m, 1h or 1d", "none" },
    [CLI_AGE] = { parse_age, "a time such as 90min, 36h, 7d12h, 2w or 1y", "none" },
    [CLI_TOPIC] = { parse_text, "a command or a group", "topic" },
    [CLI_ARGV] = { parse_path, "a command line", "command-line" },
};

const char *cli_completer_name(CliType type)
{
    return cli_types[type].completer;
}

static gboolean check_value(const char *what, CliType type, const char *shown, const char *text,
                            guint64 *ret_number, GError **error)
{
    if (cli_types[type].parse(text, shown, ret_number))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s: \"%s\" is not %s%s%s", what, text,
                cli_types[type].wants, type == CLI_CHOICE ? " " : "",
                type == CLI_CHOICE ? shown : "");
    return FALSE;
}

/* @typed is "--name" or "-n", as GOption hands it over. */
static const CliOption *find_option(const CliOption *options, const char *typed)
{
    for (const CliOption *o = options; o != NULL && o->name != NULL; o++) {
        if (typed[1] == '-' ? strcmp(o->name, typed + 2) == 0 : o->letter == typed[1])
            return o;
    }
    return NULL;
}

const CliOption *cli_find_option(const CliCommand *command, const char *typed)
{
    const CliOption *own = command != NULL ? find_option(command->options, typed) : NULL;
    return own != NULL ? own : find_option(cli_global_options, typed);
}

static gboolean on_option(const char *typed, const char *text, gpointer data, GError **error)
{
    Scope *scope = data;
    const CliOption *option = find_option(scope->options, typed);
    guint64 number = 0;
    if (text == NULL)
        text = "";
    if (!check_value(typed, option->type, option->value, text, &number, error))
        return FALSE;
    CliValue *value = g_new0(CliValue, 1);
    value->text = g_strdup(text);
    value->number = number;
    GHashTable *values = scope->call->values;
    GPtrArray *all = option->many ? g_hash_table_lookup(values, option->name) : NULL;
    if (all == NULL) {
        all = g_ptr_array_new_with_free_func(value_free);
        g_hash_table_replace(values, (gpointer)option->name, all);
    }
    g_ptr_array_add(all, value);
    return TRUE;
}

static GOptionGroup *group_new(Scope *scope)
{
    GOptionGroup *group = g_option_group_new("own", "", "", scope, NULL);
    for (const CliOption *o = scope->options; o != NULL && o->name != NULL; o++) {
        /* Raw bytes, not the locale's idea of them: paths are bytes, text is checked by type. */
        GOptionEntry entry[] = {
            { .long_name = o->name,
              .short_name = o->letter,
              .flags = o->type == CLI_FLAG ? G_OPTION_FLAG_NO_ARG : G_OPTION_FLAG_FILENAME,
              .arg = G_OPTION_ARG_CALLBACK,
              .arg_data = (gpointer)on_option,
              .description = o->summary,
              .arg_description = o->value },
            { NULL },
        };
        g_option_group_add_entries(group, entry);
    }
    return group;
}

/* Where in @word, "-n20" or "-fn20", the value of a short option begins; NULL: it has none, and
 * *ret_next says whether that is the next word. */
static char *find_attached(const CliCommand *command, char *word, gboolean *ret_next)
{
    *ret_next = FALSE;
    for (char *letter = word + 1; *letter != '\0'; letter++) {
        const char typed[] = { '-', *letter, '\0' };
        const CliOption *option = *letter != '-' ? cli_find_option(command, typed) : NULL;
        if (option == NULL)
            return NULL;
        if (option->type == CLI_FLAG)
            continue;
        *ret_next = letter[1] == '\0';
        return *ret_next ? NULL : letter + 1;
    }
    return NULL;
}

/* "--json=true" would be as good as "--json" to GOption, and "--json=false" too. */
static gboolean check_flag(const CliCommand *command, const char *word, GError **error)
{
    const char *equals = strchr(word, '=');
    g_autofree char *typed = equals != NULL ? g_strndup(word, equals - word) : NULL;
    const CliOption *option = typed != NULL ? cli_find_option(command, typed) : NULL;
    if (option == NULL || option->type != CLI_FLAG)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s takes no value", typed);
    return FALSE;
}

/* What GOption does not know: "-n20" becomes "-n 20", and a flag with a value is refused. The first
 * word is no option; with @strict nothing is looked at behind the next that is none. */
static char **split_attached(const CliCommand *command, gboolean strict, char **words,
                             GError **error)
{
    g_autoptr(GStrvBuilder) split = g_strv_builder_new();
    gboolean is_value = TRUE, over = FALSE;
    for (; *words != NULL; words++) {
        gboolean is_option = !over && !is_value && (*words)[0] == '-' && (*words)[1] != '\0';
        gboolean next = FALSE;
        char *value = NULL;
        over |= strict && !is_option && !is_value;
        if (is_option && (*words)[1] == '-') {
            const CliOption *option = cli_find_option(command, *words); /* none for "--name=…" */
            next = option != NULL && option->type != CLI_FLAG;
            if (!check_flag(command, *words, error))
                return NULL;
        } else if (is_option) {
            value = find_attached(command, *words, &next);
        }
        g_autofree char *letters = value != NULL ? g_strndup(*words, value - *words) : NULL;
        g_strv_builder_add(split, letters != NULL ? letters : *words);
        if (value != NULL)
            g_strv_builder_add(split, value);
        is_value = next;
    }
    return g_strv_builder_end(split);
}

/* Take the options out of *argv. @strict stops at the first word that is none. */
static gboolean parse_options(CliCall *call, gboolean strict, char ***argv, GError **error)
{
    const CliOption *own = call->command != NULL ? call->command->options : NULL;
    char **split = split_attached(call->command, strict, *argv, error);
    if (split == NULL)
        return FALSE;
    g_strfreev(*argv);
    *argv = split;
    Scope global = { call, cli_global_options };
    Scope command = { call, own };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_set_help_enabled(context, FALSE);
    g_option_context_set_strict_posix(context, strict);
    g_option_context_set_main_group(context, group_new(&global));
    if (own != NULL)
        g_option_context_add_group(context, group_new(&command));
    g_autoptr(GError) failed = NULL;
    if (g_option_context_parse_strv(context, argv, &failed))
        return TRUE;
    if (failed->domain == STASIS_ERROR) {
        g_propagate_error(error, g_steal_pointer(&failed));
        return FALSE;
    }
    failed->message[0] = g_ascii_tolower(failed->message[0]);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, failed->message);
    return FALSE;
}

static gboolean check_required(CliCall *call, GError **error)
{
    for (const CliOption *o = call->command->options; o != NULL && o->name != NULL; o++) {
        if (o->required && !g_hash_table_contains(call->values, o->name)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "--%s %s is needed", o->name,
                        o->value);
            return FALSE;
        }
    }
    return TRUE;
}

gboolean cli_is_behind(const CliArgument *argument)
{
    return argument->arity == CLI_BEHIND || argument->arity == CLI_MAY_BE_BEHIND;
}

/* Is there a command line behind "--", and just @at words before it? */
static gboolean check_behind(CliCall *call, const CliArgument *argument, guint at, int before,
                             GError **error)
{
    if (before > (int)at)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "\"%s\" is one argument too many before \"--\"", call->args[at]);
    else if (before >= 0 && before < (int)at)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s is missing before \"--\"",
                    call->command->arguments[before].name);
    else if (before < 0 || call->args[at] == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is missing: its command line goes behind \"--\"", argument->name);
    else
        return TRUE;
    return FALSE;
}

/* Do the words fit the command's arguments? @before: how many stood before "--"; -1: there was
 * none. */
static gboolean check_arguments(CliCall *call, int before, GError **error)
{
    guint at = 0, n_args = g_strv_length(call->args);
    for (const CliArgument *a = call->command->arguments; a != NULL && a->name != NULL; a++) {
        if (a->arity == CLI_MAY_BE_BEHIND && before < 0)
            continue;
        if (cli_is_behind(a) && !check_behind(call, a, at, before, error))
            return FALSE;
        if ((a->arity == CLI_ONE || a->arity == CLI_SOME) && at == n_args) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s is missing", a->name);
            return FALSE;
        }
        gboolean many = a->arity != CLI_ONE && a->arity != CLI_OPTIONAL;
        guint end = many ? n_args : MIN(at + 1, n_args);
        for (guint64 ignored; at < end; at++) {
            gboolean bytes = a->type == CLI_FILE || a->type == CLI_DIR || a->type == CLI_ARGV;
            if (!bytes && !check_value(a->name, a->type, NULL, call->args[at], &ignored, error))
                return FALSE;
        }
    }
    if (at < n_args) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "\"%s\" is one argument too many",
                    call->args[at]);
        return FALSE;
    }
    return TRUE;
}

static gboolean takes_command_line(const CliCommand *command)
{
    for (const CliArgument *a = command->arguments; a != NULL && a->name != NULL; a++) {
        if (cli_is_behind(a))
            return TRUE;
    }
    return FALSE;
}

/* There is no command @name; with @next, the word behind it, there may be one: "checkpoint create".
 */
static void no_command(const char *name, const char *next, GError **error)
{
    g_autofree char *joined = g_strconcat(name, "-", next, NULL);
    gboolean is_joined = next != NULL && cli_find_command(joined) != NULL;
    const char *near = is_joined ? joined : cli_nearest_command(name);
    if (cli_find_group(name) != NULL && !is_joined)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "\"%s\" is a group of commands: stasis help %s", name, name);
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no command \"%s\"%s%s%s", name,
                    near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                    near != NULL ? "\"?" : "");
}

static gboolean parse_command(CliCall *call, char ***words, const char *const *behind,
                              GError **error)
{
    const char *name = (*words)[1];
    call->command = cli_find_command(name);
    if (call->command == NULL) {
        no_command(name, (*words)[2], error);
        return FALSE;
    }
    g_free((*words)[0]);
    memmove(*words, *words + 1, g_strv_length(*words + 1) * sizeof(char *) + sizeof(char *));
    if (!parse_options(call, FALSE, words, error)) {
        if (behind == NULL && takes_command_line(call->command))
            g_prefix_error(error, "the command line to run goes behind \"--\"; before it, ");
        return FALSE;
    }
    g_autoptr(GStrvBuilder) all = g_strv_builder_new();
    g_strv_builder_addv(all, (const char **)*words + 1);
    if (behind != NULL)
        g_strv_builder_addv(all, (const char **)behind);
    g_strfreev(call->args);
    call->args = g_strv_builder_end(all);
    if (cli_flag(call, "help"))
        return TRUE;
    int before = behind != NULL ? (int)g_strv_length(*words) - 1 : -1;
    return check_arguments(call, before, error) && check_required(call, error);
}

gboolean cli_parse(CliCall *call, const char *const *argv, GError **error)
{
    guint n = 0;
    while (argv[n] != NULL && strcmp(argv[n], "--") != 0)
        n++;
    g_auto(GStrv) words = g_new0(char *, n + 1);
    for (guint i = 0; i < n; i++) {
        words[i] = g_strdup(argv[i]);
        /* Known before anything can fail, so that the failure is shown in the form asked for. */
        call->json |= strcmp(argv[i], "--json") == 0;
    }
    call->values =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)g_ptr_array_unref);
    call->args = g_new0(char *, 1);
    if (n == 0)
        return TRUE;
    if (!parse_options(call, TRUE, &words, error))
        return FALSE;
    const char *const *behind = argv[n] != NULL ? argv + n + 1 : NULL;
    if (words[1] == NULL && behind != NULL && behind[0] != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "a command of stasis goes before \"--\": \"%s\" is behind it", behind[0]);
        return FALSE;
    }
    return words[1] == NULL || parse_command(call, &words, behind, error);
}

/* All values of an option; NULL when it was not given. */
static const GPtrArray *find_values(const CliCall *call, const char *name)
{
    char typed[64];
    g_snprintf(typed, sizeof typed, "--%s", name);
    /* A name that no table has is a mistake of the handler's author: never silently "not given". */
    g_assert(cli_find_option(call->command, typed) != NULL);
    return g_hash_table_lookup(call->values, name);
}

static const CliValue *find_value(const CliCall *call, const char *name)
{
    const GPtrArray *all = find_values(call, name);
    return all != NULL ? all->pdata[all->len - 1] : NULL;
}

gboolean cli_flag(const CliCall *call, const char *name)
{
    return find_value(call, name) != NULL;
}

const char *cli_text(const CliCall *call, const char *name)
{
    const CliValue *value = find_value(call, name);
    return value != NULL ? value->text : NULL;
}

guint64 cli_number(const CliCall *call, const char *name, guint64 fallback)
{
    const CliValue *value = find_value(call, name);
    return value != NULL ? value->number : fallback;
}

const char **cli_texts(const CliCall *call, const char *name)
{
    const GPtrArray *all = find_values(call, name);
    const char **texts = g_new0(const char *, (all != NULL ? all->len : 0) + 1);
    for (guint i = 0; all != NULL && i < all->len; i++)
        texts[i] = ((const CliValue *)all->pdata[i])->text;
    return texts;
}

GArray *cli_numbers(const CliCall *call, const char *name)
{
    const GPtrArray *all = find_values(call, name);
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(guint64));
    for (guint i = 0; all != NULL && i < all->len; i++)
        g_array_append_val(numbers, ((const CliValue *)all->pdata[i])->number);
    return numbers;
}

StasisStore *cli_open_store(CliCall *call, StasisStoreFlags flags, GError **error)
{
    return stasis_store_open(cli_text(call, "store"), flags | STASIS_STORE_AS_KEYS_SAY, error);
}

gboolean cli_read_address(const CliCall *call, const char *option, guint64 *ret, GError **error)
{
    const char *text = cli_text(call, option);
    char *end = NULL;
    *ret = text != NULL ? g_ascii_strtoull(text, &end, 0) : 0;
    if (text == NULL || (end != text && *end == '\0' && *ret != 0 && *ret != G_MAXUINT64))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "--%s %s: no address; a number, as in 0x400250", option, text);
    return FALSE;
}
