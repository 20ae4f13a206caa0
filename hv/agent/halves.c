/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of connections with one end in an image. See halves.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "agent/halves.h"

bool stasis_half_parse(const char *line, StasisHalfLine *ret)
{
    unsigned long long ino;
    char how[8];
    *ret = (StasisHalfLine){ 0 };
    /* An inode is 20 digits at most. */
    int words = isdigit((unsigned char)line[0]) && strspn(line, "0123456789") <= 20
                    ? sscanf(line, "%llu %7s %15s", &ino, how, ret->name)
                    : 0;
    ret->log = words == 3 && strcmp(how, "log") == 0;
    ret->agent = words == 2 && strcmp(how, "agent") == 0;
    if (!ret->log && !ret->agent && (words != 2 || strcmp(how, "cut") != 0))
        return false;
    ret->ino = ino;
    return true;
}
