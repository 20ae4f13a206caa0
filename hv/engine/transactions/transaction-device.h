/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A transaction of one device. What a driver touches can't be told from outside: its memory lies
 * among that of all others. But the driver itself can give it back, by letting go of the device,
 * and begin anew. So before the command the device's state is saved at rest (suspended by the
 * guest); after a failure its driver is unbound, the device gets that state, and the driver is
 * bound again. The rest of the VM stays as it is. What that can't take back, the whole VM is taken
 * back for.
 */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct _StasisTransactionDevice StasisTransactionDevice;

/* Save device @name (QEMU's id or QOM path) of the running @vm into @store. Its driver in the guest
 * is suspended for a moment. */
StasisTransactionDevice *stasis_transaction_device_take(StasisVm *vm, StasisStore *store,
                                                        const char *name, GCancellable *cancellable,
                                                        GError **error);
void stasis_transaction_device_free(StasisTransactionDevice *device);

/* Does QEMU know anything of it? If not it is to be suspended for the VM's image as well. */
gboolean stasis_transaction_device_has_state(const StasisTransactionDevice *device);

/* Put it back. On failure its driver may be unbound from it, and the VM is to be taken back. */
gboolean stasis_transaction_device_put_back(StasisTransactionDevice *device, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTransactionDevice, stasis_transaction_device_free)

G_END_DECLS
