/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stasis-resume is given instead of an image's ID. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#define IMAGE_ID_SIZE 48 /* with its end, as in a message to the agent */

/* Write the image's @id to the file @path, in one step, in place of what is there; false with
 * errno. */
bool image_file_write(const char *path, const char *id);
/* The ID in the file @path; false with errno, EBADMSG when there is none in it. */
bool image_file_read(const char *path, char ret_id[IMAGE_ID_SIZE]);

/* Have CRIU restore what `stasis proc-export --format criu` made, in the directory @dir: the first
 * process of the session; -1, said. Needs no host. */
pid_t exported_restore(const char *dir);
