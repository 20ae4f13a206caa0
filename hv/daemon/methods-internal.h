/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A call of one of the manager's methods: methods.c carries it out, methods-about.c tells what it
 * is about. */
#pragma once

#include "daemon/bus-internal.h"

G_BEGIN_DECLS

typedef struct {
    StasisdBus *bus;
    StasisdPeer *peer;
    GVariant *in;
    GDBusMethodInvocation *invocation;
} StasisdCall;

/* Arguments of CheckpointDomain and its like: the third is where the domain is; the others have
 * none. */
#define STASISD_CONNECT_AT 2u

/* Of a domain, where it is. Free with g_free(); NULL: of none. */
char *stasisd_call_connect(const StasisdCall *call);
/* The settings that it brings. */
StasisPolicy *stasisd_call_settings(const StasisdCall *call, GError **error);

/* What polkit's rules are told. */
typedef struct {
    char *vm, *image, *connect; /* or NULL */
} StasisdAbout;
void stasisd_about_clear(StasisdAbout *about);

/* A method's column in the table; an image is settled in the call: what was looked at is what is
 * used. */
typedef void (*StasisdAboutFunc)(StasisdCall *call, StasisdAbout *about);
void stasisd_about_vm(StasisdCall *call, StasisdAbout *about);
void stasisd_about_policy(StasisdCall *call, StasisdAbout *about);
void stasisd_about_settings(StasisdCall *call, StasisdAbout *about);
void stasisd_about_job(StasisdCall *call, StasisdAbout *about);
void stasisd_about_image(StasisdCall *call, StasisdAbout *about);
/* A VM, and an image for it. */
void stasisd_about_both(StasisdCall *call, StasisdAbout *about);
/* The same of all methods: of a domain, where it is. */
void stasisd_about_domain(const StasisdCall *call, StasisdAbout *about);
/* "a{ss}", floating. */
GVariant *stasisd_about_details(const StasisdAbout *about);

/* Another column: is what it is about the caller's own? */
typedef gboolean (*StasisdOwnFunc)(const StasisdCall *call);
gboolean stasisd_own_policy(const StasisdCall *call);
gboolean stasisd_own_job(const StasisdCall *call);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisdAbout, stasisd_about_clear)

G_END_DECLS
