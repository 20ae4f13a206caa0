/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/proc-image-pages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "store/internal.h"
#include "store/proc-image-manifest.h"

#define PAGE STASIS_PROC_PAGE_BYTES
#define MAX_MAP_BYTES ((gsize)1 << 30)
#define DEFAULT_MAX_SOURCES 512u

/* A record of a map, numbers little-endian: pages that lie behind each other in one file. */
typedef struct {
    guint32 source; /* among the image's files that end with ".pages", by name */
    guint32 n_pages;
    guint64 first; /* page of that file */
} Record;
G_STATIC_ASSERT(sizeof(Record) == 16);

gboolean stasis_proc_pages_is_pages(const char *name)
{
    return g_str_has_prefix(name, "pages-") && g_str_has_suffix(name, ".img");
}

static gboolean is_source(const StasisProcImageFile *file)
{
    return g_str_has_suffix(file->name, STASIS_PROC_PAGES_SUFFIX);
}

guint stasis_proc_pages_n_sources(const StasisProcImageReader *image)
{
    guint n = 0;
    for (guint i = 0; i < image->files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(image->files, i);
        n += is_source(file) || (file->map == NULL && stasis_proc_pages_is_pages(file->name));
    }
    return n;
}

guint stasis_proc_pages_max_sources(void)
{
    const char *text = g_getenv("STASIS_PROC_SOURCES"); /* for tests */
    guint64 n = text != NULL ? g_ascii_strtoull(text, NULL, 10) : 0;
    return n > 0 && n < DEFAULT_MAX_SOURCES ? (guint)n : DEFAULT_MAX_SOURCES;
}

/* ---- reading ---- */

typedef struct {
    StasisProcFileReader *file;
    guint64 n_pages;
} Source;

struct _StasisProcAssembled {
    GArray *sources; /* of Source */
    Record *records;
    gsize n_records;
    gsize at;         /* the record under way */
    guint64 done;     /* pages of it */
    const char *name; /* borrowed */
};

void stasis_proc_assembled_free(StasisProcAssembled *a)
{
    if (a == NULL)
        return;
    for (guint i = 0; i < a->sources->len; i++)
        stasis_proc_file_reader_free(g_array_index(a->sources, Source, i).file);
    g_array_unref(a->sources);
    g_free(a->records);
    g_free(a);
}

static gboolean open_sources(StasisProcAssembled *a, int dir_fd, const GPtrArray *files,
                             const StasisKey *key, GError **error)
{
    for (guint i = 0; i < files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(files, i);
        Source source = { NULL, file->size / PAGE };
        if (!is_source(file))
            continue;
        source.file = stasis_proc_file_open(dir_fd, file, key, NULL, error);
        if (source.file == NULL)
            return FALSE;
        g_array_append_val(a->sources, source);
    }
    return TRUE;
}

static const StasisProcImageFile *find_file(const GPtrArray *files, const char *name)
{
    for (guint i = 0; i < files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(files, i);
        if (strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

static gboolean read_map(StasisProcAssembled *a, int dir_fd, const GPtrArray *files,
                         const StasisProcImageFile *file, const StasisKey *key, GError **error)
{
    guint64 n_pages = 0;
    const StasisProcImageFile *map = find_file(files, file->map);
    if (map == NULL || map->map != NULL || map->size % sizeof(Record) != 0 ||
        map->size > MAX_MAP_BYTES)
        return stasis_corrupt(error, "%s: no map of pages", file->map);
    g_autoptr(StasisProcFileReader) reader = stasis_proc_file_open(dir_fd, map, key, NULL, error);
    if (reader == NULL)
        return FALSE;
    a->records = g_malloc(map->size + 1);
    a->n_records = map->size / sizeof(Record);
    if (!stasis_proc_file_read(reader, 0, (guint8 *)a->records, map->size, error))
        return FALSE;
    for (gsize i = 0; i < a->n_records; i++) {
        Record *record = &a->records[i];
        record->source = GUINT32_FROM_LE(record->source);
        record->n_pages = GUINT32_FROM_LE(record->n_pages);
        record->first = GUINT64_FROM_LE(record->first);
        guint64 there = record->source < a->sources->len
                            ? g_array_index(a->sources, Source, record->source).n_pages
                            : 0;
        if (record->n_pages == 0 || record->first > there ||
            record->n_pages > there - record->first)
            return stasis_corrupt(error, "%s: pages that are nowhere", file->map);
        n_pages += record->n_pages;
    }
    if (n_pages != file->size / PAGE || file->size % PAGE != 0)
        return stasis_corrupt(error, "%s: not of as many pages as %s has", file->map, file->name);
    return TRUE;
}

StasisProcAssembled *stasis_proc_assembled_open(int dir_fd, const GPtrArray *files,
                                                const StasisProcImageFile *file,
                                                const StasisKey *key, GError **error)
{
    g_autoptr(StasisProcAssembled) a = g_new0(StasisProcAssembled, 1);
    a->sources = g_array_new(FALSE, FALSE, sizeof(Source));
    a->name = file->name;
    return open_sources(a, dir_fd, files, key, error) &&
                   read_map(a, dir_fd, files, file, key, error)
               ? g_steal_pointer(&a)
               : NULL;
}

gboolean stasis_proc_assembled_read(StasisProcAssembled *a, guint8 *bytes, gsize n, GError **error)
{
    for (guint64 left = n / PAGE; left > 0;) {
        if (a->at == a->n_records)
            return stasis_corrupt(error, "%s: it has no more pages", a->name);
        const Record *record = &a->records[a->at];
        guint64 count = MIN(left, record->n_pages - a->done);
        StasisProcFileReader *file = g_array_index(a->sources, Source, record->source).file;
        if (!stasis_proc_file_read(file, (record->first + a->done) * PAGE, bytes, count * PAGE,
                                   error))
            return FALSE;
        bytes += count * PAGE;
        left -= count;
        a->done += count;
        if (a->done == record->n_pages) {
            a->at++;
            a->done = 0;
        }
    }
    return TRUE;
}

/* ---- writing ---- */

/* A file of the parent's, as it is linked here. */
typedef struct {
    char *name;
    guint64 size;
    char *sha256;
    gboolean used;
} Linked;

typedef struct {
    StasisDigest digest;
    guint32 linked; /* which file, and which page of it */
    guint64 page;
} Known;

/* Pages of an assembled file; @linked G_MAXUINT32: of our own. */
typedef struct {
    guint32 linked, n_pages;
    guint64 first;
} Run;

typedef struct {
    char *name;
    GArray *runs; /* of Run */
} Made;

struct _StasisProcPages {
    int dir_fd; /* borrowed */
    GPtrArray *linked;
    GArray *known; /* of Known, sorted */
    GPtrArray *made;
    StasisSealer *sealer;
    StasisProcFileWriter *own;
    guint64 n_own;
    guint8 page[PAGE]; /* one that is not complete yet */
    gsize n;           /* bytes of it */
};

static void linked_free(gpointer data)
{
    Linked *linked = data;
    g_free(linked->name);
    g_free(linked->sha256);
    g_free(linked);
}

static void made_free(gpointer data)
{
    Made *made = data;
    g_free(made->name);
    g_array_unref(made->runs);
    g_free(made);
}

void stasis_proc_pages_free(StasisProcPages *pages)
{
    if (pages == NULL)
        return;
    stasis_proc_file_writer_free(pages->own);
    g_ptr_array_unref(pages->linked);
    g_ptr_array_unref(pages->made);
    g_array_unref(pages->known);
    g_free(pages);
}

static gint compare_known(gconstpointer a, gconstpointer b)
{
    return memcmp(&((const Known *)a)->digest, &((const Known *)b)->digest, sizeof(StasisDigest));
}

/* Under a name that says whose it was first. */
static gboolean link_file(StasisProcPages *pages, StasisProcImageReader *parent,
                          const StasisProcImageFile *file, GError **error)
{
    Linked *linked = g_new0(Linked, 1);
    g_ptr_array_add(pages->linked, linked);
    gboolean again = is_source(file) && strcmp(file->name, STASIS_PROC_PAGES_OWN) != 0;
    linked->name = again ? g_strdup(file->name)
                         : g_strdup_printf("%s.%s%s", parent->info->id, file->name,
                                           is_source(file) ? "" : STASIS_PROC_PAGES_SUFFIX);
    linked->size = file->size;
    linked->sha256 = g_strdup(file->sha256);
    return linkat(parent->dir_fd, file->name, pages->dir_fd, linked->name, 0) == 0 ||
           stasis_set_errno(error, errno, "image %s: link %s", parent->info->id, file->name);
}

static gboolean know_page(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                          gsize n, gpointer user_data, GError **error)
{
    StasisProcPages *pages = user_data;
    for (gsize at = 0; at + PAGE <= n; at += PAGE) {
        Known known = { .linked = pages->linked->len - 1, .page = (offset + at) / PAGE };
        if (!stasis_digest_of(&known.digest, bytes + at, PAGE, NULL, 0, error))
            return FALSE;
        g_array_append_val(pages->known, known);
    }
    return TRUE;
}

StasisProcPages *stasis_proc_pages_new(StasisProcImageReader *parent, int dir_fd,
                                       StasisSealer *sealer, GError **error)
{
    g_autoptr(StasisProcPages) pages = g_new0(StasisProcPages, 1);
    pages->dir_fd = dir_fd;
    pages->linked = g_ptr_array_new_with_free_func(linked_free);
    pages->made = g_ptr_array_new_with_free_func(made_free);
    pages->known = g_array_new(FALSE, FALSE, sizeof(Known));
    pages->sealer = sealer;
    for (guint i = 0; i < parent->files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(parent->files, i);
        gboolean stored = stasis_proc_pages_is_pages(file->name) && file->map == NULL;
        if ((stored || is_source(file)) &&
            (!link_file(pages, parent, file, error) ||
             !stasis_proc_image_reader_read(parent, i, know_page, pages, error)))
            return NULL;
    }
    g_array_sort(pages->known, compare_known);
    pages->own = stasis_proc_file_create(dir_fd, STASIS_PROC_PAGES_OWN, sealer, error);
    return pages->own != NULL ? g_steal_pointer(&pages) : NULL;
}

void stasis_proc_pages_begin(StasisProcPages *pages, const char *name)
{
    Made *made = g_new0(Made, 1);
    made->name = g_strdup(name);
    made->runs = g_array_new(FALSE, FALSE, sizeof(Run));
    g_ptr_array_add(pages->made, made);
    pages->n = 0;
}

static const Known *find(const StasisProcPages *pages, const Known *key)
{
    guint low = 0, high = pages->known->len;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Known *known = &g_array_index(pages->known, Known, middle);
        int order = compare_known(known, key);
        if (order == 0)
            return known;
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    return NULL;
}

static gboolean place(StasisProcPages *pages, const guint8 *page, GError **error)
{
    Made *made = g_ptr_array_index(pages->made, pages->made->len - 1);
    Run run = { G_MAXUINT32, 1, pages->n_own };
    Known key;
    if (!stasis_digest_of(&key.digest, page, PAGE, NULL, 0, error))
        return FALSE;
    const Known *known = find(pages, &key);
    if (known != NULL) {
        Linked *linked = g_ptr_array_index(pages->linked, known->linked);
        linked->used = TRUE;
        run.linked = known->linked;
        run.first = known->page;
    } else {
        if (!stasis_proc_file_append(pages->own, page, PAGE, error))
            return FALSE;
        pages->n_own++;
    }
    Run *last = made->runs->len > 0 ? &g_array_index(made->runs, Run, made->runs->len - 1) : NULL;
    if (last != NULL && last->linked == run.linked && last->first + last->n_pages == run.first &&
        last->n_pages < G_MAXUINT32)
        last->n_pages++;
    else
        g_array_append_val(made->runs, run);
    return TRUE;
}

gboolean stasis_proc_pages_add(StasisProcPages *pages, const guint8 *bytes, gsize n, GError **error)
{
    while (n > 0) {
        gsize take = MIN(n, PAGE - pages->n);
        memcpy(pages->page + pages->n, bytes, take);
        pages->n += take;
        bytes += take;
        n -= take;
        if (pages->n == PAGE && !place(pages, pages->page, error))
            return FALSE;
        pages->n %= PAGE;
    }
    return TRUE;
}

gboolean stasis_proc_pages_end(StasisProcPages *pages, GError **error)
{
    return pages->n == 0 || stasis_corrupt(error, "pages of memory, and a piece of one");
}

/* ---- what is stored of it ---- */

static StasisProcImageFile *add_file(GPtrArray *files, const char *name)
{
    StasisProcImageFile *file = g_new0(StasisProcImageFile, 1);
    file->name = g_strdup(name);
    g_ptr_array_add(files, file);
    return file;
}

static void add_linked(GPtrArray *files, const Linked *linked)
{
    StasisProcImageFile *file = add_file(files, linked->name);
    file->size = linked->size;
    file->sha256 = g_strdup(linked->sha256);
}

static gboolean write_map(StasisProcPages *pages, const Made *made, const GArray *numbers,
                          guint own_number, GPtrArray *files, GError **error)
{
    g_autofree char *name = g_strconcat(made->name, STASIS_PROC_MAP_SUFFIX, NULL);
    g_autofree Record *records = g_new0(Record, made->runs->len + 1);
    gsize size = made->runs->len * sizeof *records;
    for (guint i = 0; i < made->runs->len; i++) {
        const Run *run = &g_array_index(made->runs, Run, i);
        guint number =
            run->linked == G_MAXUINT32 ? own_number : g_array_index(numbers, guint, run->linked);
        records[i] = (Record){ GUINT32_TO_LE(number), GUINT32_TO_LE(run->n_pages),
                               GUINT64_TO_LE(run->first) };
    }
    g_autoptr(StasisProcFileWriter) writer =
        stasis_proc_file_create(pages->dir_fd, name, pages->sealer, error);
    if (writer == NULL || !stasis_proc_file_append(writer, (const guint8 *)records, size, error) ||
        !stasis_proc_file_end(writer, add_file(files, name), NULL, error))
        return FALSE;
    for (guint i = 0; i < files->len; i++) {
        StasisProcImageFile *file = g_ptr_array_index(files, i);
        if (strcmp(file->name, made->name) == 0)
            file->map = g_strdup(name);
    }
    return TRUE;
}

/* The number that a source will have: those with names before it. */
static guint number_of(const StasisProcPages *pages, const char *name)
{
    guint number = strcmp(STASIS_PROC_PAGES_OWN, name) < 0;
    for (guint i = 0; i < pages->linked->len; i++) {
        const Linked *linked = g_ptr_array_index(pages->linked, i);
        number += linked->used && strcmp(linked->name, name) < 0;
    }
    return number;
}

gboolean stasis_proc_pages_finish(StasisProcPages *pages, GPtrArray *files, GError **error)
{
    g_autoptr(GArray) numbers = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint i = 0; i < pages->linked->len; i++) {
        const Linked *linked = g_ptr_array_index(pages->linked, i);
        guint number = number_of(pages, linked->name);
        g_array_append_val(numbers, number);
        if (linked->used)
            add_linked(files, linked);
        else if (unlinkat(pages->dir_fd, linked->name, 0) < 0)
            return stasis_set_errno(error, errno, "unlink %s", linked->name);
    }
    if (!stasis_proc_file_end(pages->own, add_file(files, STASIS_PROC_PAGES_OWN), NULL, error))
        return FALSE;
    for (guint i = 0; i < pages->made->len; i++)
        if (!write_map(pages, g_ptr_array_index(pages->made, i), numbers,
                       number_of(pages, STASIS_PROC_PAGES_OWN), files, error))
            return FALSE;
    return TRUE;
}
