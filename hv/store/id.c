/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image IDs: 48 bits of Unix time in milliseconds and 80 random bits, as 26 digits of Crockford's
 * base 32 in lower case (the ULID layout, github.com/ulid/spec), so that they sort by time of
 * creation. A new ID sorts behind all that are in the store, even if the clock was set back.
 */
#include <string.h>
#include <sys/random.h>

#include "store/internal.h"

#define TIME_CHARS 10u
#define MAX_MS (((guint64)1 << 48) - 1)
#define DAY_MS ((guint64)24 * 60 * 60 * 1000)

static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

gboolean stasis_id_is_valid(const char *id)
{
    guint n = 0;
    while (n <= STASIS_ID_CHARS && id[n] != '\0' && strchr(digits, id[n]) != NULL)
        n++;
    return n == STASIS_ID_CHARS && id[n] == '\0' && id[0] <= '7';
}

static guint64 time_of(const char *id)
{
    guint64 ms = 0;
    for (guint i = 0; i < TIME_CHARS; i++)
        ms = ms << 5 | (guint64)(strchr(digits, id[i]) - digits);
    return ms;
}

gboolean stasis_id_is_ahead(const char *id)
{
    return time_of(id) > (guint64)g_get_real_time() / 1000 + DAY_MS;
}

char *stasis_id_new(const char *last, GError **error)
{
    guint64 ms = (guint64)g_get_real_time() / 1000;
    if (last != NULL)
        ms = MAX(ms, time_of(last) + 1);
    guint8 random[STASIS_ID_CHARS - TIME_CHARS];
    if (ms > MAX_MS || getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "no new image ID sorts behind %s: delete that image", last ? last : "none");
        return NULL;
    }
    char *id = g_malloc(STASIS_ID_CHARS + 1);
    for (guint i = 0; i < TIME_CHARS; i++)
        id[i] = digits[ms >> (5 * (TIME_CHARS - 1 - i)) & 31];
    for (guint i = TIME_CHARS; i < STASIS_ID_CHARS; i++)
        id[i] = digits[random[i - TIME_CHARS] & 31];
    id[STASIS_ID_CHARS] = '\0';
    return id;
}
