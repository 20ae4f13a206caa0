/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stored file of an image of processes, by what somebody made of it. Of a sealed one, whose bytes
 * are changed, cut off, doubled or moved, nothing opens but what was sealed there; a map of pages,
 * of any bytes, leads nowhere but into the image's own files. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/tree.h"
#include "store/internal.h"
#include "store/proc-image-file.h"
#include "store/proc-image-pages.h"

#define PIECE STASIS_PROC_PIECE_BYTES
#define SIZE (2 * PIECE + 1000)
#define N_PAGES 6u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/dev/shm/fuzz-proc-file-XXXXXX";
static int dir_fd = -1;
static StasisKeys *keys;
static const StasisKey *key;
static guint8 plain[SIZE];
static char *sealed; /* as it is stored */
static gsize sealed_len;

static void tidy(void)
{
    stasis_remove_tree(dir);
}

static void write_file(const char *name, const void *bytes, gsize n)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    FILE *file = fopen(path, "wb");
    g_assert(file != NULL && (n == 0 || fwrite(bytes, n, 1, file) == 1) && fclose(file) == 0);
}

static void set_up(void)
{
    g_autofree char *text = NULL, *path = NULL;
    guint8 bytes[STASIS_KEY_BYTES] = { 7 }, public_key[STASIS_KEY_BYTES];
    char id[STASIS_KEY_ID], hex[2 * STASIS_KEY_BYTES + 1];
    StasisProcImageFile file = { .name = (char *)"f" };
    gboolean secret;
    g_assert(g_mkdtemp(dir) != NULL);
    atexit(tidy);
    dir_fd = stasis_store_open_dir(AT_FDCWD, dir);
    g_assert(stasis_key_describe(STASIS_KEY_SEAL, bytes, id, public_key, NULL));
    stasis_to_hex(bytes, sizeof bytes, hex);
    text = g_strdup_printf("stasis-keys 1\nseal %s %s\n", id, hex);
    keys = stasis_keys_parse(text, strlen(text), &secret, NULL);
    key = stasis_keys_first(keys, STASIS_KEY_SEAL);
    for (guint i = 0; i < SIZE; i++)
        plain[i] = (guint8)(i / 256 + i);
    g_autoptr(StasisSealer) sealer = stasis_sealer_new(keys, key, NULL);
    g_autoptr(StasisProcFileWriter) writer = stasis_proc_file_create(dir_fd, "f", sealer, NULL);
    g_assert(stasis_proc_file_append(writer, plain, SIZE, NULL));
    g_assert(stasis_proc_file_end(writer, &file, NULL, NULL));
    g_free(file.sha256);
    path = g_build_filename(dir, "f", NULL);
    g_assert(g_file_get_contents(path, &sealed, &sealed_len, NULL));
    write_file("a.pages", plain, N_PAGES * STASIS_PROC_PAGE_BYTES);
    write_file("b.pages", plain, STASIS_PROC_PAGE_BYTES);
}

static guint32 next(const uint8_t **data, size_t *size)
{
    guint32 value = 0;
    gsize n = MIN(*size, sizeof value);
    memcpy(&value, *data, n);
    *data += n;
    *size -= n;
    return value;
}

/* What opens of the file, of which its manifest says that it has @said bytes. */
static void check_opened(gsize said)
{
    static guint8 back[PIECE];
    StasisProcImageFile file = { .name = (char *)"f", .size = said };
    g_autoptr(StasisProcFileReader) reader = stasis_proc_file_open(dir_fd, &file, key, NULL, NULL);
    for (guint64 at = 0; reader != NULL && (at < said || at == 0); at += PIECE) {
        gsize n = (gsize)MIN(PIECE, said - at);
        if (stasis_proc_file_read(reader, at, back, n, NULL))
            g_assert(at + n <= SIZE && memcmp(back, plain + at, n) == 0 &&
                     (at + n < said || said == SIZE));
    }
}

/* Edits: move so many bytes from here to there; at the end, cut or add some. */
static void check_sealed(const uint8_t *data, size_t size)
{
    g_autofree char *bytes = g_malloc0(2 * sealed_len);
    memcpy(bytes, sealed, sealed_len);
    gsize said = next(&data, &size) % (2 * SIZE);
    gsize len = (gsize)stasis_proc_file_stored_bytes(said, TRUE);
    if (len > 2 * sealed_len)
        return;
    while (size > 0) {
        gsize from = next(&data, &size) % (2 * sealed_len), to = next(&data, &size) % sealed_len;
        guint32 what = next(&data, &size);
        if (what % 2 == 0)
            bytes[to] ^= (char)(what >> 8);
        else
            memmove(bytes + to, bytes + from,
                    MIN(what % (PIECE + 41), 2 * sealed_len - MAX(from, to)));
    }
    write_file("f", bytes, len);
    check_opened(said);
}

static void check_map(const uint8_t *data, size_t size)
{
    static guint8 back[64 * STASIS_PROC_PAGE_BYTES];
    StasisProcImageFile a = { .name = (char *)"a.pages", .size = N_PAGES * STASIS_PROC_PAGE_BYTES };
    StasisProcImageFile b = { .name = (char *)"b.pages", .size = STASIS_PROC_PAGE_BYTES };
    StasisProcImageFile map = { .name = (char *)"p.map", .size = size };
    StasisProcImageFile made = { .name = (char *)"p", .map = (char *)"p.map" };
    g_autoptr(GPtrArray) files = g_ptr_array_new();
    g_ptr_array_add(files, &a);
    g_ptr_array_add(files, &b);
    g_ptr_array_add(files, &map);
    write_file("p.map", data, size);
    for (guint n = 1; n <= 64; n *= 2) {
        made.size = n * STASIS_PROC_PAGE_BYTES;
        g_autoptr(StasisProcAssembled) assembled =
            stasis_proc_assembled_open(dir_fd, files, &made, NULL, NULL);
        if (assembled == NULL)
            continue;
        g_assert(stasis_proc_assembled_read(assembled, back, made.size, NULL));
        g_assert(!stasis_proc_assembled_read(assembled, back, STASIS_PROC_PAGE_BYTES, NULL));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (dir_fd < 0)
        set_up();
    if (size < 1 || size > 65536)
        return 0;
    if (data[0] % 2 == 0)
        check_sealed(data + 1, size - 1);
    else
        check_map(data + 1, size - 1);
    return 0;
}
