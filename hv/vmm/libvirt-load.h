/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's functions, looked up when the first domain is asked for. libvirt brings 50 libraries
 * along, and starting a program that is linked with it takes 20 ms longer (checkpoints of VMs
 * without libvirt, pagers, clones); and where it is not installed, nothing else is missing.
 */
#pragma once

#include <glib.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

G_BEGIN_DECLS

/* Of libvirt.so.0, and of libvirt-qemu.so.0. */
#define STASIS_VIRT_FUNCTIONS(X)         \
    X(virConnectClose)                   \
    X(virConnectDomainXMLToNative)       \
    X(virConnectIsAlive)                 \
    X(virConnectListAllDomains)          \
    X(virConnectOpen)                    \
    X(virConnectRef)                     \
    X(virConnectRegisterCloseCallback)   \
    X(virConnectSetKeepAlive)            \
    X(virConnectUnregisterCloseCallback) \
    X(virDomainBlockCommit)              \
    X(virDomainBlockJobAbort)            \
    X(virDomainCreateXML)                \
    X(virDomainDefineXML)                \
    X(virDomainDestroy)                  \
    X(virDomainFree)                     \
    X(virDomainGetBlockJobInfo)          \
    X(virDomainGetID)                    \
    X(virDomainGetInfo)                  \
    X(virDomainGetName)                  \
    X(virDomainGetState)                 \
    X(virDomainGetUUIDString)            \
    X(virDomainGetXMLDesc)               \
    X(virDomainIsActive)                 \
    X(virDomainIsPersistent)             \
    X(virDomainLookupByName)             \
    X(virDomainLookupByUUIDString)       \
    X(virDomainRef)                      \
    X(virDomainResume)                   \
    X(virDomainSnapshotCreateXML)        \
    X(virDomainSnapshotFree)             \
    X(virDomainSuspend)                  \
    X(virEventRegisterDefaultImpl)       \
    X(virEventRunDefaultImpl)            \
    X(virGetLastError)                   \
    X(virGetLastErrorMessage)            \
    X(virInitialize)                     \
    X(virResetLastError)                 \
    X(virSetErrorFunc)
#define STASIS_VIRT_QEMU_FUNCTIONS(X)             \
    X(virConnectDomainQemuMonitorEventDeregister) \
    X(virConnectDomainQemuMonitorEventRegister)   \
    X(virDomainQemuMonitorCommand)                \
    X(virDomainQemuMonitorCommandWithFiles)

typedef struct {
#define STASIS_VIRT_MEMBER(name) __typeof__(name) *name;
    STASIS_VIRT_FUNCTIONS(STASIS_VIRT_MEMBER)
    STASIS_VIRT_QEMU_FUNCTIONS(STASIS_VIRT_MEMBER)
#undef STASIS_VIRT_MEMBER
} StasisVirt;

/* NULL before stasis_virt_load() went well. */
extern const StasisVirt *stasis_virt;

/* STASIS_ERROR_UNSUPPORTED when there is no libvirt, or too old a one. For one thread at a time. */
gboolean stasis_virt_load(GError **error);

G_END_DECLS
