/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The real streams of tests/data/vmstate, inside the test program: it runs in any directory.
 * Paths are relative to where make runs, the root of the tree. */
#pragma once

#include <glib.h>
#include <string.h>

#define TEST_DATA(symbol, file)                                         \
    __asm__(".section .rodata\n"                                        \
            ".global " #symbol "\n" #symbol ":\n"                       \
            ".incbin \"tests/data/vmstate/" file "\"\n"                 \
            ".global " #symbol "_end\n" #symbol "_end:\n"               \
            ".previous\n");                                             \
    extern const guint8 symbol[] __attribute__((visibility("hidden"))); \
    extern const guint8 symbol##_end[] __attribute__((visibility("hidden")))

TEST_DATA(test_data_pc, "pc.stream");
TEST_DATA(test_data_pc_notes, "pc.notes");
TEST_DATA(test_data_q35, "q35.stream");
TEST_DATA(test_data_microvm, "microvm-full.stream");

static inline GBytes *test_data(const char *name)
{
    const struct {
        const char *name;
        const guint8 *data, *end;
    } files[] = {
        { "pc.stream", test_data_pc, test_data_pc_end },
        { "pc.notes", test_data_pc_notes, test_data_pc_notes_end },
        { "q35.stream", test_data_q35, test_data_q35_end },
        { "microvm-full.stream", test_data_microvm, test_data_microvm_end },
    };
    for (guint i = 0; i < G_N_ELEMENTS(files); i++)
        if (strcmp(files[i].name, name) == 0)
            return g_bytes_new_static(files[i].data, (gsize)(files[i].end - files[i].data));
    g_assert_not_reached();
}
