/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Key files on the disk: reading one, and making a new one, beside it a file with what is public of
 * it. A file with a secret that others than its owner can read is refused: a key that may have been
 * read by anyone seals nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/key.h"

static gboolean check_mode(const char *path, const struct stat *st, GError **error)
{
    if ((st->st_mode & (S_IRWXG | S_IRWXO)) == 0 && (st->st_uid == geteuid() || st->st_uid == 0))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                "key file %s can be read or changed by others (mode %03o, user %u); if nobody has "
                "read it: chmod 600 it, else make a new key with store-key-generate",
                path, (guint)(st->st_mode & 0777), (guint)st->st_uid);
    return FALSE;
}

/* Changes STASIS_ERROR_CORRUPT and the like into one of keys, with the file's name. */
static StasisKeys *unusable(const char *path, GError **error, GError *why)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY, "key file %s: %s", path, why->message);
    g_error_free(why);
    return NULL;
}

StasisKeys *stasis_key_file_read(const char *path, GError **error)
{
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char text[STASIS_MAX_KEY_FILE_BYTES];
    gboolean secret;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)sizeof(text)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                    "key file %s: %s; --key-file and $STASIS_KEY_FILE name key files, "
                    "store-key-generate makes one",
                    path, fd < 0 ? g_strerror(errno) : "it is no key file");
        return NULL;
    }
    GError *local = NULL;
    gsize len = (gsize)st.st_size;
    int r = stasis_pread_all(fd, text, len, 0);
    if (r < 0) {
        stasis_set_errno(error, -r, "key file %s: read", path);
        return NULL;
    }
    g_autoptr(StasisKeys) keys = stasis_keys_parse(text, len, &secret, &local);
    OPENSSL_cleanse(text, len);
    if (keys == NULL)
        return unusable(path, error, local);
    if (secret && !check_mode(path, &st, error))
        return NULL;
    return g_steal_pointer(&keys);
}

/* ---- making one ---- */

static gboolean add_line(GString *text, const char *kind, const guint8 *key, char id[STASIS_KEY_ID],
                         guint8 *ret_public, GError **error)
{
    StasisKeyKind number = strcmp(kind, "seal") == 0   ? STASIS_KEY_SEAL
                           : strcmp(kind, "sign") == 0 ? STASIS_KEY_SIGN
                                                       : STASIS_KEY_VERIFY;
    char hex[2 * STASIS_KEY_BYTES + 1];
    if (!stasis_key_describe(number, key, id, ret_public, error))
        return FALSE;
    stasis_to_hex(key, STASIS_KEY_BYTES, hex);
    g_string_append_printf(text, "%s %s %s\n", kind, id, hex);
    OPENSSL_cleanse(hex, sizeof(hex));
    return TRUE;
}

static gboolean random_key(guint8 ret[STASIS_KEY_BYTES], GError **error)
{
    return getrandom(ret, STASIS_KEY_BYTES, 0) == STASIS_KEY_BYTES ||
           stasis_set_errno(error, errno, "random numbers for a key");
}

/* Or a power cut could leave images without it. Some file systems can't, and need not. */
static int sync_dir_of(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    stasis_autofd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || (fsync(fd) < 0 && errno != EINVAL) ? -errno : 0;
}

/* Never over another: a key that is lost takes its images with it. */
static gboolean write_new(const char *path, const char *text, mode_t mode, GError **error)
{
    stasis_autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return stasis_set_errno(error, errno, "key file %s: make it", path);
    int r = stasis_pwrite_all(fd, text, strlen(text), 0);
    if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
        r = -errno;
    r = r == 0 ? sync_dir_of(path) : r;
    if (r == 0)
        return TRUE;
    unlink(path);
    return stasis_set_errno(error, -r, "key file %s: write", path);
}

static void wipe(GString *text)
{
    OPENSSL_cleanse(text->str, text->allocated_len);
    g_string_free(text, TRUE);
}

gboolean stasis_key_generate(const char *path, StasisSealFlags what, StasisKeyIds *ret,
                             GError **error)
{
    static const char head[] = "stasis-keys 1\n";
    guint8 seal[STASIS_KEY_BYTES], sign[STASIS_KEY_BYTES], verify[STASIS_KEY_BYTES];
    StasisKeyIds ids = { "", "" };
    GString *text = g_string_sized_new(1024); /* never to be moved, leaving copies */
    g_autoptr(GString) open = g_string_new(head);
    g_string_append_printf(
        text, "%s# Secret: without it what it seals is lost, and with it anyone reads it.\n", head);
    gboolean ok = random_key(seal, error) && random_key(sign, error);
    if (ok && (what & STASIS_SEAL_ENCRYPT))
        ok = add_line(text, "seal", seal, ids.encrypt, verify, error);
    if (ok && (what & STASIS_SEAL_SIGN))
        ok = add_line(text, "sign", sign, ids.sign, verify, error) &&
             add_line(open, "verify", verify, ids.sign, verify, error);
    ok = ok && write_new(path, text->str, 0600, error);
    if (ok && (what & STASIS_SEAL_SIGN)) {
        g_autofree char *public_path = g_strconcat(path, ".pub", NULL);
        ok = write_new(public_path, open->str, 0644, error);
        if (!ok)
            unlink(path);
    }
    OPENSSL_cleanse(seal, sizeof(seal));
    OPENSSL_cleanse(sign, sizeof(sign));
    wipe(text);
    if (ok)
        *ret = ids;
    return ok;
}
