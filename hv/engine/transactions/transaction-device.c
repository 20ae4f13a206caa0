/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/transactions/transaction-device.h"

#include <stasis/device.h>
#include <stasis/error.h>
#include <string.h>

#include "engine/guest/quiesce.h"
#include "store/image.h"
#include "vmm/pci.h"

#define HOLD_MS 60000u

struct _StasisTransactionDevice {
    StasisVm *vm;
    StasisStore *store;
    GPtrArray *devices; /* one StasisPciDevice */
    char **sections;    /* of it; none: QEMU has no state of it */
    char *image;        /* that has them, or NULL */
    char *driver;       /* the guest's */
};

void stasis_transaction_device_free(StasisTransactionDevice *device)
{
    if (device == NULL)
        return;
    g_clear_pointer(&device->vm, stasis_vm_unref);
    g_clear_pointer(&device->store, stasis_store_unref);
    g_clear_pointer(&device->devices, g_ptr_array_unref);
    g_strfreev(device->sections);
    g_free(device->image);
    g_free(device->driver);
    g_free(device);
}

/* The agent, and the device if it was not looked for yet. The VM is not held afterwards. */
static StasisQuiesce *converse(StasisTransactionDevice *device, const char *name,
                               GCancellable *cancellable, GError **error)
{
    const char *const names[] = { name, NULL };
    g_autoptr(StasisSession) session =
        stasis_session_open(stasis_vm_get_name(device->vm), STASIS_LOCK_WAIT_MS, error);
    if (session == NULL)
        return NULL;
    if (device->devices == NULL)
        device->devices = stasis_pci_find(session->qmp, names, error);
    if (device->devices == NULL)
        return NULL;
    return stasis_quiesce_open(session, STASIS_QUIESCE_DEVICES, cancellable, error);
}

static gboolean read_driver(StasisTransactionDevice *device, const StasisQuiesce *quiesce,
                            GError **error)
{
    g_auto(GStrv) words = g_strsplit(stasis_quiesce_get_suspended(quiesce)[0], " ", 4);
    if (g_strv_length(words) == 4 && strcmp(words[2], "-") != 0) {
        device->driver = g_strdup(words[2]);
        return TRUE;
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "it has no driver in the guest");
    return FALSE;
}

static gboolean save(StasisTransactionDevice *device, GCancellable *cancellable, GError **error)
{
    const char *prefix = ((const StasisPciDevice *)device->devices->pdata[0])->section_prefix;
    StasisDeviceCheckpointOptions options = STASIS_DEVICE_CHECKPOINT_OPTIONS_INIT;
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_autoptr(GPtrArray) all = stasis_vm_get_devices(device->vm, NULL, cancellable, error);
    if (all == NULL)
        return FALSE;
    for (guint i = 0; i < all->len; i++) {
        const StasisDeviceInfo *info = all->pdata[i];
        if (g_str_has_prefix(info->name, prefix))
            g_strv_builder_add(builder, info->name);
    }
    device->sections = g_strv_builder_end(builder);
    if (device->sections[0] == NULL)
        return TRUE;
    options.note = "a device before a transaction";
    g_autoptr(StasisImageInfo) info =
        stasis_device_checkpoint(device->vm, device->store, (const char *const *)device->sections,
                                 &options, cancellable, error);
    device->image = info != NULL ? g_strdup(info->id) : NULL;
    return info != NULL;
}

StasisTransactionDevice *stasis_transaction_device_take(StasisVm *vm, StasisStore *store,
                                                        const char *name, GCancellable *cancellable,
                                                        GError **error)
{
    g_autoptr(StasisTransactionDevice) device = g_new0(StasisTransactionDevice, 1);
    device->vm = stasis_vm_new(stasis_vm_get_name(vm));
    device->store = stasis_store_ref(store);
    g_autoptr(StasisQuiesce) quiesce = converse(device, name, cancellable, error);
    if (quiesce != NULL &&
        stasis_quiesce_suspend(quiesce, device->devices, NULL, HOLD_MS, cancellable, error) &&
        read_driver(device, quiesce, error) && save(device, cancellable, error) &&
        stasis_quiesce_wake(quiesce, error))
        return g_steal_pointer(&device);
    g_prefix_error(error, "device %s (--device): ", name);
    return NULL;
}

gboolean stasis_transaction_device_has_state(const StasisTransactionDevice *device)
{
    return device->image != NULL;
}

gboolean stasis_transaction_device_put_back(StasisTransactionDevice *device, GError **error)
{
    StasisDeviceRestoreOptions options = STASIS_DEVICE_RESTORE_OPTIONS_INIT;
    options.force = TRUE; /* its driver has let go of it */
    g_autoptr(StasisQuiesce) quiesce = converse(device, NULL, NULL, error);
    if (quiesce == NULL ||
        !stasis_quiesce_suspend(quiesce, device->devices, device->driver, HOLD_MS, NULL, error))
        return FALSE;
    for (char **section = device->sections; *section != NULL; section++) {
        g_autoptr(StasisDeviceRestoreInfo) info = stasis_device_restore(
            device->vm, device->store, *section, device->image, &options, NULL, error);
        if (info == NULL)
            return FALSE;
    }
    return stasis_quiesce_wake(quiesce, error);
}
