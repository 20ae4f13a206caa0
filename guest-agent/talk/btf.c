/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The types of the running kernel (BTF: linux/btf.h, Documentation/bpf/btf.rst): which number a
 * function has, and where a member lies. Read once when counting begins, and dropped again; bounds
 * are checked all the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "talk/internal.h"

#define MAX_BYTES ((size_t)64 << 20)
#define MAX_DEPTH 8

/* Bytes of a type behind its head; SIZE_MAX: of a kind that is not known. */
static size_t tail_size(const struct btf_type *t)
{
    size_t n = BTF_INFO_VLEN(t->info);
    switch (BTF_INFO_KIND(t->info)) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
        return 4;
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_DATASEC:
    case BTF_KIND_ENUM64:
        return n * 12;
    case BTF_KIND_ENUM:
    case BTF_KIND_FUNC_PROTO:
        return n * 8;
    case BTF_KIND_PTR:
    case BTF_KIND_FWD:
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_FUNC:
    case BTF_KIND_FLOAT:
    case BTF_KIND_TYPE_TAG:
        return 0;
    default:
        return SIZE_MAX;
    }
}

/* Where each type begins; false: malformed. */
static bool index_types(StasisBtf *btf)
{
    size_t room = btf->types_size / sizeof(struct btf_type) + 2, at = 0;
    btf->at = malloc(room * sizeof *btf->at);
    while (btf->at != NULL && at < btf->types_size) {
        struct btf_type t;
        if (btf->types_size - at < sizeof t)
            return false;
        memcpy(&t, btf->types + at, sizeof t);
        size_t tail = tail_size(&t);
        if (tail > btf->types_size - at - sizeof t)
            return false;
        btf->at[++btf->n] = (uint32_t)at;
        at += sizeof t + tail;
    }
    return btf->at != NULL;
}

bool stasis_btf_parse(StasisBtf *ret, unsigned char *bytes, size_t size)
{
    struct btf_header h;
    *ret = (StasisBtf){ .bytes = bytes };
    if (size < sizeof h || size > MAX_BYTES)
        return false;
    memcpy(&h, bytes, sizeof h);
    size_t from = h.hdr_len;
    if (h.magic != BTF_MAGIC || from < sizeof h || from > size || h.type_off > size - from ||
        h.type_len > size - from - h.type_off || h.str_off > size - from || h.str_len == 0 ||
        h.str_len > size - from - h.str_off || bytes[from + h.str_off + h.str_len - 1] != '\0')
        return false;
    ret->types = bytes + from + h.type_off;
    ret->types_size = h.type_len;
    ret->strings = bytes + from + h.str_off;
    ret->strings_size = h.str_len;
    return index_types(ret);
}

int stasis_btf_open(StasisBtf *ret, const char *path)
{
    struct stat st;
    *ret = (StasisBtf){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    size_t size = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size : 0, n = 0;
    unsigned char *bytes = size > 0 && size <= MAX_BYTES ? malloc(size) : NULL;
    for (ssize_t got = 1; bytes != NULL && n < size && got > 0; n += got > 0 ? (size_t)got : 0)
        got = read(fd, bytes + n, size - n);
    close(fd);
    if (bytes == NULL)
        return ENOMEM;
    return stasis_btf_parse(ret, bytes, n) ? 0 : EBADMSG;
}

void stasis_btf_close(StasisBtf *btf)
{
    free(btf->at);
    free(btf->bytes);
    *btf = (StasisBtf){ 0 };
}

static bool get(const StasisBtf *btf, uint32_t number, struct btf_type *ret)
{
    if (number == 0 || number > btf->n)
        return false;
    memcpy(ret, btf->types + btf->at[number], sizeof *ret);
    return true;
}

static const char *name_at(const StasisBtf *btf, uint32_t offset)
{
    return offset < btf->strings_size ? (const char *)btf->strings + offset : "";
}

static uint32_t find(const StasisBtf *btf, unsigned kind, const char *name)
{
    struct btf_type t;
    for (uint32_t i = 1; i <= btf->n && get(btf, i, &t); i++)
        if (BTF_INFO_KIND(t.info) == kind && strcmp(name_at(btf, t.name_off), name) == 0)
            return i;
    return 0;
}

uint32_t stasis_btf_function(const StasisBtf *btf, const char *name, unsigned *ret_n_args)
{
    struct btf_type function, prototype;
    uint32_t number = find(btf, BTF_KIND_FUNC, name);
    if (number == 0 || !get(btf, number, &function) || !get(btf, function.type, &prototype) ||
        BTF_INFO_KIND(prototype.info) != BTF_KIND_FUNC_PROTO)
        return 0;
    *ret_n_args = BTF_INFO_VLEN(prototype.info);
    return number;
}

static int member_of(const StasisBtf *btf, uint32_t number, const char *member, int depth)
{
    struct btf_type t;
    if (depth == MAX_DEPTH || !get(btf, number, &t) ||
        (BTF_INFO_KIND(t.info) != BTF_KIND_STRUCT && BTF_INFO_KIND(t.info) != BTF_KIND_UNION))
        return -1;
    const unsigned char *at = btf->types + btf->at[number] + sizeof t;
    for (unsigned i = 0; i < BTF_INFO_VLEN(t.info); i++, at += sizeof(struct btf_member)) {
        struct btf_member m;
        memcpy(&m, at, sizeof m);
        uint32_t bit = BTF_INFO_KFLAG(t.info) ? BTF_MEMBER_BIT_OFFSET(m.offset) : m.offset;
        const char *name = name_at(btf, m.name_off);
        if (strcmp(name, member) == 0)
            return (int)(bit / 8);
        int within = name[0] == '\0' ? member_of(btf, m.type, member, depth + 1) : -1;
        if (within >= 0)
            return (int)(bit / 8) + within;
    }
    return -1;
}

int stasis_btf_member(const StasisBtf *btf, const char *structure, const char *member)
{
    /* Some names mean a structure of a driver's, too: the one that has such a member is meant. */
    struct btf_type t;
    for (uint32_t i = 1; i <= btf->n && get(btf, i, &t); i++) {
        if (BTF_INFO_KIND(t.info) != BTF_KIND_STRUCT ||
            strcmp(name_at(btf, t.name_off), structure) != 0)
            continue;
        int offset = member_of(btf, i, member, 0);
        if (offset >= 0)
            return offset;
    }
    return -1;
}
