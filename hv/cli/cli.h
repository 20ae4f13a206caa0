/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the command share. A command is one CliCommand: its handler, its arguments,
 * its options and its words, in one table that dispatch, help, the man page and completion read.
 * Synopses and option help are made from it, so neither is written twice.
 *
 * Names here start with Cli/cli_, never stasis_: that prefix is the library's.
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <stasis/stasis.h>

G_BEGIN_DECLS

/* What a value is: decides how it is checked and what completes it (cli_types[] in parse.c). */
typedef enum {
    CLI_FLAG,       /* an option without a value */
    CLI_TEXT,       /* any UTF-8 */
    CLI_VM,         /* the name of a known VM */
    CLI_IMAGE,      /* an image ID, a unique prefix of one, or "latest" */
    CLI_PROC_IMAGE, /* the same of an image of processes */
    CLI_ANY_IMAGE,  /* of either kind */
    CLI_FILE,       /* a path, any bytes */
    CLI_FILES,      /* several paths, colons between them */
    CLI_DIR,        /* a directory, any bytes */
    CLI_CHOICE,     /* one of the words of the shown value, "auto|kvm|tcg" */
    CLI_COUNT,      /* 1 … 2^31-1 */
    CLI_SIZE,       /* bytes, with K, M, G or T for powers of 1024 */
    CLI_MS,         /* milliseconds with a fraction, or with a unit; the number is microseconds */
    CLI_SPAN,       /* "1h30m": y, w, d, h, min or m, s, ms; the number is microseconds */
    CLI_AGE,        /* the same without "m", which could be months, and "ms" */
    CLI_TOPIC,      /* a command or a group */
    CLI_ARGV,       /* words of a command line, behind "--" */
    CLI_N_TYPES,
} CliType;

typedef enum {
    CLI_ONE = 1, /* so that a forgotten field shows in the table's check */
    CLI_OPTIONAL,
    CLI_ANY,           /* any number */
    CLI_SOME,          /* one or more */
    CLI_BEHIND,        /* one or more, behind "--" and not looked at */
    CLI_MAY_BE_BEHIND, /* the same, or no "--" either */
    CLI_N_ARITIES,
} CliArity;

typedef struct {
    const char *name; /* in capitals, as shown; NULL ends the array */
    CliArity arity;
    CliType type;
    const char *summary;
} CliArgument;

typedef struct {
    const char *name; /* without dashes; NULL ends the array */
    char letter;      /* or 0 */
    CliType type;
    const char *value; /* shown name of the value; the words of a CLI_CHOICE; NULL for a flag */
    const char *summary;
    gboolean required;
    gboolean hidden; /* for the build only: in no help */
    gboolean many;   /* may be given more than once: cli_texts() */
} CliOption;

typedef struct {
    const char *command; /* without "stasis " */
    const char *does;
} CliExample;

typedef struct _CliCall CliCall;
typedef struct _CliShell CliShell;

typedef enum {
    CLI_HIDDEN = 1 << 0,      /* in no list: for programs, not for people */
    CLI_IN_SHELL = 1 << 1,    /* runs in the process of the shell, and only there */
    CLI_OWN_SIGNALS = 1 << 2, /* the handler sees to signals itself */
} CliCommandFlags;

typedef struct {
    const char *group; /* id in cli_groups[] */
    const char *name;
    const char *summary;          /* one line, no full stop */
    const char *description;      /* whole sentences; a blank line between paragraphs */
    const CliArgument *arguments; /* NULL: takes none */
    const CliOption *options;     /* NULL: none of its own */
    const CliExample *examples;
    gboolean (*handler)(CliCall *call, GError **error);
    CliCommandFlags flags;
} CliCommand;

typedef struct {
    const char *id;
    const char *title;
} CliGroup;

/* NULL-terminated; an entry with NULL id ends cli_groups. */
extern const CliCommand *const cli_commands[];
extern const CliGroup cli_groups[];
/* Options of every command. */
extern const CliOption cli_global_options[];

/* One run of one command. Everything a handler knows comes from here. */
struct _CliCall {
    const CliCommand *command; /* NULL until it is known */
    GHashTable *values;        /* option name → GPtrArray of CliValue */
    char **args;               /* positional arguments, all of them */
    gboolean json;
    GCancellable *cancellable; /* fires on Ctrl-C, SIGTERM, SIGHUP */
    JsonNode *result;          /* what --json shows; set by the handler */
    int exit_code;             /* of a handler that returned TRUE */
    int unheard;               /* errno of cli_print_line(): nobody gets more of the result; or 0 */
    CliShell *shell;           /* whose process this is; NULL: of no shell */
};

/* run.c: run the command line @argv (argv[0] the program), within @shell or NULL; returns its exit
 * status, and everything else is said. */
int cli_run(const char *const *argv, CliShell *shell);
/* The value of a CLI_FILES as one that means the same in any directory. Free with g_free(). */
char *cli_absolute_paths(const char *paths);

/* parse.c */
const CliCommand *cli_find_command(const char *name);
const CliGroup *cli_find_group(const char *id);
/* The command whose name is nearest to @name, or NULL when none is near. */
const char *cli_nearest_command(const char *name);
const char *cli_completer_name(CliType type);
/* A command line that has to stand behind "--", if it is there at all? */
gboolean cli_is_behind(const CliArgument *argument);
/* @typed is "--name" or "-n"; looked for in @command's options (@command may be NULL) and in those
 * of every command. */
const CliOption *cli_find_option(const CliCommand *command, const char *typed);
/* Read @argv (argv[0] the program) into @call. Errors are STASIS_ERROR_USAGE. */
gboolean cli_parse(CliCall *call, const char *const *argv, GError **error);

/* Values of options, by a name that is in the command's table (or the global one). */
gboolean cli_flag(const CliCall *call, const char *name);
const char *cli_text(const CliCall *call, const char *name);
guint64 cli_number(const CliCall *call, const char *name, guint64 fallback);
/* All values of an option that may be given many times, NULL-terminated, in their order. Free the
 * array alone. */
const char **cli_texts(const CliCall *call, const char *name);
/* The same as numbers. Free with g_array_unref(). */
GArray *cli_numbers(const CliCall *call, const char *name);

/* parse.c: a guest-physical address, "0x400250" or a decimal number; 0: none is given. */
gboolean cli_read_address(const CliCall *call, const char *option, guint64 *ret, GError **error);

/* vm.c: which libvirtd names are meant to be of, NULL for none: --connect, or $STASIS_CONNECT. */
const char *cli_connection(const CliCall *call);
/* The same where the value of --connect (or NULL) is at hand only. */
const char *cli_connection_of(const char *value);
/* What is in the file of --xml, which goes with --connect only; NULL when it is not given. */
gboolean cli_read_domain_xml(const CliCall *call, char **ret, GError **error);
/* The VM that @name means, see --connect. */
StasisVm *cli_open_vm(CliCall *call, const char *name, GError **error);

/* NULL, and STASIS_ERROR_NO_STORE, when the store is not there and @flags don't make it. */
StasisStore *cli_open_store(CliCall *call, StasisStoreFlags flags, GError **error);

/* help.c: texts made from the table. All are to be freed with g_free(). */
char *cli_help_overview(void);
char *cli_help_group(const CliGroup *group);
char *cli_help_command(const CliCommand *command);
char *cli_help_roff(void);
JsonNode *cli_help_json(void);
/* NULL when every field that must be there is; else one line for each that isn't. */
char *cli_check_table(void);

/* cmd-vm.c */
/* Where the VM runs now: its name on stdout, or its description as JSON. */
gboolean cli_show_started(CliCall *call, StasisVm *vm, GError **error);

extern const CliCommand cli_cmd_run, cli_cmd_attach, cli_cmd_detach, cli_cmd_list, cli_cmd_info,
    cli_cmd_prepare, cli_cmd_pause, cli_cmd_resume, cli_cmd_kill, cli_cmd_console,
    cli_cmd_disk_list, cli_cmd_disk_prune, cli_cmd_disk_commit, cli_cmd_checkpoint_create,
    cli_cmd_checkpoint_list, cli_cmd_checkpoint_info, cli_cmd_checkpoint_verify,
    cli_cmd_checkpoint_delete, cli_cmd_store_check, cli_cmd_store_stats, cli_cmd_store_prune,
    cli_cmd_store_fold, cli_cmd_restore, cli_cmd_rollback, cli_cmd_clone, cli_cmd_device_list,
    cli_cmd_device_diff, cli_cmd_device_checkpoint, cli_cmd_device_restore, cli_cmd_export,
    cli_cmd_import, cli_cmd_file_ls, cli_cmd_file_cat, cli_cmd_file_copy_out, cli_cmd_mount,
    cli_cmd_umount, cli_cmd_doctor, cli_cmd_help, cli_cmd_agent_info, cli_cmd_agent_ping,
    cli_cmd_agent_exec, cli_cmd_agent_copy_in, cli_cmd_agent_copy_out, cli_cmd_agent_install,
    cli_cmd_proc_list, cli_cmd_proc_graph, cli_cmd_proc_checkpoint, cli_cmd_proc_restore,
    cli_cmd_proc_export, cli_cmd_try, cli_cmd_bundle_info, cli_cmd_bundle_export,
    cli_cmd_bundle_import, cli_cmd_guard, cli_cmd_ci_run, cli_cmd_replay;
extern const CliCommand cli_cmd_agent_serve;
extern const CliCommand cli_cmd_store_init, cli_cmd_store_key_generate, cli_cmd_store_rekey;
extern const CliCommand cli_cmd_policy_set, cli_cmd_policy_list, cli_cmd_policy_show,
    cli_cmd_policy_remove, cli_cmd_policy_run, cli_cmd_job_list, cli_cmd_job_info,
    cli_cmd_job_abort, cli_cmd_event;
extern const CliCommand cli_cmd_job_checkpoint, cli_cmd_job_restore, cli_cmd_job_rollback,
    cli_cmd_job_export;
extern const CliCommand cli_cmd_proc_watch;
extern const CliCommand cli_cmd_web;
extern const CliCommand cli_cmd_shell, cli_cmd_cd, cli_cmd_pwd, cli_cmd_quit, cli_cmd_exit,
    cli_cmd_complete;

G_END_DECLS
