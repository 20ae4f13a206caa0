/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/watch-images.h"

#include <string.h>

typedef struct {
    guint pid;
    guint64 start;
    gboolean ended;
} Member;

typedef struct {
    char *id;
    GArray *members; /* Member */
    gboolean changed, spare;
} Image;

struct _StasisWatchImages {
    GPtrArray *all; /* Image, oldest first */
};

static void image_free(gpointer data)
{
    Image *image = data;
    g_free(image->id);
    g_array_unref(image->members);
    g_free(image);
}

StasisWatchImages *stasis_watch_images_new(void)
{
    StasisWatchImages *images = g_new0(StasisWatchImages, 1);
    images->all = g_ptr_array_new_with_free_func(image_free);
    return images;
}

void stasis_watch_images_free(StasisWatchImages *images)
{
    if (images == NULL)
        return;
    g_ptr_array_unref(images->all);
    g_free(images);
}

void stasis_watch_images_add(StasisWatchImages *images, const StasisProcessImageInfo *info)
{
    Image *image = g_new0(Image, 1);
    image->id = g_strdup(info->id);
    image->members = g_array_new(FALSE, FALSE, sizeof(Member));
    /* The parent of several trees was made for CRIU alone. */
    for (guint i = info->n_trees > 1; i < info->processes->len; i++) {
        const StasisImageProcess *p = g_ptr_array_index(info->processes, i);
        Member member = { p->pid, p->start, FALSE };
        g_array_append_val(image->members, member);
    }
    g_ptr_array_add(images->all, image);
}

static Member *find(const Image *image, guint pid, guint64 start)
{
    for (guint i = 0; i < image->members->len; i++) {
        Member *member = &g_array_index(image->members, Member, i);
        if (member->pid == pid && member->start == start)
            return member;
    }
    return NULL;
}

void stasis_watch_images_ended(StasisWatchImages *images, guint pid, guint64 start)
{
    for (guint i = 0; i < images->all->len; i++) {
        Member *member = find(g_ptr_array_index(images->all, i), pid, start);
        if (member != NULL)
            member->ended = TRUE;
    }
}

void stasis_watch_images_changed(StasisWatchImages *images, guint pid, guint64 start)
{
    for (guint i = 0; i < images->all->len; i++) {
        Image *image = g_ptr_array_index(images->all, i);
        image->changed |= find(image, pid, start) != NULL;
    }
}

static gboolean all_ended(const Image *image)
{
    for (guint i = 0; i < image->members->len; i++)
        if (!g_array_index(image->members, Member, i).ended)
            return FALSE;
    return image->members->len > 0;
}

void stasis_watch_images_spare(StasisWatchImages *images, const char *id)
{
    for (guint i = 0; i < images->all->len; i++) {
        Image *image = g_ptr_array_index(images->all, i);
        image->spare |= strcmp(image->id, id) == 0;
    }
}

char *stasis_watch_images_take(StasisWatchImages *images, guint reasons, guint keep)
{
    for (guint i = 0; i < images->all->len; i++) {
        const Image *image = g_ptr_array_index(images->all, i);
        gboolean last = i == images->all->len - 1;
        if (((reasons & STASIS_WATCH_ENDED) != 0 && all_ended(image)) ||
            ((reasons & STASIS_WATCH_CHANGED) != 0 && image->changed && !last) || image->spare ||
            (keep != 0 && images->all->len > keep)) {
            char *id = g_strdup(image->id);
            g_ptr_array_remove_index(images->all, i);
            return id;
        }
    }
    return NULL;
}

char **stasis_watch_images_list(const StasisWatchImages *images)
{
    char **ids = g_new0(char *, images->all->len + 1);
    for (guint i = 0; i < images->all->len; i++)
        ids[i] = g_strdup(((const Image *)g_ptr_array_index(images->all, i))->id);
    return ids;
}
