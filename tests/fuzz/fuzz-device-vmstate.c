/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a device state stream holds, reading it ends in time, stays inside it and gives either
 * sections that cover it in order or an error.
 */
#include <device/pci-state.h>
#include <device/vmstate.h>
#include <device/x86cpu.h>
#include <stasis/error.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

/* They lie one behind the other, inside the payload. */
static void check_fields(StasisVmstate *vmstate, const StasisVmstateSection *section)
{
    g_autoptr(GPtrArray) fields = stasis_vmstate_get_fields(vmstate, section);
    gsize end = 0;
    for (guint i = 0; fields != NULL && i < fields->len; i++) {
        const StasisVmstateField *field = fields->pdata[i];
        CHECK(field->offset >= end && field->offset <= section->payload_size);
        CHECK(field->size_bytes <= section->payload_size - field->offset);
        CHECK(field->path != NULL && field->type != NULL);
        end = field->offset + field->size_bytes;
    }
}

static void check_sections(StasisVmstate *vmstate, gsize len)
{
    gsize end = 8;
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        CHECK(section->offset >= end && section->payload_offset > section->offset);
        CHECK(section->payload_size <= len - section->payload_offset - 5);
        CHECK(i == 0 || section->offset == end);
        CHECK(section->name != NULL && section->name[0] != '\0');
        end = section->payload_offset + section->payload_size + 5;
        check_fields(vmstate, section);
        StasisX86Cpu cpu;
        stasis_x86_cpu_from_vmstate(vmstate, section->instance, &cpu, NULL);
    }
    CHECK(end < len);
}

/* What was read can be written back, with a payload of our own as well. */
static void check_writer(StasisVmstate *vmstate, GBytes *stream)
{
    const char *machine = stasis_vmstate_get_machine(vmstate);
    g_autoptr(GBytes) with =
        stasis_vmstate_with_machine(stream, machine != NULL ? machine : "pc", NULL);
    CHECK(with != NULL);
    g_autoptr(GBytes) described = stasis_vmstate_with_description(stream, NULL);
    CHECK(described != NULL);
    stasis_vmstate_is_running(vmstate);
    g_autoptr(GBytes) paused = stasis_vmstate_with_running(vmstate, FALSE, NULL);
    guint n = stasis_vmstate_get_n_sections(vmstate);
    if (n == 0)
        return;
    const StasisVmstateSection *last = stasis_vmstate_get_section(vmstate, n - 1);
    g_autoptr(GBytes) payload = stasis_vmstate_get_payload(vmstate, last);
    g_autoptr(GBytes) same = stasis_vmstate_replace(vmstate, last, payload, NULL);
    CHECK(same != NULL && g_bytes_equal(same, stream));
    const StasisVmstateSection *first = stasis_vmstate_get_section(vmstate, 0);
    g_autoptr(GBytes) begin = stasis_vmstate_get_payload(vmstate, first);
    g_autoptr(GBytes) lines = stasis_pci_state_keep_lines(payload, begin);
    CHECK(g_bytes_get_size(lines) == g_bytes_get_size(payload));
    g_autofree gboolean *wanted = g_new0(gboolean, n);
    wanted[n / 2] = TRUE;
    g_autoptr(GBytes) picked = stasis_vmstate_pick(vmstate, wanted, NULL);
    g_autoptr(GBytes) other = g_bytes_new_static("~\0\0\0\1", 5);
    g_autoptr(GBytes) changed = stasis_vmstate_replace(vmstate, last, other, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = g_bytes_new(data, size);
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    CHECK((vmstate == NULL) == (error != NULL));
    if (vmstate == NULL) {
        CHECK(g_error_matches(error, STASIS_ERROR, STASIS_ERROR_CORRUPT));
        CHECK(strchr(error->message, '\n') == NULL);
        return 0;
    }
    check_sections(vmstate, size);
    check_writer(vmstate, stream);
    g_autoptr(StasisVmstate) again = stasis_vmstate_parse_like(stream, vmstate);
    if (again != NULL)
        check_sections(again, size);
    return 0;
}
