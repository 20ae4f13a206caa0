/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sealed stores: making keys and stores, and changing a store's keys. */
#include <stdio.h>

#include "output.h"

static const char *or_none(const char *id)
{
    return id[0] != '\0' ? id : NULL;
}

static void show_keys(CliCall *call, const char *name, const char *path, const StasisKeyIds *keys)
{
    if (call->json) {
        JsonObject *object = json_object_new();
        cli_json_set_string(object, name, path);
        cli_json_set_string(object, "encrypt", or_none(keys->encrypt));
        cli_json_set_string(object, "sign", or_none(keys->sign));
        cli_take_object(call, object);
        return;
    }
    printf("%s\n", path);
    if (keys->encrypt[0] != '\0')
        printf("  encrypts with key %s\n", keys->encrypt);
    if (keys->sign[0] != '\0')
        printf("  signs with key %s\n", keys->sign);
}

static StasisSealFlags asked_for(const CliCall *call)
{
    return (cli_flag(call, "encrypt") ? STASIS_SEAL_ENCRYPT : 0) |
           (cli_flag(call, "sign") ? STASIS_SEAL_SIGN : 0);
}

/* ---- store-init ---- */

static gboolean init(CliCall *call, GError **error)
{
    const char *path = call->args[0] != NULL ? call->args[0] : cli_text(call, "store");
    g_autoptr(StasisStore) store = stasis_store_init(path, asked_for(call), error);
    if (store == NULL)
        return FALSE;
    StasisKeyIds keys = stasis_store_get_keys(store);
    show_keys(call, "store", stasis_store_get_path(store), &keys);
    return TRUE;
}

static const CliArgument init_arguments[] = {
    { "DIR", CLI_OPTIONAL, CLI_DIR, "where (default: as --store says)" },
    { NULL },
};
static const CliOption seal_options[] = {
    { "encrypt", 0, CLI_FLAG, NULL, "with a key that encrypts" },
    { "sign", 0, CLI_FLAG, NULL, "with a key that signs" },
    { NULL },
};
static const CliExample init_examples[] = {
    { "store-init /srv/images --encrypt --sign --key-file /etc/stasis/images.key",
      "Make a store whose images are encrypted and signed" },
    { NULL },
};
const CliCommand cli_cmd_store_init = {
    .group = "store",
    .name = "store-init",
    .summary = "make a store, sealed if you want",
    .description =
        "Make an empty store. With --encrypt all that its images hold (memory, disks, device "
        "state, processes) is encrypted, and what they say of themselves is authenticated; with "
        "--sign each image is signed, and who has only the public key can check that. The keys "
        "are the first of their kind in the files that --key-file or $STASIS_KEY_FILE names; "
        "store-key-generate makes them. From then on each command that uses the store's images "
        "needs the key file; listing, comparing with checksums (checkpoint-verify, store-check) "
        "and deleting what no other image needs do without.\n\n"
        "An image that is not sealed as its store is, or was changed by somebody who has not "
        "the key, is refused before anything of it is used. Names (of processes, too), notes, "
        "times and sizes can be seen without a key, and which pages are zero or unchanged. "
        "Whoever can write to the store can still delete images; name images by their ID, not "
        "\"latest\", where that matters.\n\n"
        "What is derived from images (memory that clones share, disks of restored VMs) is kept "
        "in /dev/shm and not in the store; --disk-dir puts a VM's disks elsewhere, not "
        "encrypted. What export, proc-export, file-copy-out and bundle-export write besides "
        "images is not encrypted. A store that is there already can't be sealed.",
    .arguments = init_arguments,
    .options = seal_options,
    .examples = init_examples,
    .handler = init,
};

/* ---- store-key-generate ---- */

static gboolean generate(CliCall *call, GError **error)
{
    StasisSealFlags what = asked_for(call);
    StasisKeyIds keys;
    if (!stasis_key_generate(
            call->args[0], what != 0 ? what : STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &keys, error))
        return FALSE;
    show_keys(call, "file", call->args[0], &keys);
    return TRUE;
}

static const CliArgument generate_arguments[] = {
    { "FILE", CLI_ONE, CLI_FILE, "where to write it; must not be there yet" },
    { NULL },
};
static const CliExample generate_examples[] = {
    { "store-key-generate /etc/stasis/images.key", "Make a key file for store-init" },
    { NULL },
};
const CliCommand cli_cmd_store_key_generate = {
    .group = "store",
    .name = "store-key-generate",
    .summary = "make a key file for sealed stores",
    .description =
        "Make a file with new random keys, one that encrypts and one that signs, or those that are "
        "asked for. The file can be read by its owner alone, and is refused later if others can. "
        "Keep a copy of it apart from the store: without it encrypted images are lost. With a key "
        "that signs, FILE.pub gets the public one, for those who are to check images and not make "
        "them.",
    .arguments = generate_arguments,
    .options = seal_options,
    .examples = generate_examples,
    .handler = generate,
};

/* ---- store-rekey ---- */

static gboolean rekey(CliCall *call, GError **error)
{
    StasisKeyIds keys;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    if (store == NULL || !stasis_store_rekey(store, &keys, error))
        return FALSE;
    show_keys(call, "store", stasis_store_get_path(store), &keys);
    return TRUE;
}

static const CliExample rekey_examples[] = {
    { "store-rekey --key-file new.key:old.key", "New images are sealed with the keys of new.key" },
    { NULL },
};
const CliCommand cli_cmd_store_rekey = {
    .group = "store",
    .name = "store-rekey",
    .summary = "seal new images of a store with other keys",
    .description =
        "Let new images be sealed with the first keys of the files that --key-file names, which "
        "must also name the present ones. Images that are there stay as they are and need their "
        "own keys: name both files until they are gone (store-prune). The next image of each VM "
        "must be a full one (checkpoint-create --full).",
    .examples = rekey_examples,
    .handler = rekey,
};
