/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libstasis: point-in-time images of running QEMU virtual machines.
 *
 * The whole public API. All strings are UTF-8, all sizes bytes, all times microseconds unless a
 * name says otherwise. Objects may be used from one thread at a time; different objects are
 * independent. No function prints, logs or exits.
 *
 * Structs named *Options are filled by the caller: start from the matching *_INIT, which records
 * the struct's size, so that fields can be added at the end. Structs named *Info are made by the
 * library only and freed with their _free function.
 */
#pragma once

#include <stasis/agent.h>
#include <stasis/agent-install.h>
#include <stasis/bundle.h>
#include <stasis/checkpoint.h>
#include <stasis/ci.h>
#include <stasis/clone.h>
#include <stasis/daemon.h>
#include <stasis/device.h>
#include <stasis/disk.h>
#include <stasis/doctor.h>
#include <stasis/error.h>
#include <stasis/export.h>
#include <stasis/files.h>
#include <stasis/guard.h>
#include <stasis/import.h>
#include <stasis/maintenance.h>
#include <stasis/policy.h>
#include <stasis/prepare.h>
#include <stasis/process.h>
#include <stasis/process-image.h>
#include <stasis/process-watch.h>
#include <stasis/replay.h>
#include <stasis/restore.h>
#include <stasis/rollback.h>
#include <stasis/seal.h>
#include <stasis/serve.h>
#include <stasis/store.h>
#include <stasis/suspend.h>
#include <stasis/transaction.h>
#include <stasis/version.h>
#include <stasis/vm.h>
#include <stasis/watch.h>
#include <stasis/web.h>
