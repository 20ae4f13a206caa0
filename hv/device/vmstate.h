/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's migration stream, as far as device state goes: reading it into sections and writing it
 * back. Source of the format: QEMU's docs/devel/migration.rst (7.2) and the layout that
 * `scripts/analyze-migration.py` documents. Everything on the wire is big-endian.
 *
 * Input is untrusted: every length is checked against what is left, counts are bounded.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct {
    char *name; /* idstr: "cpu", "0000:00:02.0/virtio-net" … */
    guint32 section_id;
    guint32 instance;
    guint32 version;
    guint8 type;          /* QEMU_VM_SECTION_FULL (4), _START (1), _PART (2), _END (3) */
    gsize offset;         /* of the section's type byte in the stream */
    gsize payload_offset; /* of the first byte behind the header */
    gsize payload_size;   /* up to the footer */
} StasisVmstateSection;

typedef struct _StasisVmstate StasisVmstate;

/* Index @stream (at most 64 MiB). Boundaries are not on the wire: of the ways to cut it up that
 * consume it whole, always the same one is chosen (vmstate-scan.c). A truncated or unknown stream
 * is STASIS_ERROR_CORRUPT with the offset. Takes a reference on @stream. */
StasisVmstate *stasis_vmstate_parse(GBytes *stream, GError **error);
/* The same, but cut up into just the sections that @like has, in that order (id, name, instance and
 * version), which must be whole ones; NULL if that can't be. What a guest has put into the state of
 * a device, so that it looks like a section of its own, is seen through where @like has none of it.
 */
StasisVmstate *stasis_vmstate_parse_like(GBytes *stream, StasisVmstate *like);
void stasis_vmstate_free(StasisVmstate *vmstate);

/* The machine type of the configuration section, or NULL when the stream has none (as QEMU's
 * xen-save-devices-state leaves it). */
const char *stasis_vmstate_get_machine(StasisVmstate *vmstate);
/* What was parsed; stays the vmstate's. */
GBytes *stasis_vmstate_get_stream(StasisVmstate *vmstate);
guint stasis_vmstate_get_n_sections(StasisVmstate *vmstate);
const StasisVmstateSection *stasis_vmstate_get_section(StasisVmstate *vmstate, guint i);
/* The section of device @name and @instance, or NULL. */
const StasisVmstateSection *stasis_vmstate_find(StasisVmstate *vmstate, const char *name,
                                                guint32 instance);
/* One field of a device's state. Element of an array that frees it. */
typedef struct {
    char *path; /* "regs[3]", "vring.num"; in a subsection behind its name, "cpu/msr_hv:value" */
    char *type; /* QEMU's: "uint32", "bool", "buffer" … */
    gsize offset, size_bytes; /* in the payload; integers are big-endian */
} StasisVmstateField;

/* What its description says of @section: the fields in the order of the payload. NULL when it says
 * nothing, or when that does not fit. */
GPtrArray *stasis_vmstate_get_fields(StasisVmstate *vmstate, const StasisVmstateSection *section);
gboolean stasis_vmstate_has_description(StasisVmstate *vmstate);
/* Give @vmstate the description at the end of @tail, the last part of a stream of the same machine
 * in the same state; FALSE when there is none. */
gboolean stasis_vmstate_take_description(StasisVmstate *vmstate, GBytes *tail);
/* The payload, sharing @stream's memory. */
GBytes *stasis_vmstate_get_payload(StasisVmstate *vmstate, const StasisVmstateSection *section);

/* The stream with a configuration section that names @machine right behind the header, as a
 * loading QEMU expects it; @stream itself when it has one for that machine already (another
 * machine is STASIS_ERROR_CORRUPT). */
GBytes *stasis_vmstate_with_machine(GBytes *stream, const char *machine, GError **error);

/* The stream with the payload of one section replaced; everything else byte for byte. */
GBytes *stasis_vmstate_replace(StasisVmstate *vmstate, const StasisVmstateSection *section,
                               GBytes *payload, GError **error);

/* The stream with those sections only for which @wanted (one for each, in order) is TRUE; without a
 * description, if there was one. */
GBytes *stasis_vmstate_pick(StasisVmstate *vmstate, const gboolean *wanted, GError **error);

/* @stream with a description at its end that names its devices and their sizes, as QEMU writes one:
 * its tools look into a stream with that, and QEMU complains where there is none. @stream itself if
 * it has one. */
GBytes *stasis_vmstate_with_description(GBytes *stream, GError **error);

/* Was the machine running, and is it to be so when the stream is loaded? It is paused if any other
 * run state is recorded (section "globalstate"). */
gboolean stasis_vmstate_is_running(StasisVmstate *vmstate);
/* The stream with that recorded otherwise; unchanged when it records nothing. */
GBytes *stasis_vmstate_with_running(StasisVmstate *vmstate, gboolean running, GError **error);

/* RAM for a stream, so that a loading QEMU puts it in place: first all blocks that the machine has
 * (QEMU compares their sizes), then pages of 4096 bytes of any of them, @page NULL for a zero one.
 * Blocks without pages are left as they are there. */
typedef struct _StasisVmstateRam StasisVmstateRam;

StasisVmstateRam *stasis_vmstate_ram_new(void);
void stasis_vmstate_ram_free(StasisVmstateRam *ram);
void stasis_vmstate_ram_add_block(StasisVmstateRam *ram, const char *name, guint64 size_bytes);
/* @block: any number that is @name's alone. */
void stasis_vmstate_ram_add_page(StasisVmstateRam *ram, guint block, const char *name,
                                 guint64 offset, const guint8 *page);
/* @stream, which has devices and no RAM, with @ram before them. */
GBytes *stasis_vmstate_with_ram(GBytes *stream, const StasisVmstateRam *ram, GError **error);
/* The same in pieces, when there is too much RAM to hold: a head, once all blocks are added; all
 * that take_pages() gives, whenever enough of it is pending (bytes); a tail. */
gboolean stasis_vmstate_ram_frame(const StasisVmstateRam *ram, GBytes *stream, GBytes **ret_head,
                                  GBytes **ret_tail, GError **error);
gsize stasis_vmstate_ram_get_pending(const StasisVmstateRam *ram);
GBytes *stasis_vmstate_ram_take_pages(StasisVmstateRam *ram);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisVmstateRam, stasis_vmstate_ram_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisVmstate, stasis_vmstate_free)

G_END_DECLS
