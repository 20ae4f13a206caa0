/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "output.h"
#include "table.h"

static const char *const status_names[] = {
    [STASIS_CHECK_OK] = "ok",
    [STASIS_CHECK_LIMITED] = "limited",
    [STASIS_CHECK_MISSING] = "missing",
};

static const CliExample examples[] = {
    { "doctor", "What works here, and what to do about the rest" },
    { NULL },
};

static void show_json(CliCall *call, const GPtrArray *checks)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < checks->len; i++) {
        const StasisCheck *check = checks->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", check->name);
        cli_json_set_string(object, "status", status_names[check->status]);
        cli_json_set_string(object, "found", check->found);
        cli_json_set_string(object, "advice", check->advice);
        json_array_add_object_element(array, object);
    }
    cli_take_array(call, array);
}

static void show_table(const GPtrArray *checks)
{
    g_autoptr(CliTable) table = cli_table_new("lll");
    cli_table_add(table, "CHECK", "STATUS", "FOUND");
    for (guint i = 0; i < checks->len; i++) {
        const StasisCheck *check = checks->pdata[i];
        cli_table_add(table, check->name, status_names[check->status], check->found);
        g_autofree char *advice =
            check->advice != NULL ? g_strconcat("-> ", check->advice, NULL) : NULL;
        if (advice != NULL)
            cli_table_add(table, NULL, NULL, advice);
    }
    cli_table_print(table, 0);
}

static gboolean doctor(CliCall *call, GError **error)
{
    const char *uri = cli_text(call, "connect");
    /* That is where it looks. */
    if (uri != NULL)
        g_setenv("STASIS_CONNECT", uri, TRUE);
    g_autoptr(GPtrArray) checks = stasis_doctor(cli_text(call, "store"));
    for (guint i = 0; i < checks->len; i++) {
        if (((const StasisCheck *)checks->pdata[i])->status == STASIS_CHECK_MISSING)
            call->exit_code = 1;
    }
    if (call->json)
        show_json(call, checks);
    else
        show_table(checks);
    return TRUE;
}

const CliCommand cli_cmd_doctor = {
    .group = "host",
    .name = "doctor",
    .summary = "check what works on this host",
    .description =
        "Probe the kernel, QEMU, KVM, privileges, memory, the store, libvirt and libguestfs, and "
        "say for each what is "
        "there and what to do if that is not enough. Changes nothing. \"limited\" works with a "
        "cost or a restriction; \"missing\" makes the exit status 1.",
    .examples = examples,
    .handler = doctor,
};
