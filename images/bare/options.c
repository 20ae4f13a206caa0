/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's parameters, from the kernel command line (-append "set=64M pattern=random").
 *
 * The first word is the path of the kernel as QEMU passes it: words without '=' are left out. An
 * unknown word is an error, not ignored: a test with a misspelt parameter must not pass.
 */
#include "guest.h"

Options options = {
    .set_bytes = 32 * MIB,
    .base = 16 * MIB,
    .fill = GUEST_FILL_TEXT,
    .work = 64,
    .report_ms = 1000,
    .poll_us = 1000,
};

static bool word_is(const char *a, size_t n, const char *b)
{
    size_t i = 0;

    while (i < n && b[i] != '\0' && a[i] == b[i])
        i++;
    return i == n && b[i] == '\0';
}

static bool parse_number(const char *s, size_t n, uint64_t *ret)
{
    uint64_t value = 0;
    size_t i = 0;

    for (; i < n && s[i] >= '0' && s[i] <= '9'; i++)
        value = value * 10 + (uint64_t)(s[i] - '0');
    if (i == 0)
        return false;
    if (i + 1 == n) {
        switch (s[i++]) {
        case 'K':
            value <<= 10;
            break;
        case 'M':
            value <<= 20;
            break;
        case 'G':
            value <<= 30;
            break;
        default:
            return false;
        }
    }
    *ret = value;
    return i == n;
}

/* The position of the value in a list of names that ends with NULL. */
static bool parse_choice(const char *s, size_t n, const char *const *names, uint64_t *ret)
{
    for (uint64_t i = 0; names[i] != NULL; i++) {
        if (word_is(s, n, names[i])) {
            *ret = i;
            return true;
        }
    }
    return false;
}

static bool parse_word(const char *key, size_t key_n, const char *value, size_t value_n)
{
    static const char *const patterns[] = { "seq", "random", "sparse", NULL };
    static const char *const fills[] = { "zero", "text", "random", NULL };
    static const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {
        { "set", &options.set_bytes },
        { "base", &options.base },
        { "rate", &options.rate },
        { "touch", &options.touch_bytes },
        { "period", &options.period_us },
        { "work", &options.work },
        { "deadline", &options.deadline_us },
        { "report", &options.report_ms },
        { "poll", &options.poll_us },
        { "tsc_khz", &options.tsc_khz },
        { "send", &options.send_us },
        { "idle", &options.idle_ms },
    };
    uint64_t check;

    if (word_is(key, key_n, "pattern"))
        return parse_choice(value, value_n, patterns, &options.pattern);
    if (word_is(key, key_n, "fill"))
        return parse_choice(value, value_n, fills, &options.fill);
    if (word_is(key, key_n, "check")) {
        if (!parse_number(value, value_n, &check))
            return false;
        options.check = check != 0;
        return true;
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (word_is(key, key_n, numbers[i].name))
            return parse_number(value, value_n, numbers[i].value);
    }
    return false;
}

bool options_parse(const char *text)
{
    while (*text != '\0') {
        const char *word = text, *equals = NULL;

        while (*text != '\0' && *text != ' ') {
            if (*text == '=' && equals == NULL)
                equals = text;
            text++;
        }
        if (equals != NULL &&
            !parse_word(word, (size_t)(equals - word), equals + 1, (size_t)(text - equals - 1))) {
            print("ERROR parameter not understood, from here: %s\n", word);
            return false;
        }
        while (*text == ' ')
            text++;
    }
    return true;
}
