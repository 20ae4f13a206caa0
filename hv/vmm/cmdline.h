/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QEMU command line as a list of options (syntax: qemu(1), QEMU's docs "keyval" and QemuOpts). */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    char *name;  /* without its dashes; NULL for a bare argument (a disk image) */
    char *value; /* NULL when the option takes none, or when the line ends too early */
} StasisOption;

/* The options of @argv, argv[0] left out. Element type: StasisOption, freed with the array. */
GPtrArray *stasis_cmdline_parse(const char *const *argv);
/* The way back, with @program in front. An option's dashes are always one. Free with g_strfreev. */
char **stasis_cmdline_to_argv(const char *program, const GPtrArray *options);

StasisOption *stasis_option_new(const char *name, const char *value);
/* Does an argument follow option @name (without dashes)? */
gboolean stasis_option_takes_argument(const char *name);
/* Is it named @name? FALSE for a bare argument. */
gboolean stasis_option_is(const StasisOption *option, const char *name);

/*
 * The value of @key in "a,b=c,…" (the last one counts; ",," stands for a comma), or in a JSON
 * object. @implied_key: what a first word without '=' is the value of, or NULL. A later word
 * without '=' is a flag: "on". Free with g_free(); NULL when it is not there.
 */
char *stasis_optlist_get(const char *list, const char *key, const char *implied_key);

/*
 * @list with the elements named in @drop (NULL-terminated, or NULL) left out and those in @set
 * (key, value, key, value …, NULL) put in; everything else word for word. A JSON object stays one;
 * there "on" and "off" become booleans and digits a number. A key of @set that is @implied_key
 * stays in front, without its name. Free with g_free(); @list itself, copied, when it is no valid
 * JSON.
 */
char *stasis_optlist_edit(const char *list, const char *implied_key, const char *const *drop,
                          const char *const *set);

/* @text with its commas doubled. Free with g_free(). */
char *stasis_optlist_escape(const char *text);

/* A size as QEMU reads it ("1.5G", "0x1000", "512"): @default_shift applies when no suffix is
 * given. FALSE when it is none. */
gboolean stasis_size_parse(const char *text, guint default_shift, guint64 *ret);

G_END_DECLS
