# SPDX-License-Identifier: LGPL-2.1-or-later
# The one build file. `make help` lists the targets.
#
#   SAN=1        build with AddressSanitizer and UBSan, into build-san/
#   B=DIR        build directory (default build, or build-san)
#   DESTDIR=     staging root of install;  prefix=/usr/local
#   WERROR=      warnings are no errors;  RPATH=  for a libdir that is searched anyway

ifeq ($(SAN),1)
B ?= build-san
SANFLAGS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else
B ?= build
endif

prefix     ?= /usr/local
bindir     ?= $(prefix)/bin
libdir     ?= $(prefix)/lib
includedir ?= $(prefix)/include
mandir     ?= $(prefix)/share/man
bashcompdir ?= $(prefix)/share/bash-completion/completions
libexecdir ?= $(prefix)/libexec/stasis
datadir    ?= $(prefix)/share
unitdir    ?= $(prefix)/lib/systemd/system
# polkit and the bus look below /usr/share only; where stasis is a user's own they have no use for it.
systemdata  = $(if $(filter /usr /usr/local,$(prefix)),/usr/share,$(datadir))
polkitdir  ?= $(systemdata)/polkit-1/actions
dbusdir    ?= $(systemdata)/dbus-1

JOBS    := $(shell nproc)
VERSION := $(shell sed -n 's/.*STASIS_VERSION "\(.*\)"/\1/p' include/stasis/version.h)
SOVER   := 0

SHELL   := bash
.SHELLFLAGS := -eu -o pipefail -c
CC      ?= gcc
PKGS    := gio-unix-2.0 json-glib-1.0 liblz4 libzstd libxxhash libcrypto
# Only their headers: the library looks these up when they are needed (hv/base/load.h).
HEADER_PKGS := libvirt libvirt-qemu libnbd libxml-2.0
CLI_PKGS := libedit
CFLAGS  ?= -O2 -g
WERROR  ?= -Werror
RPATH   ?= -Wl,-rpath,$(libdir)
WARN    := -Wall -Wextra $(WERROR) -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes \
           -Wno-unused-parameter -Wno-missing-field-initializers
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Iinclude -Ihv -fPIC -fvisibility=hidden $(WARN) \
             -DSTASIS_LIBEXECDIR='"$(libexecdir)"' -MMD -MP $(SANFLAGS) $(PKG_CFLAGS) $(CFLAGS)
# V=1 shows the commands.
Q := $(if $(V),,@)
say = @printf '  %-5s %s\n'
ALL_LIBS = $(SANFLAGS) $(PKG_LIBS) -pthread

# Only asked for once the packages can be there: `make deps` must work on a machine without them.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) $(HEADER_PKGS)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)
CLI_LIBS   = $(eval CLI_LIBS := $(shell pkg-config --libs $(CLI_PKGS)))$(CLI_LIBS)

LIB_SRC := $(sort $(wildcard hv/base/*.c hv/agent/*.c hv/vmm/*.c hv/track/*.c hv/copy/*.c hv/device/*.c \
                             hv/disk/*.c hv/store/*.c hv/engine/*/*.c))
# Preloaded into QEMU: nothing of the library is in it.
SHIM_SRC := $(sort $(wildcard hv/shim/*.c))
CLI_SRC := $(sort $(wildcard hv/cli/*.c))
# The program in the guest, and what it shares with the library: plain C, linked statically.
AGENT_SRC := $(sort $(wildcard guest-agent/*.c guest-agent/scan/*.c guest-agent/talk/*.c guest-agent/watch/*.c) hv/agent/frame.c hv/agent/field.c hv/agent/tar.c hv/agent/mqueue.c hv/agent/halves.c \
                    $(filter-out %/stasis-boundary.c,$(wildcard guest-agent/graph/*.c)))
UNIT_SRC := $(sort $(wildcard tests/unit/*.c))
# Runs in a guest; built as the agent is.
HOSTILE_SRC := tests/lib/hostile-agent.c tests/lib/hostile-lies.c
# Too, and by themselves.
GUEST_SRC := tests/lib/proc-tree.c tests/lib/proc-clocks.c tests/lib/talkers.c tests/lib/queue-ring.c tests/lib/racy.c \
             tests/lib/pty-drive.c tests/lib/eventful.c
CASES_SRC := $(sort $(wildcard tests/lib/criu-cases/*.c))
# Too, with the library for programs of a guest.
COOP_SRC := tests/lib/coop.c
# Preloaded into QEMU.
SLOW_SRC := tests/lib/slow-sync.c
TOOL_SRC := $(filter-out $(HOSTILE_SRC) $(GUEST_SRC) $(COOP_SRC) $(SLOW_SRC),$(sort $(wildcard tests/lib/*.c)))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/*.c))

LIB_OBJ  := $(LIB_SRC:%.c=$(B)/%.o)
CLI_OBJ  := $(CLI_SRC:%.c=$(B)/%.o)
PAGER_OBJ := $(B)/hv/pager/main.o
DOMAIN_OBJ := $(B)/hv/domain/main.o
SWEEP_OBJ := $(B)/hv/sweep/main.o
DAEMON_SRC := $(sort $(wildcard hv/daemon/*.c))
DAEMON_OBJ := $(DAEMON_SRC:%.c=$(B)/%.o)
# Looks into disks with libguestfs; left out where that is not installed.
FILES_SRC := $(sort $(wildcard hv/files/*.c))
FILES_OBJ := $(FILES_SRC:%.c=$(B)/%.o)
FILES_PKGS := libguestfs json-glib-1.0
FILES_BIN = $(eval FILES_BIN := $(if $(shell pkg-config --exists libguestfs && echo y),$(B)/stasis-files))$(FILES_BIN)
# A page to look at, by libsoup; left out where that is not installed.
WEB_SRC := $(sort $(wildcard hv/web/*.c))
WEB_OBJ := $(WEB_SRC:%.c=$(B)/%.o) $(B)/hv/web/resources.o
# What of it needs no store and no libsoup: tests and fuzz targets have it.
WEB_PARTS := $(foreach part,address graph metrics request,$(B)/hv/web/$(part).o)
WEB_PAGE := $(wildcard hv/web/page/*)
WEB_PKGS := libsoup-3.0
WEB_BIN = $(eval WEB_BIN := $(if $(shell pkg-config --exists libsoup-3.0 && echo y),$(B)/stasis-web))$(WEB_BIN)
# What the guest's agent is made of: no GLib, nothing of the library.
BOUNDARY_SRC := $(sort $(wildcard guest-agent/scan/*.c guest-agent/talk/*.c) \
                       $(filter-out %/stasis-boundary.c,$(wildcard guest-agent/graph/*.c)))
BOUNDARY_OBJ := $(BOUNDARY_SRC:%.c=$(B)/%.o)
BOUNDARY_MAIN := $(B)/guest-agent/graph/stasis-boundary.o
WORLD_OBJ := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard tests/lib/ipc-world/*.c)))
SHIM_OBJ := $(SHIM_SRC:%.c=$(B)/%.o)
CRIU_IMAGE_OBJ := $(patsubst %,$(B)/guest-agent/criu-%.o,image timers lines)
AGENT_OBJ := $(AGENT_SRC:%.c=$(B)/guest/%.o)
SESSION_OBJ := $(patsubst %.c,$(B)/guest/%.o,$(sort $(wildcard guest-agent/session/*.c)) guest-agent/lib/talk.c)
# Linked into programs of the guest: static and shared, for the C library alone.
COOP_OBJ := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard guest-agent/lib/*.c)))
COOP_LIBS := $(B)/libstasis-guest.a $(B)/libstasis-guest.so.$(SOVER)
MQUEUE_OBJ := $(B)/guest/guest-agent/mqueue/main.o $(B)/guest/guest-agent/mqueue-make.o $(B)/guest/hv/agent/mqueue.o
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(B)/tests/unit/%)
TOOL_BIN := $(TOOL_SRC:tests/lib/%.c=$(B)/tests/lib/%)
FUZZ_BIN := $(FUZZ_SRC:tests/fuzz/%.c=$(B)/tests/fuzz/%)

.PHONY: all help deps demo check check-deep check-long check-unit check-san check-valgrind bench fuzz install \
        clean format format-check guests lib
.DEFAULT_GOAL := all

all: $(B)/stasis $(B)/stasisd $(B)/stasis-boundary $(B)/stasis-pager $(B)/stasis-domain $(B)/stasis-sweep $(B)/stasis-shim.so $(B)/stasis-agent $(B)/stasis-agent.service $(B)/stasis-session $(B)/stasis-mqueue $(B)/libstasis.so.$(SOVER) $(B)/libstasis.a $(B)/stasis.1
	@$(MAKE) --no-print-directory files
all: $(COOP_LIBS)

# Apart, since what there is to build is known only once packages are installed.
.PHONY: files
files: $(FILES_BIN) $(WEB_BIN)

help:
	@sed -n 's/^#: //p' Makefile

#: make             build the library, the command and its man page
#: make deps        install what is missing (Debian, root)
#: make demo        boot a Linux guest, checkpoint it live, kill it, bring it back
#: make check       the tests (TESTS="name …" picks some)
#: make check-deep  the rest of what each change has to pass: faults at each point, other guests and domains
#: make check-long  what takes too long for that: a Debian guest with a database, many repetitions
#: make check-san   unit tests under AddressSanitizer and UBSan
#: make check-valgrind   unit tests under valgrind
#: make fuzz        every fuzz target for FUZZ_SECONDS (default 60) each
#: make bench       the figures, beside QEMU's own ways
#: make install     into $(DESTDIR)$(prefix)
#: make deb         Debian packages: stasis, stasis-agent, libstasis-dev

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(say) CC $<
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(B)/libstasis.a: $(LIB_OBJ)
	@rm -f $@
	$(say) AR $@
	$(Q)ar rcs $@ $^

$(B)/libstasis.so.$(SOVER): $(LIB_OBJ) include/libstasis.map
	$(say) LINK $@
	$(Q)$(CC) -shared -Wl,-soname,libstasis.so.$(SOVER) -Wl,--version-script=include/libstasis.map \
	    $(LDFLAGS) $(LIB_OBJ) -o $@ $(ALL_LIBS)
	@ln -sf libstasis.so.$(SOVER) $(B)/libstasis.so

# The command uses nothing but the public headers: it is linked with the shared library, which
# exports nothing else.
$(B)/hv/cli/%.o: ALL_CFLAGS += -Ihv/cli
$(B)/stasis: $(CLI_OBJ) $(B)/libstasis.so.$(SOVER)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $(CLI_OBJ) -o $@ -L$(B) -lstasis -Wl,-rpath,'$$ORIGIN' $(ALL_LIBS) $(CLI_LIBS)

$(B)/stasis-pager: $(PAGER_OBJ) $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

$(BOUNDARY_OBJ) $(BOUNDARY_MAIN): ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Iguest-agent $(WARN) -MMD -MP \
                                              $(SANFLAGS) $(CFLAGS)
$(B)/libstasis-boundary.a: $(BOUNDARY_OBJ)
	@rm -f $@
	$(say) AR $@
	$(Q)ar rcs $@ $^

# Static: it runs in guests that have other libraries, or none.
$(B)/stasis-boundary: $(BOUNDARY_MAIN) $(B)/libstasis-boundary.a
	$(say) LINK $@
	$(Q)$(CC) $(if $(SAN),,-static) $(SANFLAGS) $(LDFLAGS) $^ -o $@

$(WORLD_OBJ): ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE $(WARN) -MMD -MP $(CFLAGS)
$(B)/tests/lib/ipc-world/ipc-world: $(WORLD_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@ -pthread -lrt

$(FILES_OBJ): ALL_CFLAGS += $(shell pkg-config --cflags libguestfs)
$(B)/stasis-files: $(FILES_OBJ)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(SANFLAGS) $(shell pkg-config --libs $(FILES_PKGS))

# The page is in the program.
$(B)/hv/web/resources.c: hv/web/page/web.gresource.xml $(WEB_PAGE)
	@mkdir -p $(@D)
	$(say) PAGE $@
	$(Q)glib-compile-resources --sourcedir=hv/web/page --generate-source --target=$@ $<
$(B)/hv/web/resources.o: $(B)/hv/web/resources.c
	$(Q)$(CC) $(filter-out $(WARN),$(ALL_CFLAGS)) -c $< -o $@
$(B)/hv/web/web.o: ALL_CFLAGS += $(shell pkg-config --cflags $(WEB_PKGS))
$(B)/stasis-web: $(WEB_OBJ) $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(ALL_LIBS) $(shell pkg-config --libs $(WEB_PKGS))

$(B)/stasis-domain: $(DOMAIN_OBJ) $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

$(B)/stasis-sweep: $(SWEEP_OBJ) $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

# What it says on the bus, as a string of C.
$(B)/org.stasis1.h: hv/daemon/org.stasis1.xml
	@mkdir -p $(@D)
	$(Q)(echo 'static const char stasisd_introspection[] ='; sed -e 's/["\\]/\\&/g' -e 's/.*/    "&\\n"/' $<; echo '    ;') >$@
$(B)/hv/daemon/bus.o: $(B)/org.stasis1.h
$(B)/hv/daemon/bus.o: ALL_CFLAGS += -I$(B)
$(B)/stasisd: $(DAEMON_OBJ) $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

# No sanitizer: it is loaded into a QEMU that has none. It exports ioctl and mmap.
$(SHIM_OBJ): ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Ihv -fPIC -fvisibility=hidden $(WARN) \
                          -MMD -MP $(CFLAGS)
$(B)/stasis-shim.so: $(SHIM_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -shared -Wl,-soname,stasis-shim.so -Wl,-z,defs $(LDFLAGS) $^ -o $@ -pthread

# No sanitizer here either, and no library but the C library: it must run in any guest.
$(B)/guest/%.o: %.c
	@mkdir -p $(@D)
	$(say) GUEST $<
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -DAGENT_VERSION='"$(VERSION)"' -Iinclude -Ihv -Iguest-agent \
	    $(WARN) -MMD -MP $(CFLAGS) -c $< -o $@
$(B)/stasis-agent: $(AGENT_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@ -lnettle -lxxhash

$(COOP_OBJ): ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Iinclude -Iguest-agent -fPIC -fvisibility=hidden $(WARN) \
                          -MMD -MP $(CFLAGS)
$(B)/libstasis-guest.a: $(COOP_OBJ)
	@rm -f $@
	$(say) AR $@
	$(Q)ar rcs $@ $^
$(B)/libstasis-guest.so.$(SOVER): $(COOP_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -shared -Wl,-soname,libstasis-guest.so.$(SOVER) -Wl,-z,defs $(LDFLAGS) $^ -o $@ -pthread
	@ln -sf libstasis-guest.so.$(SOVER) $(B)/libstasis-guest.so

$(B)/tests/lib/coop: tests/lib/coop.c $(B)/libstasis-guest.a
	@mkdir -p $(@D)
	$(say) GUEST $<
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -Iinclude $(WARN) $(CFLAGS) -static $(LDFLAGS) $^ -o $@ -pthread

$(B)/stasis-session: $(SESSION_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@

$(B)/stasis-mqueue: $(MQUEUE_OBJ)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@

# Beside the program, as when installed.
$(B)/stasis-agent.service: guest-agent/stasis-agent.service
	$(Q)cp $< $@

$(B)/stasis.1: docs/man/stasis.1.in $(B)/stasis
	@mkdir -p $(@D)
	$(say) MAN $@
	$(Q)$(B)/stasis help --man-options | sed -e '/@OPTIONS@/{r /dev/stdin' -e 'd}' \
	    -e 's/@VERSION@/$(VERSION)/' -e 's|@BASHCOMPDIR@|$(bashcompdir)|' \
	    -e 's|@LIBEXECDIR@|$(libexecdir)|' docs/man/stasis.1.in > $@.tmp
	@mv $@.tmp $@

# Unit tests and test tools see the library's inside: they are linked with the archive.
$(UNIT_BIN) $(TOOL_BIN): $(B)/%: $(B)/%.o $(B)/libstasis.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $(B)/libstasis.a -o $@ $(ALL_LIBS)

$(B)/tests/lib/hostile-agent: $(HOSTILE_SRC:%.c=$(B)/guest/%.o) $(B)/guest/hv/agent/frame.o \
                              $(B)/guest/hv/agent/field.o
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@

$(B)/tests/lib/criu-cases: $(CASES_SRC:%.c=$(B)/guest/%.o)
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) -static $(LDFLAGS) $^ -o $@ -pthread

$(SLOW_SRC:%.c=$(B)/%.so): $(SLOW_SRC)
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE $(WARN) $(CFLAGS) -fPIC -shared $(LDFLAGS) $< -o $@

# Where no other program of the guest is: gdb knows it by its addresses.
$(B)/tests/lib/racy: LDFLAGS += -Wl,-Ttext-segment=0x30000000
$(GUEST_SRC:%.c=$(B)/%): $(B)/%: %.c
	@mkdir -p $(@D)
	$(say) GUEST $<
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE $(WARN) $(CFLAGS) -static $(LDFLAGS) $< -o $@ -pthread

# The shim's own functions, with a KVM that is played by the test.
$(B)/tests/unit/test-shim-log $(B)/tests/unit/test-shim-ring: $(SHIM_OBJ)

# The command's own functions, and its table as the program has it.
UNIT_CLI := $(filter $(B)/tests/unit/test-cli-%,$(UNIT_BIN))
$(UNIT_CLI): $(filter-out %/main.o,$(CLI_OBJ))
$(UNIT_CLI): ALL_LIBS += $(CLI_LIBS)

# The daemon's.
UNIT_DAEMON := $(filter $(B)/tests/unit/test-daemon-%,$(UNIT_BIN))
$(UNIT_DAEMON): $(filter-out %/main.o %/bus.o %/objects.o %/methods.o %/images.o,$(DAEMON_OBJ))

# The page's, but the server.
UNIT_WEB := $(filter $(B)/tests/unit/test-web-%,$(UNIT_BIN))
$(UNIT_WEB): $(WEB_PARTS)

# What the agent is made of, as objects: its own functions are tested, too.
UNIT_SCAN := $(filter $(B)/tests/unit/test-scan-%,$(UNIT_BIN))
$(UNIT_SCAN:%=%.o): ALL_CFLAGS += -Iguest-agent
$(UNIT_SCAN): $(BOUNDARY_OBJ)

UNIT_CRIU := $(filter $(B)/tests/unit/test-criu-%,$(UNIT_BIN))
$(UNIT_CRIU:%=%.o) $(CRIU_IMAGE_OBJ): ALL_CFLAGS += -Iguest-agent
$(UNIT_CRIU): $(CRIU_IMAGE_OBJ)

# The state of programs that have a say, without the agent's loop; with a clock of the test's.
COOP_AGENT_OBJ := $(patsubst %,$(B)/guest-agent/%.o,coop coop-turn op-wish answer)
UNIT_COOP := $(filter $(B)/tests/unit/test-agent-coop%,$(UNIT_BIN))
$(UNIT_COOP:%=%.o) $(COOP_AGENT_OBJ): ALL_CFLAGS += -Iguest-agent
$(UNIT_COOP): $(COOP_AGENT_OBJ)
# Their library; the test lets it wait where it wants to.
$(B)/tests/unit/test-agent-coop-lib: $(COOP_OBJ)
$(B)/tests/unit/test-agent-coop-lib: LDFLAGS += -Wl,--wrap=connect -Wl,--wrap=send -Wl,--wrap=recv -Wl,--wrap=clock_gettime \
                                                -Wl,--wrap=pthread_mutexattr_setprotocol

# What must be undone whatever happens.
KEEPER_OBJ := $(patsubst %,$(B)/guest-agent/%.o,keeper util)
$(B)/tests/unit/test-agent-keeper.o $(KEEPER_OBJ): ALL_CFLAGS += -Iguest-agent
$(B)/tests/unit/test-agent-keeper: $(KEEPER_OBJ)

# What a watch keeps, without the kernel that tells it.
WATCH_OBJ := $(patsubst %,$(B)/guest-agent/%.o,watch/table answer)
UNIT_WATCH := $(filter $(B)/tests/unit/test-agent-watch%,$(UNIT_BIN))
$(UNIT_WATCH:%=%.o) $(B)/guest-agent/watch/table.o: ALL_CFLAGS += -Iguest-agent
$(UNIT_WATCH): $(WATCH_OBJ)

# A session's terminal; the test sees what sizes it is given.
UNIT_SESSION := $(filter $(B)/tests/unit/test-session-%,$(UNIT_BIN))
$(UNIT_SESSION:%=%.o) $(B)/guest-agent/session/terminal.o: ALL_CFLAGS += -Iguest-agent
$(UNIT_SESSION): $(B)/guest-agent/session/terminal.o
$(UNIT_SESSION): LDFLAGS += -Wl,--wrap=ioctl

# It reads all RAM right before the library lets the VM go on.
$(B)/tests/lib/reference-check: LDFLAGS += -Wl,--wrap=stasis_stopper_resume

# Fuzz targets: libFuzzer. What reads untrusted input is compiled for them once more, with what they need
# to see; the rest of the library, of which they call little, is as it is.
FUZZ_SECONDS ?= 60
FUZZ_CFLAGS = -std=gnu17 -D_GNU_SOURCE -Iinclude -Ihv -gline-tables-only -O1 $(PKG_CFLAGS) -MMD -MP \
              -DSTASIS_LIBEXECDIR='"$(libexecdir)"' \
              -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
FUZZ_ENGINE := ci/ci-test guards/bundle guards/bundle-json guest/process guest/process-read policies/policy processes/proc-fetch processes/proc-receive processes/watch-read
FUZZ_OBJ := $(patsubst %.c,$(B)/fuzz/%.o,$(filter-out hv/copy/% hv/track/% hv/engine/%,$(LIB_SRC)) \
                                         $(FUZZ_ENGINE:%=hv/engine/%.c))

$(B)/fuzz/%.o: %.c
	@mkdir -p $(@D)
	$(say) FUZZ $<
	$(Q)clang $(FUZZ_CFLAGS) -c $< -o $@

$(B)/fuzz/libstasis.a: $(FUZZ_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# Those of the agent's parts have nothing of the library's.
FUZZ_SCAN := $(filter $(B)/tests/fuzz/fuzz-scan-%,$(FUZZ_BIN))
FUZZ_CRIU := $(filter $(B)/tests/fuzz/fuzz-criu-%,$(FUZZ_BIN))
FUZZ_COOP := $(B)/tests/fuzz/fuzz-agent-coop
$(B)/fuzz/guest-agent/%.o $(B)/fuzz/tests/fuzz/fuzz-scan-proc.o $(FUZZ_COOP:$(B)/%=$(B)/fuzz/%.o) $(FUZZ_CRIU:$(B)/%=$(B)/fuzz/%.o): FUZZ_CFLAGS += -Iguest-agent
$(FUZZ_SCAN): $(BOUNDARY_SRC:%.c=$(B)/fuzz/%.o)
$(FUZZ_CRIU): $(CRIU_IMAGE_OBJ:$(B)/%=$(B)/fuzz/%)
$(FUZZ_COOP): $(COOP_AGENT_OBJ:$(B)/%=$(B)/fuzz/%)

FUZZ_WEB := $(filter $(B)/tests/fuzz/fuzz-web-%,$(FUZZ_BIN))
$(FUZZ_WEB): $(WEB_PARTS:$(B)/%=$(B)/fuzz/%)

$(FUZZ_BIN): $(B)/tests/fuzz/%: $(B)/fuzz/tests/fuzz/%.o $(B)/fuzz/libstasis.a $(B)/libstasis.a
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)clang -fsanitize=fuzzer,address,undefined $(filter %.o,$^) $(filter %.a,$^) -o $@ $(PKG_LIBS) -pthread

fuzz: $(FUZZ_BIN)
	@set -e; for f in $(FUZZ_BIN); do mkdir -p $$f.corpus; \
	    $$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 \
	        $$f.corpus $$(d=tests/fuzz/$$(basename $$f).seeds; [ ! -d $$d ] || echo $$d); done

deps:
	@tests/deps.sh

guests:
	@images/build.sh

demo:
	@tests/deps.sh build run guests
	@$(MAKE) --no-print-directory -j$(JOBS) all guests
	@tests/demo.sh $(B)

TESTS ?=
check: deps
	@$(MAKE) --no-print-directory -j$(JOBS) all guests test-binaries fuzz-binaries
	@tests/run.sh $(B) $(TESTS)

check-deep: deps
	@$(MAKE) --no-print-directory -j$(JOBS) all guests test-binaries
	@tests/run.sh $(B) deep

# Those of which make check runs a part of the combinations.
FULL_TESTS = $(basename $(notdir $(shell grep -lE '\bFULL\b|full=[^TF]|^@full_case' tests/integration/*.py tests/fault/*.py)))
check-long:
	@tests/deps.sh build run guests test deb long
	@$(MAKE) --no-print-directory -j$(JOBS) all guests test-binaries
	@images/build.sh debian
	@STASIS_TEST_FULL=1 tests/run.sh $(B) $(or $(TESTS),long $(FULL_TESTS))

test-binaries: $(B)/tests/lib/coop $(COOP_LIBS)
.PHONY: test-binaries fuzz-binaries
fuzz-binaries: $(FUZZ_BIN)
test-binaries: $(B)/stasisd $(UNIT_BIN) $(TOOL_BIN) $(B)/tests/lib/ipc-world/ipc-world $(B)/stasis-boundary $(B)/stasis-pager $(B)/stasis-domain $(B)/stasis-sweep $(B)/stasis-shim.so $(B)/stasis-agent $(B)/stasis-agent.service $(B)/stasis-session $(B)/stasis-mqueue \
               $(B)/tests/lib/hostile-agent $(B)/tests/lib/criu-cases $(GUEST_SRC:%.c=$(B)/%) $(SLOW_SRC:%.c=$(B)/%.so)

check-unit: $(UNIT_BIN)
	@tests/run.sh $(B) unit

check-san:
	@$(MAKE) --no-print-directory SAN=1 check-unit

check-valgrind: $(UNIT_BIN)
	@STASIS_TEST_WRAP="valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --suppressions=/usr/share/glib-2.0/valgrind/glib.supp" \
	    tests/run.sh $(B) unit

bench: deps
	@$(MAKE) --no-print-directory -j$(JOBS) all guests test-binaries
	@tests/bench/run.sh $(B)

install: all
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir)/stasis \
	    $(DESTDIR)$(libexecdir)/guest \
	    $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(bashcompdir)
	$(CC) $(LDFLAGS) $(CLI_OBJ) -o $(DESTDIR)$(bindir)/stasis -L$(B) -lstasis \
	    $(RPATH) $(ALL_LIBS) $(CLI_LIBS)
	install -m 755 $(B)/stasis-pager $(B)/stasis-domain $(B)/stasis-sweep $(FILES_BIN) $(WEB_BIN) $(DESTDIR)$(libexecdir)/
	install -m 644 $(B)/stasis-shim.so $(DESTDIR)$(libexecdir)/
	install -m 755 $(B)/stasis-boundary $(B)/stasisd $(DESTDIR)$(bindir)/
	install -d $(DESTDIR)$(unitdir) $(DESTDIR)$(polkitdir) $(DESTDIR)$(mandir)/man8 \
	    $(DESTDIR)$(datadir)/dbus-1/interfaces $(DESTDIR)$(dbusdir)/system.d
	install -m 644 hv/daemon/stasisd.socket $(DESTDIR)$(unitdir)/
	sed 's|@bindir@|$(bindir)|' hv/daemon/stasisd.service.in >$(DESTDIR)$(unitdir)/stasisd.service
	install -m 644 hv/daemon/org.stasis1.policy $(DESTDIR)$(polkitdir)/
	install -m 644 hv/daemon/org.stasis1.conf $(DESTDIR)$(dbusdir)/system.d/
	install -m 644 hv/daemon/org.stasis1.xml $(DESTDIR)$(datadir)/dbus-1/interfaces/
	install -m 644 docs/man/stasisd.8 docs/man/stasis-agent.8 $(DESTDIR)$(mandir)/man8/
	install -m 755 $(B)/stasis-agent $(B)/stasis-session $(B)/stasis-mqueue $(DESTDIR)$(libexecdir)/guest/
	install -m 644 guest-agent/stasis-agent.service $(DESTDIR)$(libexecdir)/guest/
	install -m 755 $(B)/libstasis.so.$(SOVER) $(DESTDIR)$(libdir)/
	ln -sf libstasis.so.$(SOVER) $(DESTDIR)$(libdir)/libstasis.so
	install -m 644 $(B)/libstasis.a $(DESTDIR)$(libdir)/
	install -m 644 include/stasis/*.h $(DESTDIR)$(includedir)/stasis/
	install -m 644 include/stasis-guest.h $(DESTDIR)$(includedir)/
	install -m 755 $(B)/libstasis-guest.so.$(SOVER) $(DESTDIR)$(libdir)/
	ln -sf libstasis-guest.so.$(SOVER) $(DESTDIR)$(libdir)/libstasis-guest.so
	install -m 644 $(B)/libstasis-guest.a $(DESTDIR)$(libdir)/
	install -m 644 $(B)/stasis.1 docs/man/stasis-boundary.1 docs/man/stasis-mqueue.1 docs/man/stasis-session.1 \
	    $(DESTDIR)$(mandir)/man1/
	ln -sf stasis-session.1 $(DESTDIR)$(mandir)/man1/stasis-resume.1
	install -d $(DESTDIR)$(mandir)/man3
	install -m 644 docs/man/stasis_freeze.3 $(DESTDIR)$(mandir)/man3/
	ln -sf stasis-session $(DESTDIR)$(libexecdir)/guest/stasis-resume
	install -m 644 completions/stasis $(DESTDIR)$(bashcompdir)/
	sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@includedir@|$(includedir)|' \
	    -e 's|@version@|$(VERSION)|' include/stasis.pc.in > $(DESTDIR)$(libdir)/pkgconfig/stasis.pc

# From a copy, as building a package begins with cleaning its tree. The changelog has the version, for
# the packages' names, and nothing else: what changed is told by the history. It is built with options of
# its own, so those of this make (B=, SAN=1) are not for it.
DEB := $(B)/deb
.PHONY: deb
deb:
	@tests/deps.sh build deb
	@rm -rf $(DEB) && mkdir -p $(DEB)/stasis-$(VERSION)
	@tar -c --exclude-vcs --exclude='./build*' . | tar -x -C $(DEB)/stasis-$(VERSION)
	@printf 'stasis (%s) unstable; urgency=medium\n\n  * See the history of the source.\n\n -- %s  %s\n' \
	    $(VERSION) "$$(sed -n 's/^Maintainer: //p' debian/control)" "$$(date -R)" \
	    > $(DEB)/stasis-$(VERSION)/debian/changelog
	@cd $(DEB)/stasis-$(VERSION) && env -u MAKEFLAGS -u B -u SAN dpkg-buildpackage -b -us -uc -j$(JOBS) > ../build.log 2>&1 || \
	    { tail -n 30 ../build.log >&2; exit 1; }
	@rm -rf $(DEB)/stasis-$(VERSION)
	@ls $(DEB)/*.deb

SOURCES := $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h' 2>/dev/null)
format:
	$(Q)clang-format -i $(SOURCES)
format-check:
	$(Q)clang-format --dry-run -Werror $(SOURCES)

clean:
	rm -rf build build-san

-include $(shell find $(B) -name '*.d' 2>/dev/null)
