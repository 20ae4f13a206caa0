/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no domain XML that comes with an image crashes us, and what is made of it can be read
 * again. (That prepare is done once is for definitions that libvirt takes, and tested with those:
 * with elements that come twice it may find more to do.) */
#include <stdint.h>
#include <string.h>

#include "vmm/domain-xml.h"
#include "vmm/libxml-load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static StasisDomainDoc *again(StasisDomainDoc *doc)
{
    g_autofree char *text = stasis_domain_xml_to_text(doc);
    return stasis_domain_xml_parse(text, strlen(text), NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(StasisDomainDoc) doc = stasis_domain_xml_parse((const char *)data, size, NULL);
    if (doc == NULL)
        return 0;
    g_autofree char *name = stasis_domain_xml_get_name(doc);
    g_autofree char *uuid = stasis_domain_xml_get_uuid(doc);
    stasis_domain_xml_set_uuid(doc, "00000000-0000-0000-0000-000000000001");

    g_autoptr(GPtrArray) disks = stasis_domain_xml_list_disks(doc, NULL);

    g_autoptr(StasisDomainDoc) copy = stasis_libxml->xmlCopyDoc(doc, 1);
    g_auto(GStrv) macs = NULL;
    if (stasis_domain_xml_make_clone(copy, "clone", FALSE, FALSE, &macs, NULL)) {
        g_autoptr(StasisDomainDoc) read = again(copy);
        g_autofree char *got = read != NULL ? stasis_domain_xml_get_name(read) : NULL;
        if (got == NULL || strcmp(got, "clone") != 0)
            __builtin_trap();
    }
    stasis_domain_xml_prepare(doc, "/shim.so", "/agent", NULL);
    g_autoptr(StasisDomainDoc) prepared = again(doc);
    if (prepared == NULL)
        __builtin_trap();
    stasis_domain_xml_unprepare(doc);
    return 0;
}
