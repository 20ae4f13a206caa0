/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `guard` and a policy that is a guard share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* What a guard does, and with how much, as rows of a table of options. */
#define CLI_GUARD_OPTIONS                                                                        \
    { "do",                                                                                      \
      0,                                                                                         \
      CLI_CHOICE,                                                                                \
      "capture|rollback|restart",                                                                \
      "what the guard does: make a bundle; go on from the last image before; the same in a new " \
      "QEMU. capture may be given beside one of the others (default: capture)",                  \
      .many = TRUE },                                                                            \
        { "keep", 0, CLI_COUNT, "N", "images in the guard's ring (default: 10)" },               \
        { "max-tries", 0, CLI_COUNT, "N",                                                        \
          "the guard gives up after so many failures on end (default: 3)" },                     \
        { "max-skips", 0, CLI_COUNT, "N",                                                        \
          "the guard fails when so many images on end could not be taken, because the guest "    \
          "wrote too much meanwhile (default: 20)" },                                            \
        { "max-bundles", 0, CLI_COUNT, "N",                                                      \
          "keep the newest N of the bundles that the guard wrote: the oldest go (default: all "  \
          "stay)" },                                                                             \
    {                                                                                            \
        "disk", 0, CLI_CHOICE, "copy|none", "disks are in the images, or not (default: copy)"    \
    }

G_END_DECLS
